#!/bin/sh
# Make the FAT images and expected.json with dosfstools, mtools and blkid. Needs no root.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export MTOOLS_SKIP_CHECK=1 LC_ALL=C.UTF-8

make() { # name size arguments of mkfs.fat
    name=$1 size=$2
    shift 2
    truncate -s "$size" "$name.img"
    mkfs.fat --invariant "$@" "$name.img" >/dev/null
}

fill() { # name: folders, long names, holes between files, a fragmented file
    img=$1.img
    seq 1 20000 >loader
    mmd -i "$img" ::/EFI ::/EFI/BOOT ::/grub
    for number in $(seq 1 40); do
        seq "$number" 1500 >part
        mcopy -i "$img" part "::/grub/part-$number of a longer name.mod"
    done
    for number in $(seq 1 2 40); do mdel -i "$img" "::/grub/part-$number of a longer name.mod"; done
    mcopy -i "$img" loader ::/EFI/BOOT/BOOTX64.EFI
    mcopy -i "$img" part "::/Ünïcode, and longer than thirteen.cfg"
    : >empty
    mcopy -i "$img" empty ::/EMPTY.TXT
    mcopy -i "$img" part ::/lower.cfg
}

make fat12 4M -F 12 -s 4 -n LABEL12 -i 1234abcd && fill fat12
make fat16 32M -F 16 -s 4 -n LABEL16 -i 0000abcd && fill fat16
make fat32 36M -F 32 -s 1 -n LABEL32 -i deadbeef && fill fat32
make fat32-4k 280M -F 32 -S 4096 -s 1 -n BIGSECTOR -i 12345678 && fill fat32-4k
make nolabel 2M -F 12 -i 00000001
make one-fat 16M -F 16 -f 1 -i 00000002 && fill one-fat

seq 1000 1010 >bad
make bad 16M -F 16 -s 4 -l bad -i 00000003 && fill bad

# a dirty flag: Linux sets bit 0 of byte 37 (FAT16) while mounted
cp fat16.img dirty.img
printf '\001' | dd of=dirty.img bs=1 seek=37 conv=notrunc status=none
# the second FAT has one cluster more than the first (FAT 1 starts at sector 4, or where fsck.fat says)
cp fat16.img mirror.img
python3 - <<'PYTHON'
import re, subprocess
said = subprocess.run(["fsck.fat", "-n", "-v", "fat16.img"], capture_output=True, text=True).stdout
first = int(re.search(r"First FAT starts at byte (\d+)", said)[1])
size = int(re.search(r"(\d+) bytes per FAT", said)[1])
with open("mirror.img", "r+b") as image:
    image.seek(first + size + 2 * 7000)
    image.write(b"\xff\xff")
PYTHON

python3 "$here/make_expected.py" "$work" >"$here/expected.json"
for image in *.img; do
    zstd -q -19 --long=27 -f "$image" -o "$here/$image.zst"
done
