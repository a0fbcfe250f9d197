"""Bytes between a browser and a job's pipes: never all of them at once, neither in memory nor in a file."""

from __future__ import annotations

import asyncio
import contextlib
import io
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from subprocess import Popen

    from starlette.requests import Request

    from onebay.web.jobs import Job, Jobs

PIECE = 1 << 18
MOST_HEAD = 64 << 20  # bytes of an image that are looked at for a plan
PATIENCE = 120.0  # seconds for a plan from the first bytes of an image


class CutError(Exception):
    """A download cannot be completed; the connection ends without its mark, so that browsers know."""


async def spill(process: Popen[bytes], job: Job) -> AsyncIterator[bytes]:
    """Yield what a job writes; raises CutError where it fails. A browser that leaves ends the job."""
    assert isinstance(process.stdout, io.BufferedReader)
    whole = False
    try:
        while piece := await asyncio.to_thread(process.stdout.read1, PIECE):
            yield piece
        status = await asyncio.to_thread(process.wait)
        if status:
            raise CutError(job.command.title)
        whole = True
    finally:
        if not whole:
            if process.poll() is None:
                job.log.append("the browser left; the download is not complete")
            job.cancel()
        # closing waits for a thread that still reads, until the job has ended
        asyncio.get_running_loop().run_in_executor(None, process.stdout.close)


async def feed(process: Popen[bytes], job: Job, body: AsyncIterator[bytes]) -> None:
    """Give a job what a browser sends; one that leaves makes it end early, and the job says so.

    Where the job ends first, its log says why, and the rest is left alone.
    """
    assert process.stdin is not None
    try:
        async for piece in body:
            await asyncio.to_thread(process.stdin.write, piece)
    except ClientDisconnect:
        job.log.append("the browser left; the upload is not complete")
    except BrokenPipeError:
        pass
    finally:
        with contextlib.suppress(BrokenPipeError):
            await asyncio.to_thread(process.stdin.close)


async def head(jobs: Jobs, job: Job, request: Request) -> bool:
    """Plan from the first bytes of an image; return whether more of them are needed.

    All of the request is read, also what the plan does not need: browsers look at no answer before.
    """
    process = jobs.start(job)
    body, size = request.stream(), 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal size
        async for piece in body:
            size += len(piece)
            if size <= MOST_HEAD:
                yield piece

    pieces = counted()
    await feed(process, job, pieces)
    async for _ in pieces if job.state != "failed" else counted():
        pass
    assert job.thread is not None
    await asyncio.to_thread(job.thread.join, PATIENCE)
    return (
        job.state == "failed"
        and size < MOST_HEAD
        and any("ends before its manifest" in line for line in job.log)
    )
