"""Power off and reboot, by the signals that busybox's init knows. Source: busybox init/init.c."""

from __future__ import annotations

import os
import signal

SIGNALS = {"poweroff": signal.SIGUSR2, "reboot": signal.SIGTERM}


def down(what: str) -> None:
    """Have the machine go down in good order: init ends everything and has the disks take what is cached."""
    os.sync()
    os.kill(1, SIGNALS[what])
