#!/bin/busybox sh
# The appliance's installer, in the ramdisk. As a command: "start" brings up the network and the page on port 5000,
# "stop" ends both. As the page's CGI program: GET shows what it would do, GET ?progress what it does; POST of a
# package installs it. The status is 400 where the package is bad, 409 where the disks are not fit, 500 for error 13.
#
# Like the real one it wants two disks, and writes the package's kernel and ramdisk to the boot disk's second
# partition before it touches the data disk. Positions are in sectors of 512 bytes.
set -u -o pipefail
export PATH=/bin:/sbin
model=onebay_sample_nas
package=/tmp/nas.pat boot=/tmp/boot system=/root

start() {
    mount -t tmpfs -o size=75% tmp /tmp
    mkdir -p $boot /www/cgi-bin
    ln -s /bin/nas-installer /www/cgi-bin/index.cgi
    ip link set lo up
    for path in /sys/class/net/*; do
        name=${path##*/}
        [ "$name" != lo ] || continue
        ip link set "$name" up
        udhcpc -i "$name" -s /bin/nas-dhcp -b -q -t 5 > /dev/null 2>&1
    done
    httpd -p 5000 -h /www
    for address in $(ip -4 -o address show scope global | sed 's/.*inet \([^ /]*\).*/\1/'); do
        echo "nas: the installer's page is http://$address:5000/"
    done
    echo "nas: the installer is ready"
}

stop() {
    killall httpd 2>/dev/null
    umount /tmp
}

say() {
    echo "nas: installer: $*" > /dev/console
    echo "$*" >> /run/progress
}

answer() {
    printf 'Status: %s\r\nContent-Type: %s; charset=utf-8\r\nCache-Control: no-store\r\n\r\n' "$1" "$2"
}

# fail STATUS TEXT: nothing more is done, and another package may come
fail() {
    status=$1
    shift
    say "$*"
    umount $boot 2>/dev/null
    umount $system 2>/dev/null
    rm -rf /run/installing $package /tmp/part.*
    answer "$status" text/plain
    echo "$*"
    exit
}

# which layout: the boot disk's menu says so
layout=$(sed -n 's/.*nas.layout=\([^ ]*\).*/\1/p' /proc/cmdline)
case $layout in
    v9-*) label=gpt type=A19D880F-05FC-4D3B-A006-743F0F84911E slots=16 places="8192 16777216 16785408 4194304" ;;
    *) label=dos type=fd slots=12 places="2048 4980480 4982528 4194304" ;;
esac
# shellcheck disable=SC2086 # four numbers
set -- $places "$@"
p1_start=$1 p1_size=$2 p2_start=$3 p2_size=$4
shift 4

# the boot disk's second partition; nothing where there is none, as on a CD
second() { findfs LABEL=NASBOOT2 2>/dev/null; }

# disk_of PARTITION
disk_of() { basename "$(dirname "$(readlink -f "/sys/class/block/$(basename "$1")")")"; }

# the data disk: the first one that is not the boot disk and has room for the system
data_disk() {
    own=$(second) && own=$(disk_of "$own")
    for path in /sys/block/sd* /sys/block/vd* /sys/block/nvme*; do
        name=${path##*/}
        [ -e "$path/size" ] && [ "$name" != "$own" ] || continue
        [ "$(cat "$path/size")" -gt $((p2_start + p2_size + 204800)) ] || continue
        echo "$name"
        return
    done
    return 1
}

receive() {
    room=$(df -k /tmp | awk 'NR == 2 {print int($4 * 9 / 10)}')
    [ $((CONTENT_LENGTH / 1024)) -lt "$room" ] ||
        fail "400 Bad Request" "the package is too large: it has $CONTENT_LENGTH bytes, the memory holds $room KiB"
    say "receiving $CONTENT_LENGTH bytes"
    head -c "$CONTENT_LENGTH" > $package
    [ "$(stat -c %s $package)" = "$CONTENT_LENGTH" ] || fail "400 Bad Request" "the package was cut short"
}

verify() {
    say "verifying the package"
    tar -xf $package -C /tmp VERSION SHA256SUMS 2>/dev/null ||
        fail "400 Bad Request" "this is no package: it has no VERSION and no SHA256SUMS"
    found=$(sed -n 's/^unique="\(.*\)"$/\1/p' /tmp/VERSION)
    [ "$found" = $model ] || fail "400 Bad Request" "the package is for another model: $found, not $model"
    for name in zImage rd.gz hda1.tgz; do
        sum=$(sed -n "s/ [ *]$name\$//p" /tmp/SHA256SUMS)
        [ "$(tar -xOf $package $name 2>/dev/null | sha256sum | cut -d' ' -f1)" = "$sum" ] ||
            fail "400 Bad Request" "the checksum of $name is wrong"
    done
}

# corrupt WHY: what the real one says whenever the boot disk cannot be written
corrupt() { fail "500 Internal Server Error" "the file is probably corrupt (13): $*"; }

write_boot() {
    say "writing kernel and ramdisk to the boot disk"
    device=$(second) || corrupt "there is no boot disk that can be written"
    mount -t ext4 "$device" $boot || corrupt "$device cannot be mounted"
    for name in zImage rd.gz VERSION; do
        { tar -xOf $package $name > "$boot/$name.new" && sync && mv "$boot/$name.new" "$boot/$name"; } 2>/dev/null ||
            corrupt "$name cannot be written to $device"
    done
    umount $boot || corrupt "$device cannot be unmounted"
}

# line NUMBER START SIZE: for sfdisk, which counts in the disk's own sectors
line() { echo "$1: start=$(($2 / unit)), size=$(($3 / unit)), type=$type"; }

write_data() {
    disk=$(data_disk) || fail "409 Conflict" "there is no disk with room for the system"
    part=$disk
    case $disk in *[0-9]) part=${disk}p ;; esac
    say "partitioning /dev/$disk as layout $layout"
    unit=$(($(cat "/sys/block/$disk/queue/logical_block_size") / 512))
    for array in /dev/md[0-9]*; do
        [ ! -b "$array" ] || mdadm --stop --quiet "$array"
    done
    {
        echo "label: $label"
        line 1 "$p1_start" "$p1_size"
        line 2 "$p2_start" "$p2_size"
    } | sfdisk --quiet --color=never --wipe always --wipe-partitions always "/dev/$disk" > /dev/null ||
        fail "409 Conflict" "/dev/$disk cannot be partitioned"
    missing=$(seq $((slots - 1)) | sed 's/.*/missing/')
    # shellcheck disable=SC2086 # a list
    for number in 0 1; do
        mdadm --zero-superblock --quiet "/dev/$part$((number + 1))" 2>/dev/null
        mdadm --create "/dev/md$number" --run --quiet --metadata=0.90 --level=1 --bitmap=none \
            --raid-devices=$slots "/dev/$part$((number + 1))" $missing ||
            fail "409 Conflict" "md$number cannot be made on /dev/$disk"
    done
    say "unpacking the system"
    uuid=$(cat /proc/sys/kernel/random/uuid)
    mkfs.ext4 -q -F -U "$uuid" -L 1.44.1-42218 /dev/md0 && mkswap /dev/md1 > /dev/null &&
        mount -t ext4 /dev/md0 $system || fail "409 Conflict" "no file system on md0"
    tar -xOf $package hda1.tgz | gunzip |
        gtar --extract --directory=$system --xattrs --xattrs-include='*' --numeric-owner ||
        fail "409 Conflict" "the system cannot be unpacked"
    printf 'UUID=%s / ext4 defaults,noatime 0 0\n/dev/md1 none swap nofail 0 0\n' "$uuid" > $system/etc/fstab
    sync
    echo "$layout" > $system/etc/onebay-layout
    umount $system || fail "409 Conflict" "md0 cannot be unmounted"
    for number in 0 1; do mdadm --stop --quiet /dev/md$number; done
    sync
}

install() {
    mkdir /run/installing 2>/dev/null || {
        answer "409 Conflict" text/plain
        echo "an installation is going on"
        exit
    }
    : > /run/progress
    receive
    verify
    write_boot
    write_data
    say "installed; the appliance restarts"
    answer "200 OK" text/plain
    echo "installed; the appliance restarts"
    (sleep 2 && reboot -f) < /dev/null > /dev/null 2>&1 &
}

page() {
    answer "200 OK" text/html
    target="none with room for the system"
    if disk=$(data_disk); then
        target="/dev/$disk, $(($(cat "/sys/block/$disk/size") / 2097152)) GiB"
    fi
    cat << END
<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Install the NAS</title>
<style>body{font:1.1em sans-serif;max-width:40em;margin:2em auto;padding:0 1em}pre{background:#eee;padding:1em}</style>
<h1>Install the NAS</h1>
<p>Model <b>$model</b>, layout <b>$layout</b>.
<p>Data disk: <b>$target</b>. All that is on it will be lost.
<p>Boot disk: <b>$(second || echo "none that can be written")</b>
<form><label>Package (.pat): <input type="file" id="file"></label> <button id="go">Install</button></form>
<pre id="said" role="status">$(cat /run/progress 2>/dev/null)</pre>
<script>
const said = document.getElementById("said");
let timer;
const ask = async () => {
    const answer = await fetch("/cgi-bin/index.cgi?progress");
    said.textContent = await answer.text();
};
document.getElementById("go").onclick = async event => {
    event.preventDefault();
    const file = document.getElementById("file").files[0];
    if (!file) return;
    timer = setInterval(() => ask().catch(() => {}), 2000);
    const answer = await fetch("/cgi-bin/index.cgi", {method: "POST", body: file});
    clearInterval(timer);
    said.textContent = (answer.ok ? "" : "Failed: ") + await answer.text();
};
</script>
END
}

case "${1:-} ${REQUEST_METHOD:-} ${QUERY_STRING:-}" in
    "start  ") start ;;
    "stop  ") stop ;;
    " POST "*) install ;;
    " GET progress")
        answer "200 OK" text/plain
        cat /run/progress 2>/dev/null
        ;;
    *) page ;;
esac
