# The job that grows what only a kernel can: /dev/vdb is an overlay of the disk, /mnt/share/table says which of
# its sectors make up the volume, `kind` what is on it, /mnt/share/key opens it where it is LUKS.
# shellcheck shell=bash disable=SC2154 # kind is assigned by growth.py
set -eu -o pipefail
modprobe -a dm-mod xfs ext4 btrfs
dmsetup create target < /mnt/share/table
dmsetup mknodes
volume=/dev/mapper/target
if [ "$kind" = luks ]; then
    modprobe dm-crypt
    cryptsetup open --key-file /mnt/share/key "$volume" inside
    volume=/dev/mapper/inside
fi
# what is full already is not touched: each of these tools would write the time, or a higher number
short() { [ "$(($(blockdev --getsize64 "$volume") - $1))" -ge "$2" ]; }
if [ "$(blkid -p -s TYPE -o value "$volume")" = LVM2_member ]; then
    read -r start count extent < <(pvs --noheadings --units b --nosuffix -o pe_start,pv_pe_count,vg_extent_size "$volume")
    ! short $((start + count * extent)) "$extent" || pvresize -q "$volume"
    group=$(pvs --noheadings -o vg_name "$volume" | tr -d ' ')
    vgchange -q --activate y "$group"
    name=$(lvs --noheadings --units b --nosuffix -o lv_name --sort -lv_size "$group" | sed -n 1p | tr -d ' ')
    free=$(vgs --noheadings -o vg_free_count "$group" | tr -d ' ')
    [ "$free" = 0 ] || lvextend -q --extents +100%FREE "$group/$name"
    volume=/dev/$group/$name
fi
type=$(blkid -p -s TYPE -o value "$volume")
echo "inside: $type on $volume"
mkdir -p /media/volume
case $type in
    ext4)
        blocks=$(dumpe2fs -h "$volume" 2> /dev/null | sed -n 's/^Block count: *//p')
        size=$(dumpe2fs -h "$volume" 2> /dev/null | sed -n 's/^Block size: *//p')
        if ! short $((blocks * size)) "$size"; then
            exit 0
        fi
        e2fsck -f -p "$volume" || [ $? = 1 ]
        resize2fs "$volume"
        e2fsck -f -n "$volume"
        ;;
    xfs)
        blocks=$(xfs_db -r -c 'sb 0' -c 'print dblocks' "$volume" | sed 's/.*= //')
        size=$(xfs_db -r -c 'sb 0' -c 'print blocksize' "$volume" | sed 's/.*= //')
        if ! short $((blocks * size)) $((16 << 20)); then
            exit 0
        fi
        mount "$volume" /media/volume
        xfs_growfs -d /media/volume
        umount /media/volume
        xfs_repair -n "$volume"
        ;;
    btrfs)
        size=$(btrfs inspect-internal dump-super "$volume" | sed -n 's/^dev_item.total_bytes[[:space:]]*//p')
        if ! short "$size" $((1 << 20)); then
            exit 0
        fi
        mount "$volume" /media/volume
        btrfs filesystem resize max /media/volume
        umount /media/volume
        btrfs check --readonly "$volume"
        ;;
    *)
        echo "the kernel cannot grow $type"
        exit 3
        ;;
esac
vgchange -q --activate n > /dev/null 2>&1 || true
[ "$kind" != luks ] || cryptsetup close inside
dmsetup remove target
sync
