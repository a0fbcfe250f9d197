#!/bin/sh
# Runs in the generic system's new root, once: an installed Debian, whose first boot is over, with its initramfs.
set -eu
echo debian > /etc/hostname
printf '127.0.0.1 localhost\n127.0.1.1 debian\n' > /etc/hosts
systemd-machine-id-setup > /dev/null
passwd -d root > /dev/null
cat > /etc/systemd/system/onebay-manifest.service << 'END'
[Unit]
Description=Check every file of the data volume
After=local-fs.target
[Service]
Type=oneshot
ExecStart=/usr/local/sbin/onebay-manifest
[Install]
WantedBy=multi-user.target
END
chmod 755 /usr/local/sbin/onebay-manifest
mkdir -p /volume1
# emulated without KVM on a busy host, a minute is short
mkdir -p /etc/systemd/system.conf.d
printf '[Manager]\nDefaultTimeoutStartSec=600s\nDefaultDeviceTimeoutSec=600s\n' > /etc/systemd/system.conf.d/slow.conf
systemctl enable --quiet onebay-manifest.service
systemctl mask --quiet apt-daily.timer apt-daily-upgrade.timer e2scrub_reap.service e2scrub_all.timer \
    dpkg-db-backup.timer systemd-pstore.service
# the root's file system module is chosen from what root= names, so all of them go in
printf 'ext4\nbtrfs\nxfs\nvfat\n' >> /etc/initramfs-tools/modules
echo update_initramfs=yes > /etc/initramfs-tools/update-initramfs.conf
update-initramfs -c -k all
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
