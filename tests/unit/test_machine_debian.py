"""Guests come from the Debian entries of the host's package sources, and from nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from onebay.machine import debian

SOURCES = """\
Types: deb
# a comment
URIs: http://mirror.invalid/debian
Suites: bookworm bookworm-updates
Components: main contrib

Types: deb
URIs: http://mirror.invalid/debian-security
Suites: bookworm-security
Components: main

Types: deb
URIs: http://other.invalid/x
Suites: bookworm
Components: stable

Enabled: no
Types: deb
URIs: http://off.invalid/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: http://source.invalid/debian
Suites: bookworm
Components: main
"""


def test_stanzas() -> None:
    text = debian.debian_stanzas(SOURCES.split("\n\n"), "bookworm")
    assert "debian-security" in text
    assert text.count("Types:") == 2
    for other in ("other.invalid", "off.invalid", "source.invalid", "#"):
        assert other not in text
    assert debian.debian_stanzas(SOURCES.split("\n\n"), "trixie") == ""


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("deb http://m.invalid/debian bookworm main", True),
        ("deb [signed-by=/k arch=amd64] http://m.invalid/debian bookworm-updates main non-free", True),
        ("deb http://m.invalid/debian bookworm main # why", True),
        ("deb http://m.invalid/debian bookworm-backports main", False),
        ("deb http://m.invalid/x bookworm stable", False),
        ("deb-src http://m.invalid/debian bookworm main", False),
        ("# deb http://m.invalid/debian bookworm main", False),
        ("deb http://m.invalid/debian trixie main", False),
        ("deb ./local", False),
        ("", False),
    ],
)
def test_lines(line: str, kept: bool) -> None:
    assert bool(debian.debian_lines([line], "bookworm")) == kept


def test_no_sources_at_all(tmp_path: Path) -> None:
    found = debian.host_sources(tmp_path)
    assert found.codename
    assert not found.one_line
    assert not found.deb822


def test_command_names_no_mirror() -> None:
    argv = debian.bootstrap_argv(
        Path("/out.tar"), ["a", "b"], debian.Sources("trixie"), hooks=["true"], files=[Path("/x.sources")]
    )
    assert argv[0] == "mmdebstrap"
    assert argv[-3:] == ["trixie", "/out.tar", "/x.sources"]
    assert "--include=a,b" in argv
    assert not any("http" in each for each in argv)
