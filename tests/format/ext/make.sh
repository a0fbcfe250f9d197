#!/bin/sh
# Make the ext2/3/4 images and expected.json with mke2fs, debugfs and dumpe2fs. Needs no root.
# Free space is dirty: every image is full of text before mke2fs, and files are removed again.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export LC_ALL=C.UTF-8 PATH="$PATH:/usr/sbin:/sbin"

seq 1 5000 >text
mkdir -p tree/a tree/b/c
for number in $(seq 1 60); do head -c "$((number * 700))" text >"tree/a/file-$number"; done
ln -s ../a/file-1 tree/b/link
ln tree/a/file-2 tree/b/c/hard
truncate -s 3M tree/b/sparse
printf 'end' >>tree/b/sparse

make() { # name size arguments of mke2fs
    name=$1 size=$2
    shift 2
    yes "deleted data, dirty space" | head -c "$size" >"$name.img"
    mke2fs -q -F -E nodiscard,hash_seed=00000000-0000-4000-8000-000000000001 \
        -U 11111111-2222-4333-8444-555555555555 -d tree "$@" "$name.img"
    for number in $(seq 3 2 59); do echo "rm /a/file-$number"; done >commands
    debugfs -w -f commands "$name.img" >/dev/null 2>&1
    e2fsck -fn "$name.img" >/dev/null 2>&1
}

M=1048576
make ext2-revision-0 $((8 * M)) -t ext2 -r 0 -b 1024
make ext2-sparse-super $((34 * M)) -t ext2 -b 1024 -L "boot"
make ext3 $((24 * M)) -t ext3 -b 1024 -J size=1 -L "ext3 label"
make ext4 $((40 * M)) -t ext4 -b 4096 -J size=4 -L "1.44.1-42218"
make ext4-small-groups $((32 * M)) -t ext4 -b 1024 -g 1024 -J size=1
make ext4-32bit $((24 * M)) -t ext4 -b 1024 -O ^64bit,^flex_bg -J size=1
make ext4-crc16 $((40 * M)) -t ext4 -b 2048 -O ^metadata_csum,uninit_bg -J size=2
make ext4-bigalloc $((48 * M)) -t ext4 -b 1024 -O bigalloc -C 8192 -J size=1
make ext4-meta-bg $((40 * M)) -t ext4 -b 1024 -g 512 -O meta_bg,^resize_inode -J size=1
make ext4-sparse-super2 $((40 * M)) -t ext4 -b 1024 -O sparse_super2,^resize_inode -J size=1
make ext4-no-journal $((24 * M)) -t ext4 -b 1024 -O ^has_journal,metadata_csum_seed
make ext4-many-features $((24 * M)) -t ext4 -b 1024 -J size=1 \
    -O orphan_file,project,casefold,encrypt,verity,inline_data,ea_inode,large_dir,mmp

copy() { # name, commands of debugfs
    name=$1
    shift
    cp ext4.img "$name.img"
    for command in "$@"; do echo "$command"; done >commands
    debugfs -w -f commands "$name.img" >/dev/null 2>&1
}

copy needs-recovery "feature needs_recovery"
copy errors "ssv state 3"
copy not-clean "ssv state 0"
copy unknown-incompat "ssv feature_incompat 0x800002c2"
copy unknown-ro-compat "ssv feature_ro_compat 0x4000046b"
copy external-journal "ssv journal_inum 0" "ssv journal_dev 0x801"

# The same file system with one bit of a bitmap, a descriptor or the superblock flipped.
flip() { # name byte
    cp ext4.img "$1.img"
    python3 - "$1.img" "$2" <<'END'
import sys
with open(sys.argv[1], "r+b") as image:
    image.seek(int(sys.argv[2]))
    byte = image.read(1)[0]
    image.seek(int(sys.argv[2]))
    image.write(bytes([byte ^ 1]))
END
}
bitmap=$(dumpe2fs ext4.img 2>/dev/null | sed -n 's/^  Block bitmap at \([0-9]*\).*/\1/p' | head -n 1)
flip bad-bitmap $((bitmap * 4096 + 700))
flip bad-descriptor $((4096 + 12))
flip bad-superblock $((1024 + 0x88))
head -c $((30 * M)) ext4.img >cut-short.img

python3 "$here/make_expected.py" ./*.img >"$here/expected.json"
for image in *.img; do zstd -q -f -19 --long=27 "$image" -o "$here/$image.zst"; done
