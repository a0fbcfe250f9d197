"""What stands between a partition and a file system: md RAID, LVM2, LUKS."""
