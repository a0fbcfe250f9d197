"""From a form to a command line: everything is looked up or checked, nothing is passed on as it came."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from onebay.base.error import Error, Refused
from onebay.web.jobs import Command, Pipe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from onebay.web.disks import Disk, Shelf

LONGEST_URL = 4096
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# of the image, as a rehearsal of restore names it first (cli/restore.py)
NAMED = re.compile(r"^note: the image's (digest|manifest) (sha256:[0-9a-f]{64})$", re.MULTILINE)
PINS = {"digest": "--digest", "manifest": "--expect-manifest"}
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
EXPECT = re.compile(r"[ -~]{1,100}")


@dataclass(frozen=True, slots=True)
class Choice:
    """What a user wants done: `argv` without --dry-run, --yes and --events; `writes`: to the disk itself."""

    verb: str
    disk: Disk
    argv: tuple[str, ...]
    writes: bool = False
    pipe: Pipe = ""
    plans: bool = True
    others: tuple[Disk, ...] = ()
    secret: tuple[tuple[str, str], ...] = ()

    @property
    def title(self) -> str:
        """The verb and the disk."""
        return f"{self.verb} {self.disk.path.name}"

    def rehearsal(self) -> Command:
        """Return the command that shows the plan and writes nothing."""
        pipe: Pipe = "upload" if self.pipe == "upload" else ""
        return replace(self.command((*self.expect(), "--dry-run")), pipe=pipe, rehearsal=True)

    def run(self, planned: str = "") -> Command:
        """Return the command itself, which refuses other disks than those that were looked at.

        `planned` is what the rehearsal said: a restore refuses another image than it named.
        """
        yes = ("--yes",) if self.writes else ()
        pin = NAMED.search(planned) if self.verb == "restore" else None
        image = (PINS[pin[1]], pin[2]) if pin else ()
        return self.command((*yes, *self.expect(), *image, "--events"))

    def expect(self) -> tuple[str, ...]:
        """Return the options by which the command knows the disks that were looked at."""
        if not self.writes:
            return ()
        serial = ("--expect-serial", self.disk.serial) if self.disk.serial else ()
        boot = tuple(word for disk in self.others for word in ("--expect-boot", disk.fingerprint))
        return (*serial, "--expect-disk", self.disk.fingerprint, *boot)

    def anew(self, shelf: Shelf) -> Choice:
        """Return the same for the disks as they are now; raises Refused where one is gone."""
        others = tuple(shelf.disk(disk.key) for disk in self.others)
        return replace(self, disk=shelf.disk(self.disk.key), others=others)

    def command(self, more: tuple[str, ...]) -> Command:
        """Return a command with more options."""
        disks = frozenset(disk.key for disk in (self.disk, *self.others))
        return Command(self.title, (*self.argv, *more), disks, self.pipe, self.secret)


def choose(form: Mapping[str, str], shelf: Shelf, *, rescue: bool) -> Choice:
    """Return what a form asks for; raises Refused where it asks for what is not offered."""
    verb = form.get("verb", "")
    make = VERBS.get(verb)
    if make is None or (rescue and verb in ("boot", "shrink")):
        raise Refused("no such action")
    disk = shelf.disk(form.get("disk", ""))
    if disk.trouble:
        raise Refused(disk.trouble)
    return make(form, disk, shelf)


def capture(form: Mapping[str, str], disk: Disk, shelf: Shelf) -> Choice:
    """A capture: into the browser, to a URL, or into the folder of images."""
    extra = ("--minimize",) if form.get("minimize") else ()
    match form.get("to"):
        case "download":
            return Choice("capture", disk, ("capture", *extra, str(disk.path), "-"), pipe="download")
        case "url":
            url = address(form.get("url", ""))
            return Choice("capture", disk, ("capture", *extra, str(disk.path), url), secret=hide(url))
        case "file":
            place = new_file(form, shelf, ".raw.zst")
            return Choice("capture", disk, ("capture", *extra, str(disk.path), place))
    raise Refused("where shall it go?")


def restore(form: Mapping[str, str], disk: Disk, shelf: Shelf) -> Choice:
    """A restore: from the browser, a URL, or a file that is offered."""
    extra: tuple[str, ...] = ("--verify",) if form.get("verify") else ()
    if digest := form.get("digest", "").strip():
        if not DIGEST.fullmatch(digest):
            raise Refused("a digest is sha256: and 64 hexadecimal digits", found=digest[:80])
        extra += ("--digest", digest)
    match form.get("from", "").split(":", 1):
        case ["upload"]:
            argv = ("restore", *extra, "-", str(disk.path))
            return Choice("restore", disk, argv, writes=True, pipe="upload")
        case ["url"]:
            url = address(form.get("url", ""))
            argv = ("restore", *extra, url, str(disk.path))
            return Choice("restore", disk, argv, writes=True, secret=hide(url))
        case ["file", key]:
            argv = ("restore", *extra, str(shelf.file(key).path), str(disk.path))
            return Choice("restore", disk, argv, writes=True)
    raise Refused("where shall the image come from?")


def grow(form: Mapping[str, str], disk: Disk, shelf: Shelf) -> Choice:  # noqa: ARG001
    """Grow the disk; an MBR is turned into a GPT where that is asked for."""
    extra = ("--table", "gpt") if form.get("gpt") else ()
    return Choice("grow", disk, ("grow", *extra, str(disk.path)), writes=True)


def shrink(form: Mapping[str, str], disk: Disk, shelf: Shelf) -> Choice:
    """Make a smaller disk in the folder of images."""
    place = new_file(form, shelf, ".img")
    return Choice("shrink", disk, ("shrink", str(disk.path), "--output", place))


def fold(form: Mapping[str, str], disk: Disk, shelf: Shelf) -> Choice:
    """Fold another disk into this one."""
    boot = shelf.disk(form.get("boot", ""))
    if boot.trouble:
        raise Refused(boot.trouble)
    if boot.key == disk.key:
        raise Refused("the boot disk is another disk than the data disk")
    extra = ("--table", "gpt") if form.get("gpt") else ()
    argv = ("fold", "--boot", str(boot.path), "--data", str(disk.path), "--in-place", *extra)
    return Choice("fold", disk, argv, writes=True, others=(boot,))


def repair(form: Mapping[str, str], disk: Disk, shelf: Shelf) -> Choice:
    """Repair the disk, by itself or with its kit or image."""
    match form.get("kit", "").split(":", 1):
        case ["url"]:
            url = address(form.get("url", ""))
            argv = ("repair", "--kit", url, str(disk.path))
            return Choice("repair", disk, argv, writes=True, secret=hide(url))
        case ["file", key]:
            argv = ("repair", "--kit", str(shelf.file(key).path), str(disk.path))
            return Choice("repair", disk, argv, writes=True)
        case _:
            return Choice("repair", disk, ("repair", str(disk.path)), writes=True)


def boot(form: Mapping[str, str], disk: Disk, shelf: Shelf) -> Choice:
    """Boot the disk in a virtual machine, which writes nothing to it."""
    firmware, expect = form.get("firmware", ""), form.get("expect", "")
    if firmware not in ("bios", "uefi") or not EXPECT.fullmatch(expect):
        raise Refused("give the firmware, and the text to wait for, of 1 to 100 ASCII characters")
    log = shelf.scratch / f"{secrets.token_hex(8)}.log"
    argv = ("boot", "--firmware", firmware, f"--expect={expect}", f"--log={log}", str(disk.path))
    return Choice("boot", disk, argv, plans=False)


VERBS: dict[str, Callable[[Mapping[str, str], Disk, Shelf], Choice]] = {
    "capture": capture,
    "restore": restore,
    "grow": grow,
    "shrink": shrink,
    "fold": fold,
    "repair": repair,
    "boot": boot,
}


def address(text: str) -> str:
    """Return an http or https URL; raises Refused for anything else, a path above all."""
    url = text.strip()
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        good = False
    if not good or len(url) > LONGEST_URL or not url.isprintable() or " " in url:
        raise Refused("not an http or https address")
    return url


def hide(url: str) -> tuple[tuple[str, str], ...]:
    """Return what to put in a URL's place, wherever it would be shown: no password, no signature."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    user = "***@" if "@" in parts.netloc else ""
    shown = f"{parts.scheme}://{user}{host}{parts.path}" + ("?..." if parts.query else "")
    return ((url, shown),) if shown != url else ()


def new_file(form: Mapping[str, str], shelf: Shelf, suffix: str) -> str:
    """Return the path of a new file in the folder of images; raises Refused."""
    if shelf.images is None:
        raise Refused("there is no folder of images")
    name = form.get("name", "").strip().removesuffix(suffix)
    if not NAME.fullmatch(name):
        raise Refused("a name has letters, digits, dots, hyphens and underlines only")
    path = shelf.images / f"{name}{suffix}"
    if path.exists() or path.is_symlink():
        raise Refused("exists already", volume=path.name, hint="another name")
    return str(path)


def explain(error: Error) -> str:
    """Return what a page says of a failure."""
    return f"{error}" + (f" ({error.hint})" if error.hint else "")
