#!/bin/sh
# Runs in the sample appliance's new root, once: what a NAS has that Debian's packages alone do not.
set -eu
# an installed system, not one about to be: its first boot is over
echo NAS > /etc/hostname
printf '127.0.0.1 localhost\n127.0.1.1 NAS\n' > /etc/hosts
systemd-machine-id-setup > /dev/null
passwd -d root > /dev/null
printf 'DEVICE partitions\nHOMEHOST <ignore>\n' > /etc/mdadm/mdadm.conf
printf '[Match]\nName=en*\n[Network]\nDHCP=yes\n' > /etc/systemd/network/lan.network
cat > /etc/samba/smb.conf << 'END'
[global]
server role = standalone server
disable netbios = yes
load printers = no
[volume1]
path = /volume1
read only = no
END
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
# emulated without KVM on a busy host, a minute is short
mkdir -p /etc/systemd/system.conf.d
printf '[Manager]\nDefaultTimeoutStartSec=600s\nDefaultDeviceTimeoutSec=600s\n' > /etc/systemd/system.conf.d/slow.conf
# the arrays were assembled before udev ran, so no event of theirs will ever activate what is on them
cat > /etc/systemd/system/nas-volumes.service << 'END'
[Unit]
Description=Activate the volume groups
DefaultDependencies=no
Wants=systemd-udevd.service
After=systemd-udevd.service systemd-udev-trigger.service
Before=local-fs-pre.target shutdown.target
Conflicts=shutdown.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/sbin/vgchange --activate y --quiet
[Install]
WantedBy=sysinit.target
END
cat > /etc/systemd/system/nas-page.service << 'END'
[Unit]
Description=The storage manager's page
[Service]
ExecStart=/bin/busybox httpd -f -p 5000 -h /usr/local/share/nas-page
[Install]
WantedBy=multi-user.target
END
mkdir -p /volume1 /usr/local/share/nas-page/cgi-bin
mv /usr/local/sbin/nas-page /usr/local/share/nas-page/cgi-bin/index.cgi
chmod 755 /usr/local/sbin/onebay-manifest /usr/local/sbin/nas-storage /usr/local/share/nas-page/cgi-bin/index.cgi
systemctl enable --quiet onebay-manifest.service nas-volumes.service nas-page.service systemd-networkd.service \
    ssh.service smbd.service
systemctl disable --quiet systemd-networkd-wait-online.service
systemctl mask --quiet samba-ad-dc.service nmbd.service mdmonitor.service lvm2-monitor.service \
    apt-daily.timer apt-daily-upgrade.timer e2scrub_reap.service e2scrub_all.timer dpkg-db-backup.timer \
    mdmonitor-oneshot.timer mdcheck_start.timer mdcheck_continue.timer systemd-pstore.service
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
