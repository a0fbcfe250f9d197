# Shrink the btrfs in file or device $store to $want bytes; 0: as small as it gets. The last line says what it
# has then. Runs in the worker, or in a mount namespace of its own with $loop=1; $folder is empty.
# Status 77: it cannot be mounted here.
# linux fs/btrfs/volumes.c (btrfs_shrink_device): what lies behind the new end moves; without room for it the
# size stays as it was. What can be given back is what no chunk holds, so chunks that are hardly used go first.
set -eu
: "${store:?}" "${folder:?}" "${want:?}" "${loop:?}"

item() { btrfs inspect-internal dump-super "$store" | awk -v key="dev_item.$1" '$1 == key { print $2 }'; }
least() { btrfs inspect-internal min-dev-size --id "$device_id" "$folder" | awk '{ print $1 }'; }
resize() { btrfs filesystem resize "$device_id:$1" "$folder" > /dev/null 2>&1; }
# a balance that finds no room is not the end: what it moved until then is moved
compact() {
    btrfs -q balance start -dusage=85 "$folder" > /dev/null 2>&1 || true
    btrfs -q balance start -musage=85 "$folder" > /dev/null 2>&1 || true
}
# To $1 bytes, but no less than $want, nor than the 256 MiB that kernels take.
lower_to() {
    next=$(($1 / 4096 * 4096))
    if [ "$next" -lt 268435456 ]; then next=268435456; fi
    if [ "$next" -lt "$want" ]; then next=$want; fi
    if [ "$next" -ge "$size" ] || ! resize "$next"; then return 1; fi
    size=$next
}
# As small as it gets without a balance: each step frees what the next one needs, and the least that is said is
# more than what the kernel can do.
lower() {
    for _ in 1 2 3 4 5 6 7 8; do lower_to "$(least)" || break; done
    for _ in 1 2 3 4 5 6 7 8; do lower_to $((size * 92 / 100)) || break; done
}
attach() {
    device=$store
    [ "$loop" = 1 ] || return 0
    device=$(losetup --find --show "$store") || exit 77
}
# detached as soon as the mount has it, the loop device goes away with the mount, whatever happens to us
detach() { [ "$loop" != 1 ] || losetup --detach "$device"; }

size=$(item total_bytes)
device_id=$(item devid)
attach
mount -t btrfs -o noatime,nosuid,nodev,noexec "$device" "$folder" || { detach; exit 77; }
detach
whole=$size before=$size
if [ "$want" -gt 0 ] && resize "$want"; then size=$want; fi
[ "$size" -eq "$want" ] || lower
# A new chunk has up to a tenth of the device, so chunks become smaller with it; but a balance needs room for
# some of them beside the old ones.
for _ in 1 2 3 4 5 6 7 8; do
    before=$size
    roomy=$((size * 10 / 7 / 4096 * 4096))
    if [ "$size" -le "$want" ] || [ "$roomy" -gt "$whole" ] || ! resize "$roomy"; then break; fi
    size=$roomy
    compact
    lower
    [ $((size * 100)) -lt $((before * 97)) ] || break
done
if [ "$before" -lt "$size" ]; then lower_to "$before" || true; fi
umount "$folder"
found=$(btrfs check --readonly "$store" 2>&1) || { echo "$found" >&2; exit 1; }
echo "size $size"
