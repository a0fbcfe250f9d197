#!/bin/sh
# Make the golden LVM2 volumes with lvm2 and the kernel's device-mapper: run as root where both and loop
# devices are there (a worker machine), with the folder for the results as the only argument.
set -eu
out=$1
modprobe -a loop dm-mod dm-mirror dm-snapshot dm-thin-pool dm-raid raid1 2>/dev/null || true
work=$(mktemp -d)
cd "$work"
export LVM_SUPPRESS_FD_WARNINGS=1
mkdir -p /etc/lvm
rm -rf /etc/lvm/devices

disk() { truncate -s "$2" "$1.img"; losetup -f --show "$1.img"; }
mark() { # lv: something to recognise at both ends, and its digest
    size=$(blockdev --getsize64 "/dev/$1")
    printf 'start of %s' "$1" | dd of="/dev/$1" conv=notrunc status=none
    printf 'end of %s' "$1" | dd of="/dev/$1" bs=512 seek=$((size / 512 - 1)) conv=notrunc status=none
    sync
    printf '%s %s\n' "$1" "$(sha256sum < "/dev/$1" | cut -d' ' -f1)" >> "$case.sums"
}
done_with() { # vg: report it and let its disks go
    for what in vgs pvs lvs; do
        lvm "$what" --units b --nosuffix --reportformat json -a -o "${what%s}_all" --select "vg_name=$1" > "$case.$what"
    done
    lvm lvs --units b --nosuffix --reportformat json -a --segments -o lv_name,seg_all,segtype \
        --select "vg_name=$1" > "$case.segs"
    lvm pvs --units b --nosuffix --reportformat json --segments -o pv_name,pvseg_all,lv_name \
        --select "vg_name=$1" > "$case.pvsegs"
    vgchange -q -an "$1"
    shift
    losetup -d "$@"
}

case=dsm
a=$(disk dsm 64M)
pvcreate -q "$a"
vgcreate -q vg1 "$a"
lvcreate -q -L 12M -n syno_vg_reserved_area vg1
lvcreate -q -l 100%FREE -n volume_1 vg1
mark vg1/syno_vg_reserved_area
mark vg1/volume_1
done_with vg1 "$a"

# Several segments; a metadata area so small that many changes wrap around its end.
case=wrap
a=$(disk wrap 48M)
pvcreate -q --metadatasize 60k --dataalignment 64k "$a"
vgcreate -q -s 1M vgwrap "$a"
lvcreate -q -L 8M -n first vgwrap
lvcreate -q -L 8M -n second vgwrap
lvextend -q -L +8M vgwrap/first
lvcreate -q -an -Zn -L 4M -n third vgwrap
for n in $(seq 1 60); do
    lvchange -q --addtag "tag$n" vgwrap/first
    [ "$n" -lt 5 ] || lvchange -q --deltag "tag$((n - 4))" vgwrap/first
    set -- $(dd if="$a" bs=1 skip=$((4096 + 40)) count=16 status=none | od -An -t u8)
    [ $(($1 + $2)) -le 61440 ] || break
done
mark vgwrap/first
mark vgwrap/second
done_with vgwrap "$a"

# Two disks, one volume over both, and the kinds that are known by name only.
case=kinds
a=$(disk kinds-a 96M) b=$(disk kinds-b 64M)
pvcreate -q "$a"
pvcreate -q --metadatacopies 2 "$b"
vgcreate -q -s 1M vgkinds "$a" "$b"
lvcreate -q -l 20 -n both vgkinds "$a:0-9" "$b:0-9"
lvcreate -q -i 2 -l 8 -n striped vgkinds
lvcreate -q --type raid1 -m 1 -l 4 -n mirrored vgkinds
lvcreate -q -l 4 -n origin vgkinds
lvcreate -q -s -l 2 -n snap vgkinds/origin
lvcreate -q --type thin-pool -l 8 -n pool vgkinds || echo "no thin pool" >&2
lvcreate -q -an -Zn -l 2 -n asleep vgkinds
lvcreate -q -l 3 -n plain vgkinds
mark vgkinds/both
mark vgkinds/plain
done_with vgkinds "$a" "$b"

case=orphan
a=$(disk orphan 8M)
pvcreate -q "$a"
losetup -d "$a"

python3 - "$out" <<'PY'
import json, pathlib, sys
found = {}
for sums in sorted(pathlib.Path().glob("*.sums")):
    case = found[sums.stem] = {"sha256": dict(l.split() for l in sums.read_text().splitlines())}
    for what, keys in {
        "vgs": "vg_name vg_uuid vg_extent_size vg_extent_count vg_free_count vg_seqno pv_count lv_count",
        "pvs": "pv_name pv_uuid dev_size pv_size pe_start pv_pe_count pv_pe_alloc_count pv_mda_count",
        "lvs": "lv_name lv_uuid lv_size lv_layout lv_role",
        "segs": "lv_name segtype seg_start_pe seg_size_pe seg_pe_ranges",
        "pvsegs": "pv_name pvseg_start pvseg_size lv_name",
    }.items():
        rows = next(iter(json.loads(sums.with_suffix("." + what).read_text())["report"][0].values()))
        rows = [{k: v for k, v in row.items() if k in keys.split()} for row in rows]
        case[what] = [row for n, row in enumerate(rows) if row not in rows[:n]]
pathlib.Path(sys.argv[1], "expected.json").write_text(json.dumps(found, indent=1) + "\n")
PY
for image in *.img; do zstd -q -19 -f "$image" -o "$out/$image.zst"; done
cd / && rm -r "$work"
