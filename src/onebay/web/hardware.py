"""What the page does with the machine itself, in a rescue: partitions of other disks, power off, reboot."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

from onebay.base.error import Refused
from onebay.web import media, pages, power, status
from onebay.web.answers import form_of, html, see

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request
    from starlette.responses import Response

    from onebay.web.site import Site


@dataclass
class Hardware:
    """The machine that a site runs on; partitions are mounted under `folder`, None: not here."""

    site: Site
    folder: Path | None

    async def mount(self, request: Request) -> Response:
        """Open a partition for its images."""
        form = await form_of(request)
        if self.folder is None:
            raise HTTPException(404)
        disk = await asyncio.to_thread(self.site.shelf.disk, form.get("disk", ""))
        found = (await self.site.shelf.look(disk)).document or {"tree": {}}
        kinds = {str(number): (number, kind) for number, kind in media.mountable(found)}
        if form.get("number") not in kinds or self.site.jobs.rival(frozenset((disk.key,))):
            raise Refused("no such partition, or a job uses the disk")
        number, kind = kinds[form["number"]]
        place = await asyncio.to_thread(media.mount, disk, number, kind, self.folder)
        self.site.shelf.media[self.site.shelf.key(place)] = place
        return see("/")

    async def unmount(self, request: Request) -> Response:
        """Close a partition."""
        place = self.site.shelf.media.get(request.path_params["key"])
        if place is None:
            raise HTTPException(404)
        await asyncio.to_thread(media.unmount, place)
        del self.site.shelf.media[request.path_params["key"]]
        return see("/")

    async def power(self, request: Request) -> Response:
        """Ask, then let the machine go down."""
        view, what = self.site.view(request), request.path_params["what"]
        if not self.site.rescue or what not in power.SIGNALS:
            raise HTTPException(404)
        if request.method != "POST":
            return html(pages.power_ask(view, what))
        # what the settings of a rescue started is a process of its own
        other = status.read(self.site.folder, "job").get("state") == "running"
        if other or self.site.jobs.running():
            return html(pages.message(view, view(what), view("power-running")), 409)
        asyncio.get_running_loop().call_later(1.0, power.down, what)
        return html(pages.message(view, view(what), view("power-now")))
