#!/bin/busybox sh
# The first program in the initramfs: sees that all of it is there, and goes into the system it brought.
# Nothing of a disk is touched here or in what is started from here.
bb=/bin/busybox
$bb mount -t devtmpfs dev /dev
$bb mount -t proc proc /proc
$bb mount -t sysfs sys /sys
memory=$($bb awk '$1 == "MemTotal:" {print int($2 / 1024)}' /proc/meminfo)

# every serial port that is there, and what else the kernel speaks to
consoles() {
    for type in /sys/class/tty/ttyS*/type; do
        [ "$($bb cat "$type")" = 0 ] || $bb basename "${type%/type}"
    done
    for name in $($bb cat /sys/class/tty/console/active); do
        case $name in
            tty[0-9]* | ttyS*) ;;
            *) $bb echo "$name" ;;
        esac
    done
}
# kept in a variable: where memory is short, no file can be written
ports=$(consoles)

# on the screen and on every port: nobody knows which one is looked at
say() {
    for port in tty1 $ports; do
        [ ! -c "/dev/$port" ] || $bb echo "onebay: $*" 2>/dev/null > "/dev/$port"
    done
}

# The machine goes back to what it had before; with nobody there it must not hang.
give_up() {
    for minute in 5 4 3 2 1; do
        say "$1"
        say "no disk was touched; the machine restarts in $minute minutes"
        $bb sleep 60
    done
    $bb reboot -f
}

# The kernel goes on without a word where the initramfs did not fit into memory; the mark is its last file.
if [ "$($bb cat /whole 2>/dev/null)" != "MARK" ]; then
    give_up "the rescue system is not whole: too little memory ($memory MB can be used; NEEDED MB are needed)"
fi
say "checking the rescue system"
if ! $bb echo "MARK  /system.squashfs" | $bb sha256sum -c -s; then
    give_up "the rescue system has damage: its checksum is wrong ($memory MB of memory can be used)"
fi
for module in loop squashfs overlay; do
    $bb insmod "/modules/$module.ko"
done
$bb mkdir -p /lower /upper /new
$bb mount -t squashfs -o ro,loop /system.squashfs /lower &&
    $bb mount -t tmpfs -o mode=0755 upper /upper &&
    $bb mkdir /upper/files /upper/work &&
    $bb mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work root /new ||
    give_up "the rescue system cannot be mounted ($memory MB of memory can be used)"
[ "$memory" -ge LITTLE ] || say "little memory: $memory MB can be used, work may fail; NEEDED MB are needed"
$bb echo "$ports" > /new/etc/onebay/consoles
# of a configuration archive, which the boot loader put behind ours
[ ! -f /onebay/settings.json ] || $bb install -m 600 /onebay/settings.json /new/etc/onebay/settings.json
for place in dev proc sys; do
    $bb mount --move "/$place" "/new/$place"
done
$bb chroot /new /etc/onebay/start
exec $bb switch_root /new /usr/sbin/init
