#!/bin/bash
# nas-storage: the appliance's own storage manager.
#
#   nas-storage list
#   nas-storage delete         the volume goes, and the data partition with it
#   nas-storage create KIND    basic-btrfs basic-ext4 lvm-btrfs lvm-ext4: a new one that fills the disk up to the tail
#
# It knows its own layout and nothing else. Every change writes the whole partition table anew: p1 and p2 where they
# are, the data partition, no entry of anybody else, no boot code. The running system stands on p1 and p2, so the
# kernel is told of the other partitions one by one. Positions are in sectors of 512 bytes.
set -eu -o pipefail
export LC_ALL=C.UTF-8
volume=/volume1
tail=204800
group=vg1

fail() {
    echo "nas-storage: $*"
    exit 1
}

# which disk: the one that the system's array lies on
member=$(basename /sys/block/md0/slaves/*)
disk=$(basename "$(dirname "$(readlink -f "/sys/class/block/$member")")")
[ -b "/dev/$disk" ] || fail "the system's disk is not found"
case $disk in
    *[0-9]) part=${disk}p ;;
    *) part=$disk ;;
esac
unit=$(($(cat "/sys/block/$disk/queue/logical_block_size") / 512))
number_of() { cat "/sys/class/block/$part$1/$2"; }
case "$(number_of 1 start) $(number_of 1 size) $(number_of 2 start) $(number_of 2 size)" in
    "2048 4980480 4982528 4194304") data=9437184 ;;
    "8192 16777216 16785408 4194304") data=21241856 ;;
    *) fail "the partitions of /dev/$disk are not in this layout" ;;
esac

# The array of the volume; nothing where there is none.
array() {
    for path in /sys/block/md*/slaves/"$part"[3-9]; do
        [ ! -e "$path" ] || basename "$(dirname "$(dirname "$path")")"
    done
}

# what udev does with a device that was just closed or made would be in the way; a minimal system has no udev
settle() { udevadm settle 2> /dev/null || true; }

# entry NUMBER START SIZE: one line for sfdisk
entry() { echo "$1: start=$(($2 / unit)), size=$(($3 / unit)), type=$type"; }

# write_table [SIZE]: own entries only; with SIZE a data partition of that size
write_table() {
    local label type number
    label=$(blkid -p -s PTTYPE -o value "/dev/$disk")
    type=fd
    [ "$label" = dos ] || type=A19D880F-05FC-4D3B-A006-743F0F84911E
    {
        echo "label: $label"
        entry 1 "$(number_of 1 start)" "$(number_of 1 size)"
        entry 2 "$(number_of 2 start)" "$(number_of 2 size)"
        [ $# = 0 ] || entry 3 $data "$1"
    } | sfdisk --quiet --color=never --no-reread --no-tell-kernel --wipe never --wipe-partitions never "/dev/$disk" > /dev/null
    dd if=/dev/zero of="/dev/$disk" bs=440 count=1 conv=notrunc,fsync status=none
    settle
    for number in $(cat "/sys/block/$disk/$part"*/partition); do
        [ "$number" -le 2 ] || partx --delete --nr "$number" "/dev/$disk"
    done
    [ $# = 0 ] || partx --add --nr 3 "/dev/$disk"
    settle
}

# fstab [SOURCE]: mount SOURCE on the volume's place at the next boot, or nothing
fstab() {
    sed -i "\\, $volume ,d" /etc/fstab
    [ $# = 0 ] || echo "$1 $volume auto defaults,noatime 0 0" >> /etc/fstab
    systemctl daemon-reload 2> /dev/null || true
}

delete() {
    local name members found
    name=$(array)
    [ -n "$name" ] || fail "there is no volume"
    ! mountpoint -q $volume || umount $volume || fail "the volume is in use"
    fstab
    for found in $(pvs --noheadings -o vg_name "/dev/$name" 2> /dev/null); do
        vgremove -q -f -y "$found"
        pvremove -q -y "/dev/$name"
    done
    wipefs --all --quiet "/dev/$name"
    members=$(basename -a "/sys/block/$name/slaves/"*)
    settle
    mdadm --stop --quiet "/dev/$name"
    for found in $members; do mdadm --zero-superblock "/dev/$found"; done
    settle
    write_table
    echo "the volume is deleted"
}

create() {
    local size target=/dev/md2 uuid
    case $1 in basic-btrfs | basic-ext4 | lvm-btrfs | lvm-ext4) ;; *) fail "unknown kind of volume: $1" ;; esac
    [ -z "$(array)" ] || fail "there is a volume already"
    size=$((($(cat "/sys/block/$disk/size") - tail - data) / 2048 * 2048))
    [ $size -gt 524288 ] || fail "the disk is too small"
    write_table $size
    wipefs --all --quiet "/dev/${part}3"
    settle
    mdadm --create /dev/md2 --run --quiet --metadata=1.2 --level=1 --bitmap=none --raid-devices=1 --force \
        --homehost=NAS --name=2 --data-offset=1M "/dev/${part}3"
    settle
    wipefs --all --quiet /dev/md2
    case $1 in lvm-*)
        pvcreate -q -y /dev/md2
        vgcreate -q $group /dev/md2
        lvcreate -q -y -W y -L 12M -n syno_vg_reserved_area $group
        lvcreate -q -y -W y -l 100%FREE -n volume_1 $group
        target=/dev/$group/volume_1
        ;;
    esac
    case $1 in
        *-btrfs) mkfs.btrfs -q -f -L "$(date +%Y.%m.%d-%H:%M:%S) v42962" $target ;;
        *) mkfs.ext4 -q -F -L "1.44.1-42962" $target ;;
    esac
    uuid=$(blkid -p -s UUID -o value $target)
    fstab "UUID=$uuid"
    mount "UUID=$uuid" $volume
    (cd $volume && fill)
    sync
    echo "the volume is made: $1"
    list
}

# A few files, and the lists by which onebay-manifest checks them.
fill() {
    local number
    mkdir photo manifest
    for number in $(seq 40); do
        head -c $((number * 7919)) /dev/urandom > "photo/picture $number.jpg"
    done
    ln "photo/picture 1.jpg" photo/cover.jpg
    printf 'photo/picture 1.jpg\tphoto/cover.jpg\n' > manifest/links
    setfattr -n user.onebay -v new "photo/picture 2.jpg"
    echo "photo/picture 2.jpg" > manifest/tagged
    xargs -d '\n' getfattr -d -m '^user\.' -- < manifest/tagged > manifest/xattrs
    echo begin > photo/sparse
    truncate -s 1M photo/sparse
    echo photo/sparse > manifest/holes
    : > manifest/snapshots
    find . -type f ! -path './manifest/*' -print0 | sort -z | xargs -0 sha256sum -- > manifest/sha256
}

list() {
    if ! mountpoint -q $volume; then
        echo "no volume"
        return
    fi
    findmnt --noheadings --bytes --output TARGET,SOURCE,FSTYPE,SIZE,USED $volume
    echo "files=$(wc -l < $volume/manifest/sha256)"
}

case "${1:-} $#" in
    "list 1" | "delete 1") $1 ;;
    "create 2") create "$2" ;;
    *) fail "list, delete, or create KIND" ;;
esac
