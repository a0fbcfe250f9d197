#!/bin/sh
# Make the XFS images and expected.json with xfsprogs and this kernel's XFS. Needs root and a loop device.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'umount "$work/mnt" 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"
mkdir mnt
# mkfs.xfs makes file systems below 300 MB only for its own tests
export TEST_DIR=1 TEST_DEV=1 QA_CHECK_FS=1

make() { # name size arguments of mkfs.xfs
    name=$1 size=$2
    shift 2
    truncate -s "$size" "$name.img"
    mkfs.xfs -q "$@" "$name.img"
}

use() { # name, number of files: many small holes in free space, folders, then a clean unmount
    mount -o loop "$1.img" mnt
    seq 1 3000 >seed
for number in $(seq 1 "$2"); do cp seed "mnt/file-$number"; done
    sync
for number in $(seq 1 2 "$2"); do rm "mnt/file-$number"; done
    mkdir mnt/folder
for number in $(seq 1 200); do echo "$number" >"mnt/folder/$number"; done
    sync
    [ -z "${3:-}" ] || cp --sparse=always "$1.img" "$3.img"
    umount mnt
}

make v5 64M -L fivefold -m uuid=11111111-2222-3333-4444-555555555555
use v5 120 dirty
make rmap-8-groups 160M -d agcount=8 -m rmapbt=1,reflink=1,bigtime=1
use rmap-8-groups 120
make small-blocks 96M -b size=1024 -d agcount=2
use small-blocks 700
make sector4096 64M -s size=4096
use sector4096 60
make striped-log 128M -l su=64k,size=8m -d agcount=2
use striped-log 60
make log-many-passes 64M -l size=6m -d agcount=2
mount -o loop log-many-passes.img mnt
for number in $(seq 1 400); do
    for name in $(seq 1 25); do : >"mnt/$name"; done
    sync
    rm mnt/*
    sync
done
umount mnt
truncate -s 64M meta-uuid.img
mkfs.xfs -q -L other meta-uuid.img
xfs_admin -U 99999999-8888-7777-6666-555555555555 meta-uuid.img >/dev/null

# version 4 can only be made here, not mounted: its files come from a prototype
{
    echo "/boot"
    echo "1 1"
    echo "d--755 0 0"
for number in $(seq 1 30); do echo "file-$number ---644 0 0 $work/seed"; done
    echo "\$"
} >prototype
make v4 64M -m crc=0 -L four -p prototype
make v4-log1 64M -m crc=0 -l version=1 -p prototype
truncate -s 64M external.img
truncate -s 16M journal
mkfs.xfs -q -l logdev=journal,size=10m external.img
rm journal

python3 "$here/make_expected.py" "$work" >"$here/expected.json"
for image in *.img; do
    zstd -q -19 --long=27 -f "$image" -o "$here/$image.zst"
done
