#!/bin/sh
# Make the golden MBR disks with sfdisk, and expected.json with what `sfdisk -J` says of them. Needs root for the
# loop device with 4096-byte sectors. The folder for the results is the only argument.
set -eu
out=$1
work=$(mktemp -d)
cd "$work"

disk() { # name: boot code first, so that a test sees it survive
    truncate -s 64M "$1.img"
    yes 'boot code ' | head -c 440 | dd of="$1.img" conv=notrunc status=none
}

disk primary
sfdisk -q primary.img <<'END'
label: dos
label-id: 0x12345678
start=2048, size=8192, type=fd, bootable
start=10240, size=4096, type=82
start=32768, size=65536, type=83
END

disk chain
sfdisk -q chain.img <<'END'
label: dos
label-id: 0xcafe0001
start=2048, size=8192, type=c
start=16384, size=98304, type=f
start=18432, size=8192, type=fd
start=30720, size=8192, type=8e
start=65536, size=8192, type=83
END

# The first logical partition removed: its boot record stays, without data, and the others move up.
cp chain.img hole.img
sfdisk -q --delete hole.img 5

# Made last but first on the disk: the chain is not in the order of the disk.
disk order
sfdisk -q order.img <<'END'
label: dos
label-id: 0xcafe0002
start=16384, size=98304, type=5
start=65536, size=8192, type=83
start=18432, size=8192, type=fd
END

disk empty
echo 'label: dos
label-id: 0xcafe0003' | sfdisk -q empty.img

disk sector4096
loop=$(losetup -b 4096 -f --show sector4096.img)
sfdisk -q "$loop" <<'END'
label: dos
label-id: 0xcafe0004
start=256, size=1024, type=fd, bootable
start=2048, size=12288, type=f
start=2560, size=1024, type=fd
start=4096, size=2048, type=83
END
{
    echo '{'
    for name in primary chain hole order empty; do
        echo "\"$name\": $(sfdisk -J "$name.img"),"
    done
    echo "\"sector4096\": $(sfdisk -J "$loop")"
    echo '}'
} > "$out/expected.json"
losetup -d "$loop"
for name in primary chain hole order empty sector4096; do
    zstd -q -19 -f "$name.img" -o "$out/$name.img.zst"
done
rm -r "$work"
