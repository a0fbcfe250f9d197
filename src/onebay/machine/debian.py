"""A Debian root file system of the host's own release, from the host's own package sources.

No mirror is named here: what the machine's administrator configured (a mirror, a proxy, a snapshot) is what
the guests are made of. Third-party entries are left out.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onebay.base import tool

if TYPE_CHECKING:
    from collections.abc import Sequence

APT = Path("/etc/apt")

# What no guest of ours needs: manuals, translations, and the drivers of hardware that no machine here has.
EXCLUDED = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/bug/*",
    "/usr/share/lintian/*",
    "*/kernel/drivers/gpu/*",
    "*/kernel/drivers/media/*",
    "*/kernel/drivers/net/ethernet/*",
    "*/kernel/drivers/net/wireless/*",
    "*/kernel/drivers/infiniband/*",
    "*/kernel/drivers/iio/*",
    "*/kernel/drivers/staging/*",
    "*/kernel/drivers/bluetooth/*",
    "*/kernel/sound/*",
    "*/kernel/net/bluetooth/*",
    "*/kernel/net/mac80211/*",
    "*/kernel/net/wireless/*",
)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where packages come from: a release and the text of sources files ("" for the tool's default)."""

    codename: str
    one_line: str = ""
    deb822: str = ""


def host_sources(apt: Path = APT) -> Sources:
    """Return the Debian entries among the host's package sources; plain bookworm without."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    codename = release.get("VERSION_CODENAME", "") if release.get("ID") == "debian" else ""
    if not codename:
        return Sources("bookworm")
    lists = [apt / "sources.list", *sorted(apt.glob("sources.list.d/*.list"))]
    lines = [line for path in lists if path.is_file() for line in path.read_text("utf-8").splitlines()]
    stanzas = [
        stanza
        for path in sorted(apt.glob("sources.list.d/*.sources"))
        for stanza in path.read_text("utf-8").split("\n\n")
    ]
    return Sources(codename, debian_lines(lines, codename), debian_stanzas(stanzas, codename))


def suites_of(codename: str) -> frozenset[str]:
    """Return the suites of a release that we take packages from."""
    return frozenset(codename + tail for tail in ("", "-updates", "-security"))


def debian_lines(lines: Sequence[str], codename: str) -> str:
    """Keep the one-line entries of the release's own suites."""
    kept = []
    for line in lines:
        text = line.partition("#")[0].strip()
        head, bracket, rest = text.partition("]")
        words = (f"deb x {rest}" if bracket else head).split()
        words = ["deb", *words[2:]] if bracket else words  # deb, URI, suite, components
        ours = len(words) > 3 and words[2] in suites_of(codename) and "main" in words[3:]
        if text.startswith("deb ") and ours:
            kept.append(text)
    return "".join(f"{line}\n" for line in kept)


def debian_stanzas(stanzas: Sequence[str], codename: str) -> str:
    """Keep the deb822 stanzas of the release's own suites."""
    kept = []
    for stanza in stanzas:
        lines = [line for line in stanza.splitlines() if line.strip() and not line.startswith("#")]
        fields = {
            name.strip().lower(): value.split()
            for name, colon, value in (line.partition(":") for line in lines if not line[0].isspace())
            if colon
        }
        suites = set(fields.get("suites", []))
        if (
            suites
            and suites <= suites_of(codename)
            and "main" in fields.get("components", [])
            and "deb" in fields.get("types", [])
            and fields.get("enabled", ["yes"]) != ["no"]
        ):
            kept.append("\n".join(lines))
    return "\n\n".join(kept) + ("\n" if kept else "")


def bootstrap_argv(
    target: Path, packages: Sequence[str], sources: Sources, *, hooks: Sequence[str], files: Sequence[Path]
) -> list[str]:
    """Return the command that makes `target` (its suffix is its format) from packages.

    `hooks` run last, in order; `files` are the sources files to use.
    """
    return [
        "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        f"--include={','.join(packages)}",
        '--aptopt=Apt::Install-Recommends "false"',
        '--aptopt=Acquire::Languages "none"',
        "--dpkgopt=force-confold",
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED),
        # each guest has an initramfs of ours; Debian's own would cost a minute and 40 MB
        '--setup-hook=mkdir -p "$1/etc/initramfs-tools"',
        '--setup-hook=echo update_initramfs=no > "$1/etc/initramfs-tools/update-initramfs.conf"',
        *(f"--customize-hook={hook}" for hook in hooks),
        sources.codename,
        str(target),
        *(str(path) for path in files),
    ]


def bootstrap(
    target: Path,
    packages: Sequence[str],
    sources: Sources,
    *,
    hooks: Sequence[str] = (),
    timeout: float = 1800,
) -> None:
    """Make `target` from packages; sources files are written beside it for the time of the build."""
    files = []
    for suffix, text in (("list", sources.one_line), ("sources", sources.deb822)):
        if text:
            path = target.with_name(f"{target.name}.{suffix}")
            path.write_text(text, "utf-8")
            files.append(path)
    tool.run(bootstrap_argv(target, packages, sources, hooks=hooks, files=files), timeout=timeout)
    for path in files:
        path.unlink()
