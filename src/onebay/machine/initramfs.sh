#!/bin/sh
# Runs in the new root: makes /boot/onebay.initrd from static busybox, the file /onebay/init, the kernel modules
# named in /onebay/modules (with what they need), and the programs named in /onebay/programs (with libraries).
set -eu
kernel=$(ls /boot/vmlinuz-* | sort -V | tail -n 1)
version=${kernel#/boot/vmlinuz-}
tree=$(mktemp -d)
mkdir -p "$tree/bin" "$tree/dev" "$tree/proc" "$tree/sys" "$tree/run" "$tree/root" "$tree/etc" "$tree/tmp"
cp /bin/busybox "$tree/bin/busybox"
"$tree/bin/busybox" --list | while read -r name; do
    [ "$name" = busybox ] || ln -s busybox "$tree/bin/$name"
done
cp /onebay/init "$tree/init"
chmod 755 "$tree/init"

# modules in the order in which they load; the kernel's own insmod order is what modprobe prints
: > "$tree/etc/modules"
mkdir -p "$tree/modules"
# shellcheck disable=SC2013
for module in $(cat /onebay/modules); do
    modprobe -S "$version" --show-depends "$module" 2>/dev/null | while read -r verb path _; do
        [ "$verb" = insmod ] || continue
        name=$(basename "$path")
        if [ ! -e "$tree/modules/${name%.xz}" ]; then
            case $path in
                *.xz) xz -dc "$path" > "$tree/modules/${name%.xz}" ;;
                *) cp "$path" "$tree/modules/$name" ;;
            esac
            echo "${name%.xz}" >> "$tree/etc/modules"
        fi
    done
done

if [ -e /onebay/programs ]; then
    # shellcheck disable=SC2013
    for program in $(cat /onebay/programs); do
        cp "$(command -v "$program")" "$tree/bin/"
        ldd "$(command -v "$program")" | grep -o '/[^ ]*' | while read -r library; do
            mkdir -p "$tree$(dirname "$library")"
            cp -L "$library" "$tree$library"
        done
    done
fi
(cd "$tree" && find . | sort | /bin/busybox cpio -o -H newc 2>/dev/null) > /boot/onebay.cpio
gzip -9 -n < /boot/onebay.cpio > /boot/onebay.initrd
cp "$kernel" /boot/onebay.vmlinuz
rm -rf "$tree"
