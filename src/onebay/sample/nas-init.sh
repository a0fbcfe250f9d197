#!/bin/busybox sh
# PID 1 of the sample appliance's ramdisk: assemble every array (one member of many is normal), find the system on
# md0, whatever bus its disk sits on, and hand over to systemd. Where no disk carries a system, the installer's page
# waits on port 5000; a disk that only came late is still booted.
export PATH=/bin:/sbin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mkdir -p /etc/mdadm /run/mdadm
printf 'DEVICE partitions\nHOMEHOST <ignore>\nAUTO +all\n' > /etc/mdadm/mdadm.conf
while read -r module; do insmod "/modules/$module" 2>/dev/null; done < /etc/modules

# the layout's name is the last file of an installation, so it says that all the others are there
found() {
    [ ! -e /run/installing ] || return 1
    mdadm --assemble --scan --run --quiet 2>/dev/null
    [ -b /dev/md0 ] && mount -t ext4 -o ro /dev/md0 /root 2>/dev/null || return 1
    [ ! -s /root/etc/onebay-layout ] || return 0
    umount /root
    return 1
}
tries=0
until found; do
    tries=$((tries + 1))
    if [ "$tries" = 100 ]; then
        echo "nas: no disk carries a system"
        nas-installer start
    fi
    sleep 0.2
done
[ "$tries" -lt 100 ] || nas-installer stop
# its neighbours on the same disk may have come a moment later than the root's partition
mdadm --assemble --scan --run --quiet 2>/dev/null
echo "nas: root is /dev/md0"
mount --move /dev /root/dev
mount --move /proc /root/proc
mount --move /sys /root/sys
mount --move /run /root/run
exec switch_root /root /sbin/init
