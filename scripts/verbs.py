#!/usr/bin/env python3
"""Write docs/verbs.md from the command line itself; a test says when it is out of date."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from onebay.cli.main import VERBS, group

TARGET = Path(__file__).parents[1] / "docs" / "verbs.md"
HEAD = """# Verbs

What `onebay VERB --help` says; written by `make docs`. Exit codes: [errors.md](errors.md).
More on [boot](verbs/boot.md), [fold](verbs/fold.md), [repair](verbs/repair.md), [rescue](rescue.md),
[shrink](verbs/shrink.md), [web](web.md).
"""


def pages(command: click.Command, name: str, parent: click.Context) -> list[str]:
    """Return the help of a command and of the commands below it."""
    context = click.Context(command, info_name=name, parent=parent, terminal_width=100, max_content_width=100)
    text = command.get_help(context).rstrip()
    found = [f"\n## {context.command_path}\n\n```\n{text}\n```\n"]
    if isinstance(command, click.Group):
        for sub in command.list_commands(context):
            below = command.get_command(context, sub)
            assert below is not None
            found += pages(below, sub, context)
    return found


def document() -> str:
    """Return the whole page; the folder of a cache is shown as `~`, wherever this runs."""
    root = click.Context(group, info_name="onebay")
    text = HEAD
    for verb in VERBS:
        command = group.get_command(root, verb)
        assert command is not None
        text += "".join(pages(command, verb, root))
    return text.replace(str(Path.home()), "~")


if __name__ == "__main__":
    TARGET.write_text(document(), "utf-8")
    sys.exit(0)
