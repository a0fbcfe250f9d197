#!/bin/sh
# Make the golden GPT disks with sgdisk and sfdisk, and expected.json: of each disk what `sfdisk -J` says and
# whether `sgdisk -v` finds it sound. Needs root for the loop device with 4096-byte sectors. The folder for the
# results is the only argument.
set -eu
out=$1
work=$(mktemp -d)
cd "$work"

truncate -s 64M plain.img
yes 'boot code ' | head -c 440 | dd of=plain.img conv=notrunc status=none
sgdisk -a 1 -U 11111111-2222-4333-8444-555555555501 \
    -n 1:2048:+8192 -t 1:ef00 -c 1:'EFI System' -u 1:11111111-2222-4333-8444-555555555511 \
    -n 2:34:2047 -t 2:ef02 -u 2:11111111-2222-4333-8444-555555555512 -A 2:set:2 \
    -n 5:32768:+65536 -t 5:fd00 -c 5:'Größe 磁盘' -u 5:11111111-2222-4333-8444-555555555515 \
    plain.img > /dev/null

copy() { cp --sparse=always plain.img "$1.img"; }
zero() { dd if=/dev/zero of="$1.img" bs=512 seek="$2" count=1 conv=notrunc status=none; }
copy primary-bad; zero primary-bad 1
copy primary-array-bad; zero primary-array-bad 2
copy backup-bad; zero backup-bad 131071
copy both-bad; zero both-bad 1; zero both-bad 131071
copy grown; truncate -s 80M grown.img
copy hybrid; sgdisk -h 5:EE hybrid.img > /dev/null
copy grown-primary-bad; truncate -s 80M grown-primary-bad.img; zero grown-primary-bad 1

truncate -s 64M many.img
sgdisk -S 256 -U 11111111-2222-4333-8444-555555555502 \
    -n 200:4096:+4096 -u 200:11111111-2222-4333-8444-555555555521 many.img > /dev/null

truncate -s 64M sector4096.img
loop=$(losetup -b 4096 -f --show sector4096.img)
sgdisk -a 1 -U 11111111-2222-4333-8444-555555555503 \
    -n 1:6:255 -t 1:ef02 -u 1:11111111-2222-4333-8444-555555555531 \
    -n 2:256:+4096 -t 2:fd00 -c 2:data -u 2:11111111-2222-4333-8444-555555555532 "$loop" > /dev/null

names='plain primary-bad primary-array-bad backup-bad grown hybrid many'
say() { # name file: a disk that sfdisk reads
    echo "\"$1\": {\"sfdisk\": $(sfdisk -J "$2" 2> /dev/null),"
    if sgdisk -v "$2" 2>&1 | grep -qE 'Caution|Warning|Problem:'; then sound=false; else sound=true; fi
    echo "\"sound\": $sound},"
}
{
    echo '{'
    for name in $names; do say "$name" "$name.img"; done
    say sector4096 "$loop" | sed '$s/,$//'
    echo '}'
} > "$out/expected.json"
losetup -d "$loop"
for name in $names sector4096 both-bad grown-primary-bad; do zstd -q -19 -f "$name.img" -o "$out/$name.img.zst"; done
rm -r "$work"
