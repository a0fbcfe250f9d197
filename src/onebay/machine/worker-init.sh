#!/bin/busybox sh
# PID 1 of the worker's initramfs: a read-only root disk under a RAM overlay, then the job.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
if grep -q onebay.probe /proc/cmdline; then
    echo "onebay: the guest is up"
    poweroff -f
fi
while read -r module; do insmod "/modules/$module"; done < /etc/modules
mkdir -p /lower /upper /merged
mount -t ext4 -o ro /dev/vda /lower
mount -t tmpfs -o size=80% upper /upper
mkdir /upper/up /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/up,workdir=/upper/work root /merged
mkdir -p /merged/mnt/share /merged/onebay
cp /job.sh /worker-run.sh /merged/onebay/
mount --move /dev /merged/dev
mount --move /proc /merged/proc
mount --move /sys /merged/sys
exec switch_root /merged /bin/bash /onebay/worker-run.sh
