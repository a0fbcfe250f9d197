"""onebay demo: the whole story on the sample appliance, each step as the command that a user would type."""

from __future__ import annotations

import shlex
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onebay.base import tool
from onebay.base.error import Refused
from onebay.base.units import human
from onebay.block import open_disk
from onebay.cli import picture
from onebay.cli.boot import cache_option
from onebay.cli.options import PATH
from onebay.ops.inspect import inspect
from onebay.sample import build as samples
from onebay.sample.layout import LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.sample.build import Sample

FILE_SYSTEMS = ("ext", "btrfs")


@click.command()
@click.argument("directory", type=PATH, default=Path("onebay-demo"))
@click.option(
    "--layout",
    type=click.Choice([layout.name for layout in LAYOUTS]),
    default=LAYOUTS[0].name,
    show_default=True,
)
@click.option("--size", default="40G", show_default=True, help="Size of the new disk.")
@cache_option
def command(directory: Path, layout: str, size: str, cache: Path) -> None:
    """Two disks become one, one becomes a file, the file becomes a larger disk that boots by itself."""
    Demo(directory, layout, size, cache).run()


class Demo:
    """Runs the steps in `directory` and tells what happens."""

    def __init__(self, directory: Path, layout: str, size: str, cache: Path) -> None:
        self.directory, self.layout, self.size, self.cache = directory, layout, size, cache
        self.number = 0
        self.data, self.boot = directory / "data.img", directory / "boot.img"
        self.folded, self.image = directory / "folded.img", directory / "nas.raw.zst"
        self.restored = directory / "restored.img"

    def run(self) -> None:
        """Tell the story from beginning to end."""
        began = time.monotonic()
        sample = self.build()
        self.boot_it(sample, self.data, "the two-disk appliance as it came", "bios", boot=self.boot)
        self.chapter("Fold the boot disk into free space of the data disk")
        self.onebay("fold", "--boot", self.boot, "--data", self.data, "--output", self.folded)
        self.show(self.folded)
        self.chapter("Capture the whole disk into one image, used blocks only")
        self.onebay("capture", self.folded, self.image)
        self.sizes()
        self.chapter(f"Restore it to a larger disk ({self.size}) and grow everything to fill it")
        self.onebay("restore", self.image, self.restored, "--size", self.size, "--verify")
        self.show(self.restored)
        for firmware in ("bios", "uefi"):
            self.boot_it(sample, self.restored, "the new disk, alone", firmware)
        self.ending(time.monotonic() - began)

    def chapter(self, title: str) -> None:
        """Begin a numbered step."""
        self.number += 1
        click.echo(click.style(f"\n{self.number}. {title}", bold=True))

    def onebay(self, *arguments: str | Path) -> None:
        """Print a command and run it as a user would; its failure ends the demo."""
        words = [str(argument) for argument in arguments]
        click.echo(click.style(f"$ onebay {shlex.join(words)}", fg="cyan"))
        done = tool.run([sys.executable, "-m", "onebay", *words], timeout=1800)
        for line in done.text.splitlines():
            click.echo(f"  {line}")

    def build(self) -> Sample:
        """Make the sample appliance, or take it from the cache."""
        self.chapter("A real NAS on two disks: a boot disk, and a data disk with system, swap and volume")
        for path in (self.data, self.boot, self.folded, self.image, self.restored):
            if path.exists():
                raise Refused("exists already", volume=str(path), hint="another folder, or remove this one")
        click.echo("(made from Debian packages with the real tools; the first time takes minutes)")
        sample = samples.build(self.layout, cache=self.cache)
        self.onebay("sample", "build", self.layout, self.directory, "--cache", self.cache)
        for path in (self.boot, self.data):
            self.show(path)
        return sample

    def boot_it(
        self, sample: Sample, disk: Path, what: str, firmware: str, *, boot: Path | None = None
    ) -> None:
        """Boot a disk and show the line in which the appliance reports on its own data."""
        self.chapter(f"Boot {what}, under {firmware.upper()}; it checks every file of its volume")
        log = self.directory / f"{disk.stem}-{firmware}.log"
        first = () if boot is None else ("--boot", boot)
        self.onebay(
            "boot", disk, *first, "--firmware", firmware, "--expect", sample.verdict, "--timeout", "600",
            "--log", log,
        )  # fmt: skip

    def show(self, disk: Path) -> None:
        """Draw a disk."""
        for line in picture.text(look(disk)):
            click.echo(f"  {line}")

    def sizes(self) -> None:
        """Compare the image with what it came from."""
        disk, held = self.folded.stat().st_size, self.folded.stat().st_blocks * 512
        image = self.image.stat().st_size
        click.echo(f"  the disk is {human(disk)}, {human(held)} of it written; the image is {human(image)}")

    def ending(self, seconds: float) -> None:
        """Say what was gained and where everything is."""
        before, after = volume_size(self.folded), volume_size(self.restored)
        self.chapter("What happened")
        click.echo(f"  the volume's file system: {human(before)} before, {human(after)} now")
        click.echo(f"  {seconds / 60:.1f} minutes in all; the files are in {self.directory.absolute()}:")
        for path in sorted(self.directory.iterdir()):
            held = path.stat().st_blocks * 512
            click.echo(f"    {path.name:20} {human(path.stat().st_size):>9} ({human(held)} on disk)")


def look(disk: Path) -> dict[str, Any]:
    """Return what inspect says of a disk."""
    with closing(open_disk(disk)) as volume:
        return inspect(volume)


def volume_size(disk: Path) -> int:
    """Size in bytes of the largest file system on a disk, by its own superblock."""
    return max(file_systems(look(disk)["tree"]), default=0)


def file_systems(node: Any) -> Iterator[int]:
    """Yield the size of every ext and btrfs in a node of the inspect document."""
    if node.get("kind") in FILE_SYSTEMS:
        yield node["facts"]["size"]
    for part in node.get("parts", []):
        if part.get("node"):
            yield from file_systems(part["node"])
