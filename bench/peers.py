"""The contestants: what each is asked to type. The commands are those of each tool's own manual.

A tool that takes one partition gets no partition table to write, and so a little less to do. qemu-img's
`--target-is-zero`, and what onebay makes of a new file, are allowed because every target is new and empty.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bench import loop
from bench.measure import Job, Pipeline, one
from onebay.base import tool

if TYPE_CHECKING:
    from bench.check import Level
    from bench.work import Work

LEVEL = 3  # of zstd, for all
THREADS = 2


@dataclass(frozen=True, slots=True)
class End:
    """A disk to read or to write: a device or a file; for tools that take a partition, that alone."""

    disk: Path
    device: bool


class Peer:
    """One tool. `programs` must be installed; `devices`: it takes nothing but block devices."""

    name: ClassVar[str]
    programs: ClassVar[tuple[str, ...]] = ()
    level: ClassVar[Level] = "disk"
    devices: ClassVar[bool] = False
    copies_all: ClassVar[bool] = False  # what is free is read or written too

    def lacks(self, work: Work, *, device: bool) -> str:
        """Say why this tool does not take part, or "" where it does."""
        missing = [program for program in self.programs if tool.find(program) is None]
        if missing:
            return f"not installed: {', '.join(missing)}"
        if self.devices and not (device and loop.possible()):
            return "takes block devices only"
        if self.level != "disk" and not work.partition:
            return "takes one partition, and does not know what is on the partitions here"
        if self.copies_all and not work.whole:
            return f"would copy all of {work.size >> 30} GiB"
        return self.refuses(work)

    def refuses(self, work: Work) -> str:  # noqa: ARG002 - most tools take every file system
        """Say what of `work` this tool cannot do."""
        return ""

    def capture(self, source: End, work: Work, out: Path) -> Job:
        """Write an image of `source` into the folder `out`."""
        raise NotImplementedError

    def restore(self, images: Path, target: End, work: Work) -> Job:
        """Write the image in the folder `images` to `target`."""
        raise NotImplementedError

    def fetch(self, url: str, target: End, work: Work) -> Job | None:  # noqa: ARG002
        """Restore what the folder at `url` holds; None where the tool cannot."""
        return None

    def verify(self, images: Path) -> Job | None:  # noqa: ARG002
        """Check an image against its own checksums; None where there are none."""
        return None


class Onebay(Peer):
    """What all of this is about."""

    name = "onebay"
    image = "disk.raw.zst"

    def argv(self, *rest: str | Path) -> Pipeline:
        """Return a call of the command line, as its users start it."""
        return one(command(), *rest)

    def capture(self, source: End, work: Work, out: Path) -> Job:  # noqa: ARG002
        image = out / self.image
        return Job((self.argv("capture", source.disk, image, "--yes"),), (image,), (image,))

    def restore(self, images: Path, target: End, work: Work) -> Job:  # noqa: ARG002
        argv = self.argv("restore", images / self.image, target.disk, "--yes", "--no-grow")
        return Job((argv,), (target.disk,))

    def fetch(self, url: str, target: End, work: Work) -> Job:  # noqa: ARG002
        argv = self.argv("restore", f"{url}/{self.image}", target.disk, "--yes", "--no-grow")
        return Job((argv,), (target.disk,))

    def verify(self, images: Path) -> Job:
        return Job((self.argv("verify", images / self.image),))


def command() -> str:
    """Return the command `onebay` of the Python that runs us."""
    return str(Path(sys.executable).parent / "onebay")


class Partclone(Peer):
    """partclone of one partition, through zstd."""

    name = "partclone"
    programs = ("partclone.ext4", "zstd")
    level = "partition"
    devices = True
    options: ClassVar[tuple[str, ...]] = ()

    def refuses(self, work: Work) -> str:
        program = f"partclone.{work.kind}"
        return "" if tool.find(program) else f"not installed: {program}"

    def argv(self, work: Work, log: Path, *rest: str) -> tuple[str, ...]:
        """Return a call of the partclone for the file system at hand."""
        return (f"partclone.{work.kind}", "-q", "-L", str(log), *rest)

    def capture(self, source: End, work: Work, out: Path) -> Job:
        image = out / "part.zst"
        clone = self.argv(work, out / "log", *self.options, "-c", "-s", str(source.disk), "-o", "-")
        pack = ("zstd", f"-{LEVEL}", f"-T{THREADS}", "-q", "-f", "-o", str(image))
        return Job((Pipeline((clone, pack)),), (image,), (image,))

    def back(self, first: tuple[str, ...], log: Path, target: End, work: Work) -> Job:
        """Return a restore of what `first` writes."""
        clone = self.argv(work, log, "-r", "-s", "-", "-o", str(target.disk))
        return Job((Pipeline((*unpack(first), clone)),), (target.disk,))

    def restore(self, images: Path, target: End, work: Work) -> Job:
        return self.back(("zstd", "-dcq", str(images / "part.zst")), images / "log", target, work)

    def fetch(self, url: str, target: End, work: Work) -> Job:
        return self.back(curl(f"{url}/part.zst"), Path("/dev/null"), target, work)

    def verify(self, images: Path) -> Job | None:
        read = ("zstd", "-dcq", str(images / "part.zst"))
        check = ("partclone.chkimg", "-s", "-", "-L", str(images / "log"))
        return Job((Pipeline((read, check)),))


class PartcloneFast(Partclone):
    """The same without its checksums (`-a0`), which cost Debian's partclone more than the copying."""

    name = "partclone-a0"
    options = ("-a0",)

    def verify(self, images: Path) -> Job | None:  # noqa: ARG002
        return None


class Fsarchiver(Peer):
    """fsarchiver, which keeps files and makes the file system anew."""

    name = "fsarchiver"
    programs = ("fsarchiver",)
    level = "files"
    devices = True

    def refuses(self, work: Work) -> str:
        if not work.whole:
            return "would read every hole of files that are larger than their content by far"
        return "" if work.kind == "ext4" else f"does not restore all that a {work.kind} holds"

    def capture(self, source: End, work: Work, out: Path) -> Job:  # noqa: ARG002
        image = out / "d.fsa"
        argv = ("fsarchiver", "savefs", "-o", "-Z", str(LEVEL), "-j", str(THREADS), image, source.disk)
        return Job((one(*argv),), (image,), (image,))

    def restore(self, images: Path, target: End, work: Work) -> Job:  # noqa: ARG002
        argv = ("fsarchiver", "restfs", "-j", str(THREADS), images / "d.fsa", f"id=0,dest={target.disk}")
        return Job((one(*argv),), (target.disk,))


class Zstd(Peer):
    """zstd of the whole disk, and dd."""

    name = "zstd-dd"
    programs = ("zstd", "dd")
    copies_all = True

    def pack(self, source: Path, image: Path) -> Pipeline:
        """Return what compresses the whole disk."""
        return one("zstd", f"-{LEVEL}", f"-T{THREADS}", "-q", "-f", source, "-o", image)

    def capture(self, source: End, work: Work, out: Path) -> Job:  # noqa: ARG002
        image = out / "d.raw.zst"
        # -f: else zstd takes no device
        return Job((self.pack(source.disk, image),), (image,), (image,))

    def back(self, first: tuple[str, ...], target: End) -> Job:
        """Return a restore of what `first` writes."""
        write = ("dd", f"of={target.disk}", "bs=4M", "iflag=fullblock", "conv=fsync", "status=none")
        return Job((Pipeline((*unpack(first), write)),), (target.disk,))

    def restore(self, images: Path, target: End, work: Work) -> Job:  # noqa: ARG002
        return self.back(("zstd", "-dcq", str(images / "d.raw.zst")), target)

    def fetch(self, url: str, target: End, work: Work) -> Job:  # noqa: ARG002
        return self.back(curl(f"{url}/d.raw.zst"), target)

    def verify(self, images: Path) -> Job | None:
        return Job((one("zstd", "-tq", images / "d.raw.zst"),))


class Bmaptool(Zstd):
    """bmaptool, which leaves out what is a hole in the source's file."""

    name = "bmaptool"
    programs = ("bmaptool", "zstd")

    def capture(self, source: End, work: Work, out: Path) -> Job:
        image, bmap = out / "d.raw.zst", out / "d.raw.bmap"
        create = one("bmaptool", "-q", "create", "-o", bmap, work.disk)
        return Job((create, self.pack(source.disk, image)), (image, bmap), (image, bmap))

    def restore(self, images: Path, target: End, work: Work) -> Job:  # noqa: ARG002
        bmap, image = images / "d.raw.bmap", images / "d.raw.zst"
        return Job((one("bmaptool", "-q", "copy", "--bmap", bmap, image, target.disk),), (target.disk,))

    def fetch(self, url: str, target: End, work: Work) -> Job:  # noqa: ARG002
        bmap, image = f"{url}/d.raw.bmap", f"{url}/d.raw.zst"
        return Job((one("bmaptool", "-q", "copy", "--bmap", bmap, image, target.disk),), (target.disk,))

    def verify(self, images: Path) -> Job | None:  # noqa: ARG002
        return None


class QemuImg(Peer):
    """qemu-img with a compressed qcow2, which leaves out zeros, and has no checksums."""

    name = "qemu-img"
    programs = ("qemu-img",)

    def lacks(self, work: Work, *, device: bool) -> str:
        """Say why it does not take part: of a device it reads all, of a file no holes."""
        if device and not work.whole:
            return f"would read all of {work.size >> 30} GiB"
        return super().lacks(work, device=device)

    def argv(self, *rest: str | Path) -> Pipeline:
        """Return a conversion."""
        return one("qemu-img", "convert", "-m", str(THREADS), "-W", *rest)

    def capture(self, source: End, work: Work, out: Path) -> Job:  # noqa: ARG002
        image = out / "d.qcow2"
        options = ("-O", "qcow2", "-c", "-o", "compression_type=zstd")
        return Job((self.argv("-f", "raw", *options, source.disk, image),), (image,), (image,))

    def restore(self, images: Path, target: End, work: Work) -> Job:  # noqa: ARG002
        form = ("-n", "--target-is-zero", "-O", "host_device") if target.device else ("-O", "raw")
        return Job((self.argv("-f", "qcow2", *form, images / "d.qcow2", target.disk),), (target.disk,))


class Casync(Peer):
    """casync with a store of chunks."""

    name = "casync"
    programs = ("casync",)
    copies_all = True

    def capture(self, source: End, work: Work, out: Path) -> Job:  # noqa: ARG002
        store = out / "store.castr"
        argv = ("casync", "make", "--compression=zstd", f"--store={store}", out / "d.caibx", source.disk)
        return Job((one(*argv),), (out,), (out / "d.caibx", store))

    def restore(self, images: Path, target: End, work: Work) -> Job:  # noqa: ARG002
        argv = ("casync", "extract", f"--store={images / 'store.castr'}", "--seed-output=no")
        return Job((one(*argv, images / "d.caibx", target.disk),), (target.disk,))


PEERS: tuple[Peer, ...] = (
    *(Onebay(), PartcloneFast(), Partclone(), Fsarchiver(), Zstd(), Bmaptool(), QemuImg(), Casync()),
)


def curl(url: str) -> tuple[str, ...]:
    """Return a download to standard output."""
    return ("curl", "-sf", url)


def unpack(first: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Return programs that give what `first` reads, unpacked."""
    return (first,) if first[0] == "zstd" else (first, ("zstd", "-dcq"))
