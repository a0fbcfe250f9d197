#!/bin/sh
# Make the golden md members with mdadm and the kernel's md: run as root where md and loop devices are there
# (a worker machine), with the folder for the results as the only argument. `mdadm -E` says what they are.
set -eu
out=$1
modprobe -a loop raid1 raid456 2>/dev/null || true
work=$(mktemp -d)
cd "$work"

disk() { truncate -s "$2" "$1.img"; losetup -f --show "$1.img"; }
make() { # name version size: one member of twelve, as an appliance's system array
    loop=$(disk "$1" "$3")
    yes | mdadm --create /dev/md77 --run --metadata="$2" --level=1 --raid-devices=12 --homehost=nas \
        --name=nas:2 "$loop" missing missing missing missing missing missing missing missing missing missing missing
    mke2fs -q -t ext2 -L "$1" /dev/md77
    dd if=/dev/md77 bs=64k status=none | sha256sum | cut -d' ' -f1 > "$1.sha256"
    mdadm --stop /dev/md77
    losetup -d "$loop"
}

make v090 0.90 16M
make v10 1.0 16500K
make v11 1.1 16M
make v12 1.2 16M

# Two members in sync, and the same pair after one was thrown out and the other written to.
a=$(disk pair-a 16M) b=$(disk pair-b 16M)
yes | mdadm --create /dev/md77 --run --metadata=1.2 --bitmap=internal --level=1 --raid-devices=2 "$a" "$b"
mdadm --wait /dev/md77 || true
mke2fs -q -t ext2 -L pair /dev/md77
sync
mdadm --stop /dev/md77
cp --sparse=always pair-a.img stale-a.img
cp --sparse=always pair-b.img stale-b.img
losetup -d "$a" "$b"
a=$(losetup -f --show stale-a.img) b=$(losetup -f --show stale-b.img)
mdadm --assemble /dev/md77 "$a" "$b"
mdadm /dev/md77 --fail "$b" --remove "$b"
mke2fs -F -q -t ext2 -L stale /dev/md77
dd if=/dev/md77 bs=64k status=none | sha256sum | cut -d' ' -f1 > stale-a.sha256
mdadm --stop /dev/md77
losetup -d "$a" "$b"

# A level that is known by name only.
a=$(disk raid5-a 8M) b=$(disk raid5-b 8M) c=$(disk raid5-c 8M)
yes | mdadm --create /dev/md77 --run --metadata=1.2 --level=5 --raid-devices=3 "$a" "$b" "$c"
mdadm --wait /dev/md77 || true
mdadm --stop /dev/md77
losetup -d "$a" "$b" "$c"
rm raid5-b.img raid5-c.img

# Disks whose last partition ends so near the disk's end that the superblock is at the end of both.
edge() { # name sectors size-of-p2 label type
    truncate -s $(($2 * 512)) "$1.img"
    printf 'label: %s\nstart=2048, size=28672, type=%s\nstart=32768, size=%s, type=%s\n' "$4" "$5" "$3" "$5" |
        sfdisk -q "$1.img"
    loop=$(losetup -f --show -o $((32768 * 512)) --sizelimit $(($3 * 512)) "$1.img")
    yes | mdadm --create /dev/md77 --run --metadata=0.90 --level=1 --raid-devices=2 "$loop" missing
    mke2fs -q -t ext2 -L edge /dev/md77
    mdadm --stop /dev/md77
    losetup -d "$loop"
}
edge edge-mbr 65536 32768 dos fd
edge edge-gpt 65636 32835 gpt A19D880F-05FC-4D3B-A006-743F0F84911E

for image in *.img; do zstd -q -19 -f "$image" -o "$out/$image.zst"; done
python3 - "$out" <<'PY'
import json, pathlib, subprocess, sys
found = {}
for image in sorted(pathlib.Path().glob("*.img")):
    if image.stem.startswith("edge"):
        continue
    # A loop device, since mdadm reads the bitmap with O_DIRECT, which not every file system can.
    loop = subprocess.run(["losetup", "-rf", "--show", image], capture_output=True, text=True).stdout.strip()
    # mdadm 4.2 ends with status 1 for arrays that are not running, whatever it printed.
    export = subprocess.run(["mdadm", "-E", "--export", loop], capture_output=True, text=True)
    text = subprocess.run(["mdadm", "-E", loop], capture_output=True, text=True).stdout
    subprocess.run(["losetup", "-d", loop], check=True)
    assert export.stdout and text, (image, export, text)
    labels = dict(l.strip().split(" : ", 1) for l in text.splitlines() if " : " in l)
    found[image.stem] = {
        "export": dict(l.split("=", 1) for l in export.stdout.splitlines()),
        "examine": {k.strip(): v.strip() for k, v in labels.items()},
    }
    digest = image.with_suffix(".sha256")
    if digest.exists():
        found[image.stem]["sha256"] = digest.read_text().strip()
pathlib.Path(sys.argv[1], "expected.json").write_text(json.dumps(found, indent=1) + "\n")
PY
cd / && rm -r "$work"
