"""The options that say which image is meant, and what they mean together."""

from __future__ import annotations

import functools
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import click

from onebay.cli.options import PATH
from onebay.ops.trust import Trust, check_key, parse_digest, read_signature
from onebay.source import open_source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def as_digest(ctx: click.Context, param: click.Parameter, value: str | None) -> bytes | None:  # noqa: ARG001
    """Return the bytes of a digest."""
    try:
        return None if value is None else parse_digest(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def trust_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which IMAGE is meant; the function gets them as `trust`."""

    @click.option(
        "--digest",
        callback=as_digest,
        metavar="sha256:HEX",
        help="The image's root digest, as verify prints it; another image is refused.",
    )
    @click.option(
        "--public-key",
        type=PATH,
        metavar="FILE",
        help="Refuse an image that the owner of this key (PEM) has not signed.",
    )
    @click.option("--signature", metavar="PLACE", help="File or URL of the signature, if not IMAGE.sig.")
    @functools.wraps(function)
    def wrapped(
        *args: object,
        image: str,
        digest: bytes | None,
        public_key: Path | None,
        signature: str | None,
        **kwargs: object,
    ) -> None:
        trust = trust_for(image, digest, public_key, signature)
        function(*args, image=image, trust=trust, **kwargs)

    return wrapped


def trust_for(image: str, digest: bytes | None, public_key: Path | None, signature: str | None) -> Trust:
    """Read the signature where a key is given; raises UsageError, Refused, SourceError, ToolMissing."""
    if public_key is None:
        if signature is not None:
            raise click.UsageError("--signature needs --public-key FILE")
        return Trust(digest)
    if signature is None and image == "-":
        raise click.UsageError("standard input has no name: give --signature PLACE as well")
    check_key(public_key)
    with closing(open_source(signature or beside(image))) as source:
        return Trust(digest, public_key, read_signature(source))


def beside(image: str) -> str:
    """Return the place of the signature that goes with an image."""
    parts = urlsplit(image) if image.lower().startswith(("http://", "https://")) else None
    return f"{image}.sig" if parts is None else urlunsplit(parts._replace(path=f"{parts.path}.sig"))
