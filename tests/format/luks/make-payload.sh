#!/bin/sh
# Make containers that open, and say what the kernel reads in them: run as root where there is dm-crypt (a worker
# machine), with the folder for the results as the only argument. The passphrase is "pass".
#
# open-*.img: made by cryptsetup, keys of 256 bits, since key slots are random bytes that do not compress.
# payload-4k: a payload alone, with a key of 512 bits, sectors of 4096 bytes and another first IV; tests have
# cryptsetup make the header for it.
# payload.json: sha256 and size of what device-mapper shows, and of each file on the ext4 that is there.
set -eu
out=$1
modprobe -a loop dm-crypt ext4
work=$(mktemp -d)
cd "$work"
mkdir tree mnt
seq 1 2000 >tree/numbers
echo "the only copy" >tree/photo
key=$(od -An -v -tx1 -N64 /dev/urandom | tr -d ' \n')
comma=

fill() { # NAME: a file system on /dev/mapper/NAME, and what the kernel reads of it
    mke2fs -q -t ext4 -b 4096 -I 256 -N 32 -m 0 -O ^has_journal,^resize_inode -E nodiscard "/dev/mapper/$1"
    mount "/dev/mapper/$1" mnt
    cp tree/* mnt
    sync
    fstrim mnt # leaves zeros in the image, which compress
    umount mnt
    e2fsck -fn "/dev/mapper/$1" >/dev/null
    sync
    echo 3 >/proc/sys/vm/drop_caches
    printf '%s\n "%s": {"size": %s, "sha256": "%s", "sector_size": %s}' "$comma" "$1" \
        "$(blockdev --getsize64 "/dev/mapper/$1")" "$(sha256sum <"/dev/mapper/$1" | cut -c1-64)" \
        "$(blockdev --getss "/dev/mapper/$1")" >>payload.json
    comma=,
}

container() { # NAME OPTIONS..; what lies from $empty to $payload KiB does not count
    name=$1
    shift
    truncate -s 5M "$name.img"
    printf pass | cryptsetup luksFormat -q --key-file=- --pbkdf-force-iterations 1000 -c aes-xts-plain64 -s 256 "$@" "$name.img"
    printf pass | cryptsetup open --allow-discards --key-file=- "$name.img" "$name"
    fill "$name"
    cryptsetup close "$name"
    # behind the only key slot in use, up to the payload
    dd if=/dev/zero of="$name.img" bs=1k seek="$empty" count=$((payload - empty)) conv=notrunc status=none
}

printf '{' >payload.json
empty=132 payload=2048
container open-luks1 --type luks1
empty=160 payload=1024
container open-luks2 --type luks2 --pbkdf pbkdf2 --luks2-metadata-size 16k --luks2-keyslots-size 256k --sector-size 512
container open-luks2-4k --type luks2 --pbkdf pbkdf2 --luks2-metadata-size 16k --luks2-keyslots-size 256k --sector-size 4096

truncate -s 4M payload-4k
loop=$(losetup --show -f payload-4k)
dmsetup create payload-4k --table "0 8192 crypt aes-xts-plain64 $key 8000 $loop 0 2 allow_discards sector_size:4096"
dmsetup mknodes
fill payload-4k
dmsetup remove payload-4k
losetup -d "$loop"
printf ',\n "files": {"numbers": "%s", "photo": "%s"}' "$(sha256sum <tree/numbers | cut -c1-64)" "$(sha256sum <tree/photo | cut -c1-64)" >>payload.json
printf ',\n "payload-key": "%s", "payload-iv": 8000\n}\n' "$key" >>payload.json

for image in *.img payload-4k; do zstd -q -19 -f "$image" -o "$out/$image.zst"; done
cp payload.json "$out"
cd / && rm -r "$work"
