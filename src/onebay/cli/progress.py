"""Renderers of events: a bar on a terminal, plain lines elsewhere, JSON lines on request."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from onebay.base.error import Refused
from onebay.base.event import Began, Ended, Event, Moved, Noted, Warned
from onebay.base.units import human

if TYPE_CHECKING:
    from collections.abc import Callable

EVENTS_VERSION = 1
INTERVAL = 0.2  # seconds between two drawings of the bar

events_option = click.option("--events", is_flag=True, help="Progress as JSON lines on standard error.")


def renderer(*, events: bool = False) -> Callable[[Event], None]:
    """Return what draws events on standard error; nobody listening there is no reason to stop."""
    draw: Callable[[Event], None] = as_json if events else Bar() if sys.stderr.isatty() else as_lines

    def draw_or_not(event: Event) -> None:
        with contextlib.suppress(OSError):
            draw(event)

    return draw_or_not


def answer(text: str) -> None:
    """Print what was asked for on standard output; raises Refused where that is full."""
    try:
        click.echo(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        what = f"the answer cannot be printed: {error.strerror}"
        raise Refused(what, state="what was asked for is done") from error


def remark(text: str) -> None:
    """Print a line for people on standard error, if anybody listens."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


def as_json(event: Event) -> None:
    """Print one event as one JSON line (docs/events.md)."""
    fields = {"event": type(event).__name__.lower(), "version": EVENTS_VERSION, **asdict(event)}
    click.echo(json.dumps(fields), err=True)


def as_lines(event: Event) -> None:
    """Print what a log should keep: beginnings, ends, notes and warnings."""
    match event:
        case Began():
            amount = f" ({human(event.total)})" if event.total else ""
            click.echo(f"{event.op}: {event.what}{amount}", err=True)
        case Ended():
            click.echo(f"{event.op}: done {event.result}".rstrip(), err=True)
        case Noted() | Warned():
            mark = "warning: " if isinstance(event, Warned) else ""
            where = f"{event.volume}: " if event.volume else ""
            click.echo(f"{mark}{where}{event.text}", err=True)
        case Moved():
            return


class Bar:
    """One line that is drawn anew: amount, rate and time left."""

    def __init__(self) -> None:
        self.total = 0
        self.started = self.drawn = time.monotonic()

    def __call__(self, event: Event) -> None:
        match event:
            case Began():
                self.total = event.total
                self.started = self.drawn = time.monotonic()
                as_lines(event)
            case Moved():
                now = time.monotonic()
                if self.total and now - self.drawn > INTERVAL:
                    self.drawn = now
                    self.draw(event.done, now - self.started)
            case _:
                click.echo("\r\033[K", nl=False, err=True)
                as_lines(event)

    def draw(self, done: int, seconds: float) -> None:
        """Draw the bar; `done` in bytes."""
        share = min(1.0, done / self.total)
        rate = done / seconds if seconds else 0
        left = (self.total - done) / rate if rate else 0
        bar = ("#" * round(30 * share)).ljust(30, ".")
        text = f"\r\033[K[{bar}] {share:4.0%} {human(done)} {human(int(rate))}/s {left:.0f} s left"
        click.echo(text, nl=False, err=True)
