#!/bin/sh
# Make a file system whose journal is on a device of its own, with mke2fs and the kernel: run as root, in any
# folder. expected.json is what dumpe2fs says of both.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'umount "$work/mnt" 2>/dev/null || true; losetup -d $device $fs 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"
export LC_ALL=C.UTF-8 PATH="$PATH:/usr/sbin:/sbin"
mkdir mnt

yes "deleted data, dirty space" | head -c 8M >device.img
yes "deleted data, dirty space" | head -c 40M >fs.img
device=$(losetup -f --show device.img)
fs=$(losetup -f --show fs.img)
mke2fs -q -F -E nodiscard -b 4096 -O journal_dev -L "a journal" "$device"
mke2fs -q -F -E nodiscard -t ext4 -b 4096 -J device="$device" -L "journal is away" "$fs"
mount "$fs" mnt
seq 1 5000 >mnt/text
for number in $(seq 1 60); do head -c "$((number * 700))" mnt/text >"mnt/file-$number"; done
for number in $(seq 3 2 59); do rm "mnt/file-$number"; done
sync
cp fs.img mounted-fs.img # as a power cut leaves it: the journal must be replayed
cp device.img mounted-device.img
umount mnt
losetup -d "$device" "$fs"

python3 - "$here" <<'END' >"$here/expected.json"
import json, sys
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1]).parent))
from make_expected import describe
import re, subprocess
text = subprocess.run(["dumpe2fs", "device.img"], capture_output=True, text=True, check=True).stdout
found = {
    "device": {
        "uuid": re.search(r"Filesystem UUID: +(\S+)", text)[1],
        "label": re.search(r"Filesystem volume name: +(.+)", text)[1].strip(),
        "blocks": int(re.search(r"Total journal blocks: +(\d+)", text)[1]),
        "start": int(re.search(r"Journal start: +(\d+)", text)[1]),
        "users": re.search(r"Journal users: +((?:\S+\s+)+)", text)[1].split(),
    },
    "fs": describe(Path("fs.img")),
}
said = subprocess.run(["dumpe2fs", "-h", "fs.img"], capture_output=True, text=True, check=True).stdout
found["fs"]["journal_uuid"] = re.search(r"Journal UUID: +(\S+)", said)[1]
print(json.dumps(found, indent=1, sort_keys=True))
END
for image in *.img; do zstd -q -f -19 --long=27 "$image" -o "$here/$image.zst"; done
