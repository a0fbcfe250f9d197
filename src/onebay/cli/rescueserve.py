"""onebay rescue serve: the rescue system and images over HTTP, for machines that boot from the network."""

from __future__ import annotations

import base64
import importlib
import socket
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from onebay.base.error import Refused, ToolMissing, reason
from onebay.cli.options import PATH
from onebay.cli.progress import answer, remark
from onebay.image import Image
from onebay.rescue import netboot
from onebay.rescue.live.layers import parse_command_line, words
from onebay.rescue.live.settings import parse
from onebay.source import open_source

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

PORT = 8080
NEEDED = ("vmlinuz", "initrd")
ANYWHERE = "192.0.2.1"  # RFC 5737: a packet there would leave by the default route


@click.command()
@click.argument("folder", type=PATH)
@click.option(
    "--listen", default=f"0.0.0.0:{PORT}", show_default=True, metavar="ADDRESS:PORT", help="Where to listen."
)
@click.option("--images", type=PATH, metavar="FOLDER", help="Serve the files of this folder below images/.")
@click.option(
    "--restore",
    metavar="IMAGE",
    help="What each machine that boots restores, with nobody asked: a name in --images, or a URL.",
)
@click.option("--target", metavar="WHICH", help="To which disk: serial:TEXT, size:256G, size:MIN-MAX, only.")
@click.option(
    "--digest", metavar="sha256:HEX", help="Root digest of the image; of one in --images it is known."
)
@click.option("--then", type=click.Choice(["reboot", "poweroff", "stay"]), help="What follows a restore.")
@click.option("--webhook", metavar="URL", help="Where the restore tells how it goes.")
@click.option(
    "--ssh-key", "keys", type=PATH, multiple=True, metavar="FILE", help="Who may log in; again for more."
)
@click.option("--append", default="", metavar="WORDS", help="More words for the kernel's command line.")
def serve(
    folder: Path,
    listen: str,
    images: Path | None,
    restore: str | None,
    target: str | None,
    digest: str | None,
    then: str | None,
    webhook: str | None,
    keys: tuple[Path, ...],
    append: str,
) -> None:
    """Serve FOLDER, made by rescue build, to iPXE and to UEFI firmware. DHCP stays the site's own.

    Nothing is written. A machine that has loaded the initramfs for a --restore is sent to its own disk when
    it boots from here again, until this ends.
    """
    module = netserve()
    check_folder(folder)
    job = {"restore": restore, "target": target, "digest": digest, "then": then, "webhook": webhook}
    if restore is not None:
        job |= place_of(restore, images, digest)
    line = [f"onebay.{key}={value}" for key, value in job.items() if value is not None]
    line += [f"onebay.ssh={key}" for path in keys for key in key_words(path)]
    line += words(append)
    check(line)
    with closing(listener(listen)) as port:
        own = own_address(port)
        for text in told(own):
            answer(text)
        if restore is not None:
            remark(f"warning: every machine that boots from here has its disk overwritten ({target})")
        module.serve(module.Site(folder, images, tuple(line), own, job=restore is not None), port)


def netserve() -> ModuleType:
    """Return the server; raises ToolMissing where the libraries are not installed."""
    try:
        return importlib.import_module("onebay.rescue.netserve")
    except ModuleNotFoundError as error:
        hint = "pip install 'onebay[web]', or apt-get install python3-starlette python3-uvicorn"
        raise ToolMissing(f"{error.name} is not installed", hint=hint) from error


def check_folder(folder: Path) -> None:
    """Raise Refused where a folder is none of a build."""
    for name in NEEDED:
        if not (folder / name).is_file():
            raise Refused(f"has no {name}", volume=str(folder), hint="onebay rescue build FOLDER")


def place_of(restore: str, images: Path | None, digest: str | None) -> dict[str, str | None]:
    """Return address and digest of an image; raises Refused, or what opening it raises."""
    if "://" in restore:
        return {"restore": restore, "digest": digest}
    path = images / restore if images else None
    if path is None or path.parent != images or not path.is_file() or restore.startswith("."):
        raise Refused("is neither a URL nor a file in --images", volume=restore)
    with closing(open_source(str(path))) as source:
        root = f"sha256:{Image.open(source).root.digest.hex()}"
    if digest not in (None, root):
        raise Refused("is another image", volume=restore, expected=digest, found=root)
    return {"restore": f"{{base}}images/{quote(restore)}", "digest": root}


def key_words(path: Path) -> list[str]:
    """Return the public keys of a file as one word each: base64url, which no boot loader takes apart."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = reason(error) if isinstance(error, OSError) else "is no text"
        raise Refused(why, volume=str(path)) from error
    kept = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return [base64.urlsafe_b64encode(line.encode()).decode().rstrip("=") for line in kept]


def check(line: list[str]) -> None:
    """Raise Refused where the rescue system would not understand its command line, or a loader breaks it."""
    sample = [word.replace("{base}", f"http://{'a' * 60}/") for word in line]
    netboot.checked(sample)
    parse(parse_command_line(" ".join(sample)))


def listener(listen: str) -> socket.socket:
    """Return a socket that listens at ADDRESS:PORT; raises UsageError, Refused."""
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise click.BadParameter(f"{listen!r} is not ADDRESS:PORT", param_hint="--listen")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, int(port)), family=family, dualstack_ipv6=host == "::")
    except OSError as error:
        raise Refused(reason(error), volume=listen) from error


def own_address(port: socket.socket) -> str:
    """Return HOST:PORT by which others reach a socket, as far as this machine knows."""
    host, number = port.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((ANYWHERE, 9))  # sends nothing, but finds the way
                host = probe.getsockname()[0]
            except OSError:
                host = socket.gethostname()
    return f"[{host}]:{number}" if ":" in host else f"{host}:{number}"


def told(own: str) -> list[str]:
    """Return what a site's dnsmasq needs to know (docs/rescue.md)."""
    return [
        f"http://{own}/{netboot.SCRIPT}",
        "dnsmasq, for machines that are tagged rescue (dhcp-host=MAC,set:rescue):",
        "  dhcp-match=set:ipxe,175",
        f"  dhcp-boot=tag:rescue,tag:ipxe,http://{own}/{netboot.SCRIPT}",
        "  dhcp-vendorclass=set:httpboot,HTTPClient:Arch:00016",
        "  dhcp-option-force=tag:rescue,tag:httpboot,60,HTTPClient",
        f"  dhcp-boot=tag:rescue,tag:httpboot,http://{own}/shimx64.efi",
    ]
