# The job that makes one generic disk: /dev/vdb becomes the disk, /dev/vdc is a tar of the system. `kind` and
# `scale` come as variables from generic.py. /mnt/share holds content.py and takes the golden values.
# shellcheck shell=bash disable=SC2154,SC2086 # values without spaces, assigned by generic.py; some are lists
set -eu -o pipefail
disk=/dev/vdb root=/media/root
mkdir -p $root /mnt/share/golden
modprobe -a ext4 btrfs xfs vfat dm-mod dm-crypt
say() { echo "$(cut -d' ' -f1 /proc/uptime) $*"; }

say "partitions"
case $kind in
    cloud-*) # the numbers and places of Debian's own cloud images
        sgdisk --clear --set-alignment=1 --new=14:2048:8191 --typecode=14:EF02 --new=15:8192:262143 --typecode=15:EF00 \
            --new=1:262144:0 --typecode=1:8300 $disk > /dev/null
        esp=15 last=1
        ;;
    installer-crypt) # guided, encrypted LVM; a BIOS boot partition in front, so that both firmwares start it
        sgdisk --clear --new=1:2048:4095 --typecode=1:EF02 --new=2:4096:266239 --typecode=2:EF00 \
            --new=3:266240:790527 --typecode=3:8300 --new=4:790528:0 --typecode=4:8309 $disk > /dev/null
        esp=2 last=4
        ;;
    installer-mbr) # guided, on a machine with BIOS: root, and swap in an extended partition; data behind it
        sfdisk --quiet $disk << END
label: dos
1: start=2048, size=4194304, type=83, bootable
2: start=4198398, size=4188162, type=5
5: start=4198400, size=524288, type=82
6: start=4724736, size=3661824, type=83
END
        esp="" last=1
        ;;
esac

say "file systems"
target=$disk$last options=defaults
if [ "$kind" = installer-crypt ]; then
    head -c 64 /dev/urandom > /tmp/key
    printf 'onebay' | cryptsetup luksFormat --batch-mode --type luks2 --pbkdf argon2id --pbkdf-memory 32768 \
        --pbkdf-parallel 1 --pbkdf-force-iterations 4 $disk$last -
    printf 'onebay' | cryptsetup luksAddKey --pbkdf pbkdf2 --pbkdf-force-iterations 1000 $disk$last /tmp/key
    cryptsetup open --key-file /tmp/key $disk$last vda${last}_crypt
    cp /tmp/key /mnt/share/golden.key
    pvcreate -q /dev/mapper/vda${last}_crypt > /dev/null
    vgcreate -q debian-vg /dev/mapper/vda${last}_crypt > /dev/null
    lvcreate -q -W n -L 256M -n swap_1 debian-vg > /dev/null
    lvcreate -q -W n -l 100%FREE -n root debian-vg > /dev/null
    mkswap /dev/debian-vg/swap_1 > /dev/null
    mkfs.ext4 -q ${disk}3
    target=/dev/mapper/debian--vg-root
fi
case $kind in
    *-btrfs) mkfs.btrfs -q $target ;;
    *-xfs) mkfs.xfs -q $target ;;
    *) mkfs.ext4 -q $target ;;
esac
mount $target $root
if [ "$kind" = cloud-btrfs ]; then
    btrfs -q subvolume create $root/@rootfs
    umount $root
    options="defaults,subvol=@rootfs"
    mount -o subvol=@rootfs $target $root
fi
if [ "$kind" = installer-crypt ]; then
    mkdir $root/boot
    mount ${disk}3 $root/boot
fi
if [ "$esp" ]; then
    mkfs.fat $disk$esp > /dev/null
    mkdir -p $root/boot/efi
    mount $disk$esp $root/boot/efi
fi

say "the system"
tar --extract --file=/dev/vdc --directory=$root --xattrs --xattrs-include='*' --numeric-owner
say "its files"
data=$root/volume1
if [ "$kind" = installer-mbr ]; then
    mkfs.ext4 -q ${disk}6
    mount ${disk}6 $data
fi
python3 /mnt/share/content.py $data "$scale"
: > $data/manifest/snapshots
(
    cd $data
    find . -type f ! -path './manifest/*' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum -- > manifest/sha256
    xargs -d '\n' getfattr -d -m '^user\.' -- < manifest/tagged > manifest/xattrs
)
files=$(wc -l < $data/manifest/sha256)
echo "$kind" > $root/etc/onebay-layout
for number in $(seq 64); do
    head -c 1048576 /dev/urandom > $root/dirt.$number
done
sync
rm $root/dirt.*

say "what the installer writes"
type=$(blkid -s TYPE -o value $target)
uuid=$(blkid -s UUID -o value $target)
partuuid=$(blkid -s PARTUUID -o value $disk$last)
source="UUID=$uuid" linux_uuid=false
case $kind in
    cloud-ext4) source="PARTUUID=$partuuid" linux_uuid=true ;;
    installer-crypt) source=$target ;;
esac
{
    echo "$source / $type $options 0 1"
    [ -z "$esp" ] || echo "UUID=$(blkid -s UUID -o value $disk$esp) /boot/efi vfat umask=0077 0 1"
    if [ "$kind" = installer-crypt ]; then
        echo "UUID=$(blkid -s UUID -o value ${disk}3) /boot ext4 defaults 0 2"
        echo "/dev/mapper/debian--vg-swap_1 none swap sw 0 0"
    fi
    if [ "$kind" = installer-mbr ]; then
        mkswap ${disk}5 > /dev/null
        echo "UUID=$(blkid -s UUID -o value ${disk}5) none swap sw 0 0"
        echo "UUID=$(blkid -s UUID -o value ${disk}6) /volume1 ext4 defaults 0 2"
    fi
} > $root/etc/fstab
# no_timer_check: emulated without KVM on a busy host, ticks come late and the kernel would panic over them
cat > $root/etc/default/grub << END
GRUB_DEFAULT=0
GRUB_TIMEOUT=1
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200 loglevel=4 no_timer_check"
GRUB_TERMINAL="console serial"
GRUB_SERIAL_COMMAND="serial --speed=115200"
GRUB_DISABLE_LINUX_UUID=$linux_uuid
GRUB_DISABLE_LINUX_PARTUUID=false
GRUB_DISABLE_OS_PROBER=true
END
# what udev would have made
mkdir -p /dev/disk/by-uuid /dev/disk/by-partuuid
ln -s $target "/dev/disk/by-uuid/$uuid"
ln -s $disk$last "/dev/disk/by-partuuid/$partuuid"
for folder in dev proc sys run; do
    mount --bind /$folder $root/$folder
done
mount -t tmpfs tmp $root/tmp
if [ "$kind" = installer-crypt ]; then
    say "the initramfs, with the key"
    mkdir -m 0700 $root/etc/keys
    cp /tmp/key $root/etc/keys/root.key
    chmod 0400 $root/etc/keys/root.key
    crypt_uuid=$(blkid -s UUID -o value $disk$last)
    ln -s $disk$last "/dev/disk/by-uuid/$crypt_uuid"
    echo "vda${last}_crypt UUID=$crypt_uuid /etc/keys/root.key luks,discard,initramfs" > $root/etc/crypttab
    echo 'KEYFILE_PATTERN="/etc/keys/*.key"' >> $root/etc/cryptsetup-initramfs/conf-hook
    echo "UMASK=0077" >> $root/etc/initramfs-tools/initramfs.conf
    chroot $root update-initramfs -u -k all
fi
say "boot loaders"
chroot $root grub-install --target=i386-pc $disk
[ -z "$esp" ] || chroot $root grub-install --target=x86_64-efi --efi-directory=/boot/efi --removable --no-nvram
chroot $root grub-mkconfig -o /boot/grub/grub.cfg
grep -E '^\s*(linux|initrd)\s' $root/boot/grub/grub.cfg | head -n 2

say "golden values"
cd /mnt/share/golden
grep -v '^ *#' $root/boot/grub/grub.cfg > grub.cfg
cp $root/etc/fstab fstab
df --block-size=1 --output=size $root/volume1 | tail -n 1 > volume.size
echo "ONEBAY-MANIFEST OK files=$files layout=$kind volume=$(tr -d ' ' < volume.size)" > expect
sfdisk --json $disk > sfdisk.json
blkid > blkid.txt
if [ "$kind" = installer-crypt ]; then
    cryptsetup luksDump $disk$last > luks
    vgs --reportformat json --units b -o +vg_uuid,vg_extent_size,vg_extent_count > vgs.json
    lvs --reportformat json --units b -a -o +lv_uuid,seg_pe_ranges > lvs.json
fi
cd /
umount --recursive $root
case $type in
    ext4) e2fsck -fn $target ;;
    btrfs) btrfs check --readonly $target ;;
    xfs) xfs_repair -n $target ;;
esac > /mnt/share/golden/check 2>&1
if [ "$kind" = installer-crypt ]; then
    vgchange -q -an debian-vg > /dev/null
    cryptsetup close vda${last}_crypt
fi
say "done"
