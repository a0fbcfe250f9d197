#!/bin/sh
# Make the golden LUKS headers with cryptsetup: run as root (a worker machine), with the folder for the
# results as the only argument. The key slots, random bytes that do not compress, are zeroed afterwards.
set -eu
out=$1
modprobe -a loop dm-crypt 2>/dev/null || true
work=$(mktemp -d)
cd "$work"
format() { printf pass | cryptsetup luksFormat -q "$@" --key-file=-; }
empty() { dd if=/dev/zero of="$1" bs=1k seek="$2" count=$(($(stat -c %s "$1") / 1024 - $2)) conv=notrunc status=none; }
truncate -s 4M luks1.img
format --type luks1 --pbkdf-force-iterations 1000 -c aes-cbc-essiv:sha256 -s 128 luks1.img
truncate -s 8M luks2.img
format --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 -c aes-cbc-essiv:sha256 -s 128 \
    --luks2-metadata-size 16k --luks2-keyslots-size 256k --label data luks2.img
truncate -s 8M luks2-4k.img
format --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 -c aes-xts-plain64 -s 256 \
    --luks2-metadata-size 32k --luks2-keyslots-size 256k --sector-size 4096 luks2-4k.img
empty luks1.img 4
empty luks2.img 32
empty luks2-4k.img 64
python3 - "$out" <<'PY'
import json, pathlib, subprocess, sys
found = {}
for image in sorted(pathlib.Path().glob("*.img")):
    dump = subprocess.run(["cryptsetup", "luksDump", image], capture_output=True, text=True, check=True).stdout
    pairs = (line.split(":", 1) for line in dump.splitlines() if ":" in line)
    case = found[image.stem] = {}
    for key, value in pairs:
        case.setdefault(key.strip(), value.strip())
pathlib.Path(sys.argv[1], "expected.json").write_text(json.dumps(found, indent=1) + "\n")
PY
for image in *.img; do zstd -q -19 -f "$image" -o "$out/$image.zst"; done
cd / && rm -r "$work"
