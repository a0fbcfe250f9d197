"""VERSION and GRUB_VER: lines KEY="value", as a shell reads them; nothing is expanded, other lines are
ignored.

Keys seen in public packages: majorversion, minorversion, productversion, buildnumber, smallfixnumber,
buildphase, builddate, unique (synology_PLATFORM_MODEL); in GRUB_VER: PLATFORM, MODEL.
"""

from __future__ import annotations

import re

LINE = re.compile(r"""\s*([A-Za-z_]\w{0,63})=(?:"([^"]*)"|'([^']*)'|([^\s"']*))\s*""", re.ASCII)
MAX_VALUE = 256
MAX_KEYS = 256
TELLING = ("majorversion", "productversion", "buildnumber")


def read_keys(text: bytes) -> dict[str, str]:
    """Return what a file of this kind says; where a key comes twice the last counts, as in a shell."""
    found: dict[str, str] = {}
    for line in text.decode("utf-8", "backslashreplace").split("\n"):
        match = LINE.fullmatch(line)
        if match and len(found) < MAX_KEYS:
            value = next((group for group in match.groups()[1:] if group is not None), "")
            found[match[1]] = value[:MAX_VALUE]
    return found


def is_version(keys: dict[str, str]) -> bool:
    """Whether these are the keys of a system's version, and not of any other file of that name."""
    return any(keys.get(key) for key in TELLING)


def version_of(keys: dict[str, str]) -> str:
    """Return the version that people know: 6.2.4, or 6.2 where nothing more is said."""
    if full := keys.get("productversion"):
        return full
    return ".".join(keys[key] for key in ("majorversion", "minorversion") if keys.get(key))
