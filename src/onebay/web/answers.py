"""Small things that every answer is made of."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse

from onebay.web.guard import MOST_BODY

if TYPE_CHECKING:
    from starlette.requests import Request

    from onebay.web.disks import Disk


SLOWEST = 10.0  # seconds for a form to arrive


def html(text: str, code: int = 200) -> HTMLResponse:
    """Return a page; of a name that is not UTF-8 it shows question marks."""
    return HTMLResponse(text.encode("utf-8", "replace"), code)


def see(path: str) -> RedirectResponse:
    """Lead to another page of ours."""
    return RedirectResponse(path, 303)


def find(disks: list[Disk], key: str) -> Disk:
    """Return the disk with this key; raises HTTPException 404."""
    for disk in disks:
        if disk.key == key:
            return disk
    raise HTTPException(404)


async def form_of(request: Request) -> dict[str, str]:
    """Return the fields of a form; raises HTTPException 413 or 408 for a long or slow one, 400 for none."""
    body = bytearray()
    try:
        async with asyncio.timeout(SLOWEST):
            async for piece in request.stream():
                body += piece
                if len(body) > MOST_BODY:
                    raise HTTPException(413)
    except TimeoutError:
        raise HTTPException(408) from None
    with contextlib.suppress(ValueError):
        return dict(parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=50))
    raise HTTPException(400)
