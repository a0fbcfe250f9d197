#!/bin/sh
# Make one image of each format that Debian can make, and expected.json with blkid. Needs root (losetup).
# Packages: ntfs-3g exfatprogs f2fs-tools squashfs-tools erofs-utils xorriso udftools jfsutils reiserfsprogs
# bcache-tools
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
mkdir tree
echo content >tree/file

image() { truncate -s "$2" "$1.img"; }
looped() { # name, then a command that wants a block device
    name=$1
    shift
    device=$(losetup -f --show "$name.img")
    "$@" "$device" >/dev/null
    losetup -d "$device"
}

{
    image ntfs 8M && mkntfs -q -F -L NtfsLabel ntfs.img
    image exfat 8M && mkfs.exfat -L ExLabel exfat.img
    image f2fs 64M && mkfs.f2fs -q -l F2Label f2fs.img
    mksquashfs tree squashfs.img -quiet -noappend && truncate -s 1M squashfs.img
    mkfs.erofs -U 11111111-2222-3333-4444-555555555555 erofs.img tree && truncate -s 1M erofs.img
    xorriso -as mkisofs -quiet -V ISOLABEL -o iso9660.img tree
    image udf 4M && mkudffs -b 2048 -l UdfLabel udf.img
    image udf-4k 4M && mkudffs -b 4096 udf-4k.img
    image jfs 16M && mkfs.jfs -q -L JfsLabel jfs.img
    image reiserfs 40M && mkreiserfs -q -f -f -l ReisLabel reiserfs.img
    image bcache-backing 8M && looped bcache-backing make-bcache -B
    image bcache-cache 128M && looped bcache-cache make-bcache -C
} >/dev/null 2>&1

python3 - "$work" >"$here/expected.json" <<'PYTHON'
import json, subprocess, sys
from pathlib import Path

def blkid(path):
    done = subprocess.run(["blkid", "-p", "-o", "export", path], capture_output=True, text=True, check=True)
    pairs = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    return {name: pairs[name] for name in ("TYPE", "LABEL", "UUID") if name in pairs}

print(json.dumps({p.stem: blkid(p) for p in sorted(Path(sys.argv[1]).glob("*.img"))}, indent=1, sort_keys=True))
PYTHON
for name in *.img; do
    zstd -q -19 --long=27 -f "$name" -o "$here/$name.zst"
done
