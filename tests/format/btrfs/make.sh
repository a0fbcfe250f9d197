#!/bin/sh
# Make the golden btrfs images with btrfs-progs 6.14 or later and the kernel: run as root, in this folder, with
# the test environment's python3 (make_expected.py asks btrfs-progs what the images are).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'umount mnt 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"
mkdir mnt

fill() { # a little of everything, all of it compressible
    btrfs subvolume create mnt/sub
    mkdir mnt/sub/dir
    i=0
    while [ $i -lt 40 ]; do
        yes "file $i" | head -c $((i * i * 37)) > "mnt/sub/dir/$i"
        i=$((i + 1))
    done
    touch mnt/sub/packed
    btrfs property set mnt/sub/packed compression zstd
    yes "compress me" | head -c 500000 > mnt/sub/packed
    fallocate -l 1M mnt/prealloc
    truncate -s 10M mnt/holes
    yes "behind a hole" | head -c 10000 >> mnt/holes
    cp --reflink=always mnt/holes mnt/clone
    yes "changed" | head -c 5000 | dd of=mnt/clone bs=4096 seek=2560 conv=notrunc status=none
    sync mnt
    btrfs subvolume snapshot -r mnt/sub mnt/snap
    rm mnt/sub/dir/3?
}

make() { # name mkfs-options...
    name=$1
    shift
    truncate -s 256M "$name.img"
    mkfs.btrfs -q -L "golden $name" "$@" "$name.img"
    mount -o loop "$name.img" mnt
    fill
    umount mnt
}

make dup
make single-sha256 -m single -n 4k --csum sha256
make mixed-xxhash -M --csum xxhash
make nodes-64k-blake2 -n 64k --csum blake2
make block-group-tree -O block-group-tree
make simple-quota -O squota
make old -O ^skinny-metadata,^no-holes,^free-space-tree
make metadata-uuid
btrfstune -f -m metadata-uuid.img
make seed
btrfstune -f -S 1 seed.img

# Cut while mounted: what fsync wrote is in the log tree only.
make log
mount -o loop,commit=300 log.img mnt
yes logged | dd of=mnt/logged bs=100000 count=1 iflag=fullblock conv=fsync status=none
cp --sparse=always log.img cut.img
umount mnt
mv cut.img log.img

truncate -s 160M raid1.img second.img
first=$(losetup -f --show raid1.img) second=$(losetup -f --show second.img)
mkfs.btrfs -q -L "golden raid1" -m raid1 -d raid1 "$first" "$second"
losetup -d "$first" "$second"
rm second.img

python3 "$here/make_expected.py" ./*.img > "$here/expected.json"
for image in *.img; do
    zstd -q -19 -f "$image" -o "$here/$image.zst"
    rm "$image"
done

# File systems on several devices, of which one may have been removed: name.1.img and so on are in the order of
# the devids.
# shellcheck disable=SC2086 # names of loop devices have no spaces
pool() { # name removed mkfs-options...
    name=$1 removed=$2
    shift 2
    first='' devices=''
    for number in 1 2 3; do
        truncate -s $((128 + 32 * number))M "$name.$number.img"
        devices="$devices $(losetup -f --show "$name.$number.img")"
    done
    mkfs.btrfs -q -L "golden $name" "$@" $devices
    btrfs device scan $devices
    for device in $devices; do first=$device; done # the last one is never removed
    mount "$first" mnt
    fill
    if [ "$removed" != 0 ]; then
        btrfs device remove "$removed" mnt
        rm "$name.$removed.img"
    fi
    if [ "$name" = spread ]; then # the chunk tree on the last device alone
        btrfs balance start -f -s mnt
    fi
    umount mnt
    btrfs device scan --forget
    losetup -d $devices
}

pool mirror 2 -d raid1 -m raid1
pool mirror3 0 -d raid1 -m raid1c3
pool spread 1 -d single -m single
pool stripes 0 -d raid0 -m raid1

python3 "$here/make_expected.py" ./*.img > "$here/pools.json"
for image in *.img; do
    zstd -q -19 -f "$image" -o "$here/$image.zst"
done
