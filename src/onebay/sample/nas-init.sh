#!/bin/busybox sh
# PID 1 of the sample appliance's initramfs: assemble every array (one member of many is normal), find the root
# by its UUID, whatever bus it sits on, and hand over to systemd.
export PATH=/bin:/sbin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mkdir -p /etc/mdadm /run/mdadm
printf 'DEVICE partitions\nHOMEHOST <ignore>\nAUTO +all\n' > /etc/mdadm/mdadm.conf
while read -r module; do insmod "/modules/$module" 2>/dev/null; done < /etc/modules
uuid=$(sed -n 's/.*root=UUID=\([^ ]*\).*/\1/p' /proc/cmdline)
tries=0
until device=$(findfs "UUID=$uuid" 2>/dev/null); do
    tries=$((tries + 1))
    if [ "$tries" -gt 300 ]; then
        echo "nas: no root file system with UUID $uuid"
        cat /proc/partitions /proc/mdstat
        exec sh
    fi
    sleep 0.2
    mdadm --assemble --scan --run --quiet 2>/dev/null
done
# its neighbours on the same disk may have come a moment later than the root's partition
mdadm --assemble --scan --run --quiet 2>/dev/null
echo "nas: root is $device"
mount -t ext4 -o ro "$device" /root
mount --move /dev /root/dev
mount --move /proc /root/proc
mount --move /sys /root/sys
mount --move /run /root/run
exec switch_root /root /sbin/init
