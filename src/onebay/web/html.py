"""Markup that escapes by construction: text becomes markup only through `tag`."""

from __future__ import annotations

from html import escape

VOID = frozenset(("input", "link", "meta", "img", "br"))


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


Child = str | None
Attribute = str | int | bool | None


def tag(name: str, /, *children: Child, **attributes: Attribute) -> Html:
    """Return an element; a child that is no Html is escaped, None is left out.

    Of an attribute's name a trailing underscore is dropped, others become hyphens; False and None leave it
    out.
    """
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        shown = key.rstrip("_").replace("_", "-")
        words.append(shown if value is True else f'{shown}="{escape(str(value))}"')
    start = f"<{' '.join(words)}>"
    return Html(start if name in VOID else f"{start}{join(*children)}</{name}>")


def join(*children: Child) -> Html:
    """Return children one after the other."""
    found = (child for child in children if child is not None)
    return Html("".join(child if isinstance(child, Html) else escape(child) for child in found))


def document(*children: Child, lang: str) -> Html:
    """Return a whole page."""
    return Html(f"<!doctype html>\n{tag('html', *children, lang=lang)}\n")
