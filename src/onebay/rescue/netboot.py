"""What firmware and boot loaders read over the network: a script for iPXE, GRUB and shim for UEFI.

iPXE resolves names by the place of the script that it runs (https://ipxe.org/scripting), so that the folder
of a build works wherever it lies. Debian's GRUB for the network (grubnetx64) has /grub built in as the place
of its configuration, on the server that it came from, and shim loads grubx64.efi from beside itself: for UEFI
the folder must be the root of the server, be it of HTTP or of TFTP.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from onebay.base.error import Refused
from onebay.rescue.iso import COMMAND_LINE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from onebay.rescue.files import Node

SIGNED = {
    "shimx64.efi": "usr/lib/shim/shimx64.efi.signed",
    "grubx64.efi": "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed",
}
SCRIPT, CONFIG = "boot.ipxe", "grub/grub.cfg"
MOST = 2047  # bytes of a kernel command line (x86: COMMAND_LINE_SIZE, less its end)
WORD = re.compile(
    r"[A-Za-z0-9_.:/@%+,=~?&*!\[\]-]+"
)  # what neither iPXE nor GRUB would take apart or replace


def checked(words: Sequence[str]) -> list[str]:
    """Return kernel arguments, ours first; raises Refused where they may not stand in a script."""
    for word in words:
        if not WORD.fullmatch(word):
            raise Refused("no boot loader hands this on as it is", volume="kernel arguments", found=word)
    line = [*COMMAND_LINE.split(), *words]
    if (length := len(" ".join(line))) > MOST:
        raise Refused("kernel arguments are too long", expected=f"at most {MOST} bytes", found=length)
    return line


def script(words: Sequence[str] = (), *, base: str | None = None) -> str:
    """Return the script for iPXE; `base` is a URL that ends with "/", None leaves it to whoever chains."""
    line = " ".join(checked(words))
    if base is None:
        how = "# base: where kernel and initramfs are, with its last /, if not here; args: more arguments\n"
        base, line = "${base}", f"{line} ${{args}}"
    else:
        how = ""
    return f"#!ipxe\n{how}kernel {base}vmlinuz initrd=initrd {line}\ninitrd {base}initrd\nboot\n"


def config(words: Sequence[str] = ()) -> str:
    """Return the configuration of GRUB."""
    line = " ".join(f"'{word}'" for word in checked(words))
    return f'set timeout=3\nmenuentry "onebay rescue" {{\n    linux /vmlinuz {line}\n    initrd /initrd\n}}\n'


def write(folder: Path, build: Mapping[str, Node]) -> None:
    """Put what the network needs beside kernel and initramfs; `build` holds the signed loaders."""
    (folder / CONFIG).parent.mkdir()
    (folder / CONFIG).write_text(config(), "ascii")
    (folder / SCRIPT).write_text(script(), "ascii")
    for name, source in SIGNED.items():
        (folder / name).write_bytes(build[source].data)
