"""The sample appliance: a small real NAS on two disks, made with the real tools from Debian packages."""
