"""Virtual machines: a worker that runs root's jobs on real disks, and boot tests of finished disks."""
