# The job that makes one sample: /dev/vdb becomes the data disk, /dev/vdc the boot disk, /dev/vdd is a tar of the
# system (absent for a miniature). Values come as variables from build.py, numbers in sectors of 512 bytes.
# /mnt/share holds the inputs (vmlinuz, initrd, content.py, manifest.sh) and takes the golden values.
# shellcheck shell=bash disable=SC2154,SC2086 # values without spaces, assigned by build.py; some are lists
set -eu -o pipefail
data=/dev/vdb boot=/dev/vdc
unit=$((sector_size / 512))
system=/media/system volume=/media/volume
mkdir -p $system $volume /media/boot1 /media/boot2 /mnt/share/golden
modprobe -a raid1 dm-mod ext4 btrfs vfat
say() { echo "$(cut -d' ' -f1 /proc/uptime) $*"; }

say "partitions"
if [ "$table" = gpt ]; then
    sgdisk --clear --set-alignment=1 \
        --new=1:$((p1_start / unit)):$(((p1_start + p1_size) / unit - 1)) --typecode=1:FD00 \
        --new=2:$((p2_start / unit)):$(((p2_start + p2_size) / unit - 1)) --typecode=2:FD00 \
        --new=3:$((data_start / unit)):$(((data_start + data_size) / unit - 1)) --typecode=3:FD00 $data > /dev/null
else
    {
        echo "label: dos"
        echo "1: start=$p1_start, size=$p1_size, type=fd"
        echo "2: start=$p2_start, size=$p2_size, type=fd"
        if [ "$extended" -gt 0 ]; then
            echo "3: start=$extended, size=$((data_start + data_size - extended)), type=f"
        fi
        echo "$data_number: start=$data_start, size=$data_size, type=fd"
    } | sfdisk --quiet $data
fi

say "arrays"
missing=$(seq $((slots - 1)) | sed 's/.*/missing/')
mdadm --create /dev/md0 --run --quiet --metadata=0.90 --level=1 --bitmap=none --raid-devices=$slots ${data}1 $missing
mdadm --create /dev/md1 --run --quiet --metadata=0.90 --level=1 --bitmap=none --raid-devices=$slots ${data}2 $missing
mdadm --create /dev/md2 --run --quiet --metadata=1.2 --level=1 --bitmap=none --raid-devices=1 --force \
    --homehost=NAS --name=2 --data-offset=1M ${data}$data_number
target=/dev/md2
if [ -n "$group" ]; then
    pvcreate -q /dev/md2 > /dev/null
    vgcreate -q "$group" /dev/md2 > /dev/null
    if [ "$group" = vg1000 ]; then
        name=lv
    else
        name=volume_1
        lvcreate -q -W n -L 12M -n syno_vg_reserved_area "$group" > /dev/null
    fi
    lvcreate -q -W n -l 100%FREE -n $name "$group" > /dev/null
    target=/dev/$group/$name
fi

say "file systems"
mkfs.ext4 -q -L 1.44.1-42218 /dev/md0
mkswap /dev/md1 > /dev/null
if [ "$filesystem" = btrfs ]; then
    # one sample with today's defaults, one as older kernels made them
    features="-O no-holes -R free-space-tree"
    [ "$subvolume" = 0 ] || features="-O ^no-holes -R ^free-space-tree"
    mkfs.btrfs -q $features -L "2023.05.22-03:04:05 v42962" "$target"
else
    mkfs.ext4 -q -L "1.44.1-42962" "$target"
fi
root_uuid=$(blkid -s UUID -o value /dev/md0)
data_uuid=$(blkid -s UUID -o value "$target")
swap_uuid=$(blkid -s UUID -o value /dev/md1)

say "the volume"
mount "$target" $volume
share=""
if [ "$subvolume" = 1 ]; then
    share="@share"
    btrfs -q subvolume create "$volume/$share"
fi
python3 /mnt/share/content.py $volume "$scale" $share
: > $volume/manifest/snapshots
if [ "$subvolume" = 1 ]; then
    btrfs -q subvolume snapshot -r "$volume/$share" "$volume/@snapshot"
    echo "@snapshot" > $volume/manifest/snapshots
fi
say "its manifest"
cd $volume
find . -type f ! -path './manifest/*' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum -- > manifest/sha256
xargs -d '\n' getfattr -d -m '^user\.' -- < manifest/tagged > manifest/xattrs
files=$(wc -l < manifest/sha256)
cp manifest/sha256 /mnt/share/golden/volume1.sha256
find . -xdev | wc -l > /mnt/share/golden/volume1.names
volume_size=$(df --block-size=1 --output=size . | tail -n 1)
cd /

say "the system"
mount /dev/md0 $system
if [ -b /dev/vdd ]; then
    tar --extract --file=/dev/vdd --directory=$system --xattrs --xattrs-include='*' --numeric-owner
    cat > $system/etc/fstab << END
UUID=$root_uuid / ext4 defaults,noatime 0 0
UUID=$swap_uuid none swap nofail 0 0
UUID=$data_uuid /volume1 auto defaults,noatime 0 0
END
else
    mkdir -p $system/etc.defaults
    echo "a system of no weight" > $system/etc.defaults/VERSION
    head -c 3000000 /dev/urandom > $system/payload
fi
mkdir -p $system/etc
echo "$layout" > $system/etc/onebay-layout
mkdir -p $system/dirt
for number in $(seq "$dirt_mib"); do
    head -c 1048576 /dev/urandom > $system/dirt/$number
done
sync
rm -r $system/dirt
(cd $system && find . -xdev -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum --) > /mnt/share/golden/md0.sha256
umount $system $volume

say "the boot disk"
if [ "$boot_table" = gpt ]; then
    sgdisk --clear --set-alignment=1 \
        --new=1:$b1_start:$((b1_start + b1_size - 1)) --typecode=1:EF00 --change-name=1:"EFI System" \
        --new=2:$b2_start:$((b2_start + b2_size - 1)) --typecode=2:8300 \
        --new=3:$b3_start:$((b3_start + b3_size - 1)) --typecode=3:EF02 $boot > /dev/null
else
    sfdisk --quiet $boot << END
label: dos
1: start=$b1_start, size=$b1_size, type=c, bootable
2: start=$b2_start, size=$b2_size, type=83
3: start=$b3_start, size=$b3_size, type=ef
END
fi
mkfs.fat -F "$fat_bits" -n NASBOOT1 ${boot}1 > /dev/null
mkfs.ext2 -q -L NASBOOT2 ${boot}2
boot_uuid=$(blkid -s UUID -o value ${boot}2)
mount ${boot}1 /media/boot1
mount ${boot}2 /media/boot2
for folder in /media/boot1 /media/boot2; do
    head -c 2000000 /dev/urandom > $folder/dirt
    sync
    rm $folder/dirt
done
cp /mnt/share/vmlinuz /media/boot2/zImage
cp /mnt/share/rd.gz /media/boot2/rd.gz
echo 'GRUB_VERSION="sample"' > /media/boot2/GRUB_VER
modules="part_msdos part_gpt fat ext2 search search_fs_uuid search_fs_file search_label linux normal configfile"
modules="$modules serial terminal echo test ls cat all_video"
grub-install --target=i386-pc --boot-directory=/media/boot1/boot --install-modules="$modules" \
    --locales= --themes= --fonts= $boot
grub-install --target=x86_64-efi --efi-directory=/media/boot1 --boot-directory=/media/boot1/boot --removable \
    --no-nvram --install-modules="$modules" --locales= --themes= --fonts=
# no_timer_check: emulated without KVM on a busy host, ticks come late and the kernel would panic over them
cmdline="nas.layout=$layout console=tty0 console=ttyS0,115200 loglevel=4 no_timer_check"
if [ "$boot_table" = gpt ]; then
    search="search --no-floppy --label NASBOOT2 --set root"
    second="search --no-floppy --set=root --label NASBOOT2"
    place="(\$root)"
else
    search="search --no-floppy --fs-uuid --set=root $boot_uuid"
    second="set root=(hd0,msdos2)"
    place="(hd0,msdos2)"
fi
cat > /media/boot1/boot/grub/grub.cfg << END
serial --unit=0 --speed=115200
terminal_input serial console
terminal_output serial console
set default="0"
set timeout="1"

menuentry "NAS" {
    $search
    echo "Loading the system of layout $layout"
    linux /zImage $cmdline
    initrd /rd.gz
}

menuentry "NAS, by another name" {
    $second
    linux $place/zImage $cmdline single
    initrd $place/rd.gz
}
END
(cd /media && find boot1 boot2 -xdev -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum --) \
    > /mnt/share/golden/boot.sha256
df -k /media/boot1 /media/boot2
umount /media/boot1 /media/boot2

say "golden values"
cd /mnt/share/golden
for disk in data boot; do
    device=${!disk}
    sfdisk --json $device > $disk.sfdisk.json
    sfdisk --dump $device > $disk.sfdisk
    if [ "$(blkid -p -s PTTYPE -o value $device)" = gpt ]; then
        sgdisk --print --info=1 --info=2 --info=3 $device > $disk.sgdisk
    fi
done
for number in 0 1 2; do
    mdadm --detail /dev/md$number > md$number.detail
done
if [ -n "$group" ]; then
    pvs --reportformat json --units b -o +pv_uuid,pe_start,pv_mda_count,pv_pe_count > pvs.json
    vgs --reportformat json --units b -o +vg_uuid,vg_extent_size,vg_extent_count,vg_free_count,vg_seqno > vgs.json
    lvs --reportformat json --units b -a -o +lv_uuid,seg_start_pe,seg_pe_ranges,seg_size_pe > lvs.json
    vgcfgbackup -q -f "$PWD/vgcfg" "$group" > /dev/null
fi
dumpe2fs -h /dev/md0 > md0.dumpe2fs 2>&1
if [ "$filesystem" = btrfs ]; then
    btrfs inspect-internal dump-super -f "$target" > volume.dump-super
    btrfs inspect-internal dump-tree -t chunk "$target" > volume.chunk-tree
    btrfs filesystem show "$target" > volume.show
else
    dumpe2fs "$target" > volume.dumpe2fs 2>&1
fi
blkid -p /dev/md0 /dev/md1 "$target" ${boot}1 ${boot}2 > blkid.txt
blockdev --getsize64 $data /dev/md0 /dev/md1 /dev/md2 "$target" > sizes
echo "$volume_size" > volume.size
echo "$files" > files
echo "ONEBAY-MANIFEST OK files=$files layout=$layout volume=${volume_size// /}" > expect
e2fsck -fn /dev/md0 > md0.e2fsck 2>&1
if [ "$filesystem" = btrfs ]; then
    btrfs check "$target" > volume.check 2>&1
else
    e2fsck -fn "$target" > volume.check 2>&1
fi
[ -z "$group" ] || vgchange -q -an "$group" > /dev/null
mdadm --stop --quiet /dev/md0 /dev/md1 /dev/md2
# only now do the superblocks say what the finished disk will say
mdadm --examine ${data}1 > md0.examine
mdadm --examine ${data}2 > md1.examine
mdadm --examine ${data}$data_number > md2.examine
say "done"
