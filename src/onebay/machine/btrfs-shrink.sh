# Shrink the btrfs in file or device $store to $want bytes; 0: as small as it gets. The last line says what it
# has then. Runs in the worker, or in a mount namespace of its own with $loop=1; $folder is empty.
# Status 77: it cannot be mounted here.
# linux fs/btrfs/volumes.c (btrfs_shrink_device): what lies behind the new end moves; without room for it the
# size stays as it was. What can be given back is what no chunk holds, so chunks that are hardly used go first.
set -eu
: "${store:?}" "${folder:?}" "${want:?}" "${loop:?}"

bytes() { btrfs inspect-internal dump-super "$store" | awk '$1 == "dev_item.total_bytes" { print $2 }'; }
least() { btrfs inspect-internal min-dev-size "$folder" | awk '{ print $1 }'; }
resize() { btrfs filesystem resize "$1" "$folder" > /dev/null 2>&1; }
# a balance that finds no room is not the end: what it moved until then is moved
compact() { # chunks used up to $1 percent
    btrfs balance start -q "-dusage=$1" "$folder" > /dev/null 2>&1 || true
    btrfs balance start -q "-musage=$1" "$folder" > /dev/null 2>&1 || true
}
attach() {
    device=$store
    [ "$loop" = 1 ] || return 0
    device=$(losetup --find --show "$store") || exit 77
}
# detached as soon as the mount has it, the loop device goes away with the mount, whatever happens to us
detach() { [ "$loop" != 1 ] || losetup --detach "$device"; }

size=$(bytes)
attach
mount -t btrfs -o noatime,nosuid,nodev,noexec "$device" "$folder" || { detach; exit 77; }
detach
if [ "$want" -gt 0 ] && resize "$want"; then size=$want; fi
for usage in 0 30 60 90; do
    [ "$size" -gt "$want" ] || break
    compact "$usage"
    # each step frees what the next one needs, so the smallest size comes in steps
    for _ in 1 2 3 4 5 6; do
        if [ "$want" -gt 0 ] && resize "$want"; then size=$want; break; fi
        next=$(least)
        if [ "$next" -lt 268435456 ]; then next=268435456; fi # kernels take no less
        if [ "$next" -ge "$size" ] || [ "$next" -lt "$want" ] || ! resize "$next"; then break; fi
        size=$next
    done
done
umount "$folder"
found=$(btrfs check --readonly "$store" 2>&1) || { echo "$found" >&2; exit 1; }
echo "size $size"
