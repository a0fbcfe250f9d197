"""The Debian archive, through apt with folders of its own: what the host has installed is not looked at.

The mirror is the one that the host's administrator configured, with another release in its place, or what the
user's own sources file says (a snapshot archive, for packages that mirrors no longer have). apt checks the
archive's signature; every package is held to the lock's SHA-256 besides, also when it comes from our cache.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onebay.base import tool
from onebay.base.error import Corrupt, Missing, Refused, ToolFailed, ToolMissing, Transient
from onebay.machine import cache as caches
from onebay.machine.debian import Sources, suites_of
from onebay.rescue.lock import Package

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onebay.rescue.lock import Lock, Role

TIMEOUT = 1800.0  # seconds for one call of apt-get
HINT = "renew the lock: onebay rescue lock; or give --sources with a snapshot archive of the lock's date"


def of_release(sources: Sources, release: str) -> Sources:
    """Return the host's own sources with the suites of `release` in place of those of its own release."""
    suites = {name: name.replace(sources.codename, release, 1) for name in suites_of(sources.codename)}

    def renamed(text: str) -> str:
        return re.sub(r"\S+", lambda word: suites.get(word[0], word[0]), text)

    return Sources(release, renamed(sources.one_line), renamed(sources.deb822))


def from_file(path: Path, release: str) -> Sources:
    """Return what a sources file of the user's says; its name ends in .sources (deb822) or .list.

    Raises Refused where it cannot be read.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused("the sources cannot be read", volume=str(path)) from error
    return Sources(release, deb822=text) if path.suffix == ".sources" else Sources(release, one_line=text)


@dataclass(frozen=True, slots=True)
class Archive:
    """A configured archive: apt's folders below `folder`."""

    folder: Path
    sources: Sources

    def configure(self) -> None:
        """Write apt's configuration; raises Refused where there are no sources."""
        if not (self.sources.one_line or self.sources.deb822):
            raise Refused(
                f"no package sources of Debian are configured here, {self.sources.codename} is wanted",
                hint="give --sources FILE",
            )
        for name in ("lists/partial", "archives/partial", "sources.d"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for suffix, text in (("list", self.sources.one_line), ("sources", self.sources.deb822)):
            path = self.folder / "sources.d" / f"rescue.{suffix}"
            path.unlink(missing_ok=True)
            if text:
                path.write_text(text, "utf-8")
        (self.folder / "status").write_text("", "ascii")
        # apt reads this after the host's own configuration, whose proxies hold but whose hooks do not
        settings = {
            "Dir::Etc::SourceList": "/dev/null",
            "Dir::Etc::SourceParts": self.folder / "sources.d",
            "Dir::State": self.folder,
            "Dir::State::Lists": self.folder / "lists",
            "Dir::State::Status": self.folder / "status",
            "Dir::Cache": self.folder,
            "Dir::Cache::Archives": self.folder / "archives",
            "APT::Architecture": "amd64",
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",  # the folders are ours and need not be open to apt's own user
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        text = "#clear APT::Architectures;\n#clear APT::Update::Post-Invoke;\n"
        text += "#clear APT::Update::Post-Invoke-Success;\n"
        text += "".join(f'{name} "{value}";\n' for name, value in settings.items())
        (self.folder / "apt.conf").write_text(text, "utf-8")

    def apt(self, program: str, *argv: str, cwd: Path | None = None) -> str:
        """Run one of apt's programs and return what it prints; raises ToolMissing, ToolFailed."""
        return tool.run([program, "-c", self.folder / "apt.conf", *argv], timeout=TIMEOUT, cwd=cwd).text

    def update(self) -> None:
        """Fetch the indexes; raises Transient where the archive does not answer, ToolMissing."""
        self.configure()
        try:
            self.apt("apt-get", "-q", "--error-on=any", "update")
        except ToolMissing:
            raise
        except ToolFailed as error:
            raise Transient(f"the archive's indexes could not be fetched: {error}") from error

    def closure(self, roots: Sequence[str]) -> list[str]:
        """Return the names of `roots` and of everything that they depend on."""
        text = self.apt("apt-get", "-q", "--simulate", "install", *roots)
        return sorted(
            {line.split()[1].partition(":")[0] for line in text.splitlines() if line[:5] == "Inst "}
        )

    def records(self, names: Sequence[str]) -> list[dict[str, str]]:
        """Return what the Packages index says of packages (`name` or `name=version`) that it has."""
        argv: list[str | Path] = [
            "apt-cache",
            "-c",
            self.folder / "apt.conf",
            "--no-all-versions",
            "show",
            *names,
        ]
        text = tool.run(argv, timeout=TIMEOUT, ok=(0, 100)).text  # 100: some are not there
        return [parse_record(stanza) for stanza in text.split("\n\n") if stanza.strip()]

    def packages(self, names: Sequence[str], role: Role) -> list[Package]:
        """Return the newest versions of packages as the index has them."""
        found = []
        for record in self.records(names):
            fields = [record[key] for key in ("Package", "Version", "Architecture", "Size", "SHA256")]
            found.append(Package(role, fields[0], fields[1], fields[2], int(fields[3]), fields[4]))
        return found


def parse_record(stanza: str) -> dict[str, str]:
    """Return the fields of a stanza of a Packages index, the first line of each."""
    lines = (line.partition(":") for line in stanza.splitlines() if line[:1].strip())
    return {name: value.strip() for name, colon, value in lines if colon}


def fetch(lock: Lock, name: str, archive: Archive, cache: Path) -> dict[Package, Path]:
    """Return the file of every package of the lock called `name`, from `cache` or the archive.

    Raises Missing for what the archive no longer has, Corrupt where it has other bytes, Transient.
    """
    store = cache / "packages"
    with caches.lock(cache / "packages.lock"):
        store.mkdir(parents=True, exist_ok=True)
        files = {package: store / f"{package.sha256}.deb" for package in lock.packages}
        wanted = [package for package, path in files.items() if not is_whole(path, package)]
        if wanted:
            archive.update()
            refuse_absent(wanted, archive, name)
            with tempfile.TemporaryDirectory(prefix="fetch-", dir=cache) as part:
                download(wanted, archive, Path(part), files)
    return files


def is_whole(path: Path, package: Package) -> bool:
    """Whether a file is there and is the package."""
    return path.is_file() and path.stat().st_size == package.size and digest(path) == package.sha256


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_absent(wanted: Sequence[Package], archive: Archive, name: str) -> None:
    """Raise Missing or Corrupt where the index does not have the packages of the lock."""
    records = archive.records([f"{package.name}={package.version}" for package in wanted])
    known = {(record["Package"], record["Version"]): record.get("SHA256", "") for record in records}
    absent = [package for package in wanted if (package.name, package.version) not in known]
    if absent:
        some = ", ".join(f"{package.name} {package.version}" for package in absent[:4])
        more = f" and {len(absent) - 4} more" if len(absent) > 4 else ""
        raise Missing(f"the archive no longer has {some}{more}", volume=name, hint=HINT)
    for package in wanted:
        found = known[package.name, package.version]
        if found != package.sha256:
            raise Corrupt(
                f"sha256 of {package.name} {package.version}",
                volume=name,
                expected=package.sha256,
                found=found,
                hint=HINT,
            )


def download(wanted: Iterable[Package], archive: Archive, part: Path, files: Mapping[Package, Path]) -> None:
    """Fetch packages into the folder `part`, check them and move them to their places."""
    argv = [f"{package.name}={package.version}" for package in wanted]
    try:
        archive.apt("apt-get", "-q", "download", *argv, cwd=part)
    except ToolMissing:
        raise
    except ToolFailed as error:
        raise Transient(f"packages could not be fetched: {error}") from error
    fetched = {digest(path): path for path in part.iterdir()}
    for package in wanted:
        if package.sha256 not in fetched:
            raise Corrupt(f"sha256 of {package.name} {package.version}", expected=package.sha256)
        shutil.move(fetched[package.sha256], files[package])
