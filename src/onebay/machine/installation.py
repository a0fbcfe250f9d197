"""An installation from its first start to the disk that boots alone: install, fold, try.

Ends in one of two ways: the disk is whole, or all is kept in a folder that the same command goes on from.
"""

from __future__ import annotations

import select
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from onebay.base.error import Error, Incomplete, ToolFailed
from onebay.base.event import Noted, Warned
from onebay.block import FileVolume, open_disk
from onebay.machine.boot import DEAD_ENDS, Setup, boot_setup
from onebay.machine.console import joined
from onebay.machine.install import DATA, Watcher, has_system, installing
from onebay.machine.install import Setup as InstallSetup
from onebay.machine.qemu import last_lines
from onebay.machine.unfinished import seal
from onebay.ops.bootpaths import boot_paths
from onebay.ops.fold import plan_fold
from onebay.ops.run import execute
from onebay.tree import discover

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from onebay.base.event import Report
    from onebay.block import Overlay
    from onebay.machine.console import Console
    from onebay.machine.install import Screen
    from onebay.machine.qemu import Running
    from onebay.machine.unfinished import Unfinished

LOOK_SECONDS, TICK = 3.0, 0.2
# What SeaBIOS says at each start, and how many of them without a trace on the data disk are too many.
BANNER, STARTS = "SeaBIOS (version", 5
LEAST_WRITTEN = 1 << 20  # bytes; an installer that wrote less has installed nothing
MOST_SAID = 64 << 20  # bytes of the serial console
SHUTDOWN_SECONDS = 300.0
HURRY_SECONDS = 60.0  # for a shut-down that the user asked for; an installer's ramdisk may not listen

# What does on the installer's page what its owner would do: gets the port of this host that leads there, what
# to call with news, and what says that it is no longer wanted.
Errand = Callable[[int, Callable[[str], None], threading.Event], None]


class Installation:
    """Installs onto `disk` from `view`, a boot disk whose changes are in memory."""

    def __init__(
        self, unfinished: Unfinished, disk: FileVolume, view: Overlay, setup: InstallSetup, report: Report
    ) -> None:
        self.unfinished, self.disk, self.view = unfinished, disk, view
        self.setup, self.report = setup, report
        self.path = Path(disk.name)
        self.written = 0  # bytes, by the guest to the data disk

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Keep the boot disk as the installer left it where the block does not end well."""
        whole = False
        try:
            yield
            whole = True
        finally:
            about = self.unfinished.about
            try:
                if not whole and about is not None and about.running:
                    self.unfinished.save(self.view, self.disk)
                elif not whole:
                    self.unfinished.change(seal=seal(self.disk))
            except (Error, OSError) as error:
                self.report(Warned(f"what the installer wrote to the boot disk could not be kept: {error}"))

    def install(self, errand: Errand | None, timeout: float, *, terminal: bool) -> None:
        """Let the installer work until its machine is off, the errand is done, or the user says so.

        Its serial console is this `terminal` where that is asked for.

        What it wrote to the boot disk is on the medium when this returns. Raises ToolFailed where the boot
        disk does not boot or `timeout` seconds are over, Incomplete where there is no system on the disk
        afterwards, and what the errand raises.
        """
        self.warn_dead()
        self.disk.recheck()  # it may have been plugged anew while somebody was asked
        self.unfinished.change(running=True, seal="")
        stop = threading.Event()
        with (
            ThreadPoolExecutor(1) as beside,
            installing(self.view, self.disk, self.setup, serial=self.unfinished.serial) as (guest, screen),
        ):
            self.tell(screen, alone=errand is not None, terminal=terminal)
            job = None
            if errand is not None:
                port = self.setup.forwards[0][0]
                job = beside.submit(errand, port, lambda text: self.report(Noted(text, "installer")), stop)
            try:
                with joined(guest) if terminal else nullcontext() as console:
                    self.watch(guest, job, console, timeout)
                shut_down(guest, SHUTDOWN_SECONDS, self.report)
            except KeyboardInterrupt:
                self.report(Noted("the power button is pressed; Ctrl-C again ends the machine at once"))
                shut_down(guest, HURRY_SECONDS, self.report)
                raise
            finally:
                stop.set()
                guest.quit()
        self.refuse_nothing()
        self.unfinished.save(self.view, self.disk)
        self.unfinished.change(phase="installed")

    def warn_dead(self) -> None:
        """Warn where nothing is known on the boot disk that its firmware would start."""
        firmware = self.setup.firmware
        paths = [path for path in boot_paths(discover([self.view])) if path.firmware == firmware]
        if not any(path.works for path in paths):
            why = "; ".join(path.why for path in paths if path.why)
            text = f"the boot disk does not look as if it boots under {firmware}"
            self.report(Warned(f"{text} ({why})" if why else text))

    def tell(self, screen: Screen | None, *, alone: bool, terminal: bool) -> None:
        """Say where the installer can be reached."""
        for host, guest in self.setup.forwards:
            self.report(Noted(f"http://127.0.0.1:{host}/ leads to port {guest} of the installer"))
        if screen is not None:
            self.report(Noted(f"its screen is vnc://{screen.address}, password {screen.password}"))
        self.report(Noted(f"its serial console is kept in {self.unfinished.serial}"))
        if not alone:
            how = "or press Enter here" if sys.stdin.isatty() else "or interrupt this"
            how = "or press Ctrl-]" if terminal else how
            self.report(Noted(f"install, and when the system is finished shut it down there, {how}"))

    def watch(
        self, guest: Running, job: Future[None] | None, console: Console | None, timeout: float
    ) -> None:
        """Tell what happens until it is over; raises ToolFailed, and what the job raised."""
        watcher = Watcher(self.path, self.disk.sector_size, self.report)
        looked = 0.0
        while not guest.ended():
            if job is not None and job.done():
                job.result()
                self.written = max(self.written, guest.written(DATA))
                return
            if finished(console) and job is None:
                return
            if guest.seconds() - looked > LOOK_SECONDS:
                watcher.look()
                self.written = max(self.written, guest.written(DATA))
                looked = guest.seconds()
                self.refuse_stuck(guest, watcher, timeout)
        guest.refuse_failure()
        if job is not None:
            raise ToolFailed(f"the machine went off: {last_lines(guest.output())}", volume=str(self.path))

    def refuse_stuck(self, guest: Running, watcher: Watcher, timeout: float) -> None:
        """Raise ToolFailed where the boot disk does not boot, or time is over."""
        output = guest.output()
        why = next((f"the boot disk does not boot ({end.strip()})" for end in DEAD_ENDS if end in output), "")
        if output.count(BANNER) > STARTS and not watcher.known:
            why = "the boot disk does not boot, the machine starts again and again"
        if not why and guest.seconds() > timeout:
            why = f"the installer was not done within {timeout:.0f} s"
            if not watcher.known:
                why += ", and has written nothing"
        if not why and len(output) >= MOST_SAID:
            why = "the installer says more than anybody can read"
        if why:
            last = last_lines(output) or "nothing"
            hint = f"the whole serial log: {self.unfinished.serial}"
            raise ToolFailed(f"{why}; its console last said: {last}", volume=str(self.path), hint=hint)

    def refuse_nothing(self) -> None:
        """Raise Incomplete where no system is on the disk, or the one that was there already."""
        if self.written < LEAST_WRITTEN:
            raise Incomplete(
                "nothing was installed",
                volume=str(self.path),
                expected=f"{LEAST_WRITTEN} bytes written at least",
                found=self.written,
            )
        with closing(open_disk(self.path, sector_size=self.disk.sector_size, raw=True)) as disk:
            tree = discover([disk])
        if not has_system(tree):
            raise Incomplete("no system was installed", volume=str(self.path))

    def fold(self) -> None:
        """Fold the boot disk, as the installer left it, into the disk."""
        with (
            tempfile.TemporaryDirectory(prefix="onebay-") as name,
            closing(plan_fold(self.view, self.disk, scratch=Path(name))) as plan,
        ):
            for note in plan.notes:
                self.report(Noted(note))
            if plan.steps:
                execute(plan, report=self.report)

    def try_alone(self, expect: str, timeout: float) -> None:
        """Boot the disk alone under both firmwares, on an overlay; raises ToolFailed."""
        sector = self.disk.sector_size
        bus = self.setup.bus_of(self.disk)
        for firmware in ("bios", "uefi") if sector == 512 else ("uefi",):
            setup = Setup(firmware, bus, sector, self.setup.memory_mb, self.setup.accel)
            log = self.unfinished.folder / f"alone-{firmware}.log"
            boot_setup(self.path, setup, expect=expect, timeout=timeout, log=log, report=self.report)


def finished(console: Console | None) -> bool:
    """Wait a moment; returns whether the user pressed Enter, or Ctrl-] where the terminal is the console."""
    if console is not None and not console.over:
        return console.pass_on(TICK)
    if console is not None or not sys.stdin.isatty():
        time.sleep(TICK)
        return False
    if select.select([sys.stdin], [], [], TICK)[0]:
        sys.stdin.readline()
        return True
    return False


def shut_down(guest: Running, seconds: float, report: Report) -> None:
    """Press the power button and wait; a system that does not listen is ended as by a power cut."""
    guest.power_button()
    if not guest.off(seconds):
        report(Warned(f"the machine did not shut down within {seconds:.0f} s: it is ended as by a power cut"))
