#!/bin/sh
# Make the swap images and expected.json with mkswap and blkid. Needs no root.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

make() { # name size arguments of mkswap
    name=$1 size=$2
    shift 2
    truncate -s "$size" "$name.img"
    chmod 600 "$name.img"
    mkswap -q "$@" "$name.img" 2>/dev/null >/dev/null
}
sign() { # name byte signature: over SWAPSPACE2 as the kernel does, or at the start as TuxOnIce does
    printf "$3" | dd of="$1.img" bs=1 seek="$2" conv=notrunc status=none
}

make pages-4k 2M -L swap-here -U 11111111-2222-3333-4444-555555555555
make pages-8k 2M -p 8192 -L eight -U 21111111-2222-3333-4444-555555555555
make pages-64k 2M -p 65536 -U 31111111-2222-3333-4444-555555555555
cp pages-4k.img hibernated.img
sign hibernated 4086 'S1SUSPEND\000'
cp pages-4k.img uswsusp.img
sign uswsusp 4086 'ULSUSPEND\000'
cp pages-4k.img tuxonice.img
sign tuxonice 0 '\355\303\002\351\230\126\345\014'
cp pages-4k.img linhib.img
sign linhib 4086 'LINHIB0001'

python3 - "$work" >"$here/expected.json" <<'PYTHON'
import json, subprocess, sys
from pathlib import Path

def blkid(path):
    done = subprocess.run(["blkid", "-p", "-o", "export", path], capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)

said = {path.stem: blkid(path) for path in sorted(Path(sys.argv[1]).glob("*.img"))}
for pairs in said.values():
    pairs.pop("DEVNAME")
print(json.dumps(said, indent=1, sort_keys=True))
PYTHON
for image in *.img; do
    zstd -q -19 -f "$image" -o "$here/$image.zst"
done
