"""onebay rescue: the rescue system, its making and what runs in it.

Each sub-command is imported when it is called: what keeps a rescue system up stays in memory with what it
needs.
"""

from __future__ import annotations

import importlib

import click

# sub-command -> its file in this folder; the name of the command there is that of the sub-command
COMMANDS = {
    "build": "rescuebuild",
    "config": "rescueconfig",
    "job": "rescuejob",
    "key": "rescuelive",
    "lock": "rescuebuild",
    "serve": "rescueserve",
    "up": "rescuelive",
}
HIDDEN = ("job", "up")  # for the rescue system itself


class Commands(click.Group):
    """A group that imports a sub-command's file when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return [name for name in COMMANDS if name not in HIDDEN]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"onebay.cli.{COMMANDS[cmd_name]}"), cmd_name)
        assert isinstance(command, click.Command)
        return command


@click.command(cls=Commands)
def command() -> None:
    """Everything onebay does, from RAM: a system made of Debian packages, without root."""
