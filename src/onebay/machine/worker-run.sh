#!/bin/bash
# PID 1 of the worker's root: what a job may expect is mounted, the job runs, its status goes to the console.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mkdir -p /dev/pts /run/lock /run/lvm /dev/shm
mount -t devpts devpts /dev/pts
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/mounts /etc/mtab
hostname worker
# no udev here: the device mapper and md make their nodes themselves
mkdir -p /etc/lvm
printf 'activation { udev_sync = 0 udev_rules = 0 verify_udev_operations = 1 }\nbackup { backup = 0 archive = 0 }\n' \
    > /etc/lvm/lvmlocal.conf
if grep -q onebay.share /proc/cmdline; then
    modprobe 9pnet_virtio
    mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=none share /mnt/share
fi
cd /root || exit 1
echo "onebay-job: begin"
bash /onebay/job.sh < /dev/null
status=$?
sync
echo "onebay-job: end $status"
busybox poweroff -f
