"""LVM2's metadata text: a tokenizer, a parser that knows where each value stands, and edits of the text.

The text is never written anew: a change replaces the bytes of the values that change, so unknown keys, their
order and comments stay as LVM wrote them. Grammar: lvm2 libdm/libdm-config.c: `key = value`,
`name { ... }`, values are strings, numbers and arrays of them, `#` starts a comment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from onebay.base.error import Damaged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_DEPTH = 16
TOKEN = re.compile(
    rb"""(?P<space>[\s\0]+|\#[^\n]*)
       |(?P<string>"(?:[^"\\]|\\.)*"|'[^']*')
       |(?P<mark>[{}\[\]=,])
       |(?P<word>[^\s\0{}\[\]=,\#"']+)""",
    re.VERBOSE | re.DOTALL,
)
NUMBER = re.compile(rb"-?[0-9]{1,20}\Z")
ESCAPE = re.compile(rb"\\(.)", re.DOTALL)


class Token(NamedTuple):
    """Bytes `start..end` of the text, of one of the four kinds of TOKEN."""

    kind: str
    raw: bytes
    start: int
    end: int


@dataclass(frozen=True)
class Leaf:
    """A value and the bytes `start..end` where it stands. Numbers that are not whole stay strings."""

    value: int | str | list[int | str]
    start: int
    end: int


@dataclass
class Section:
    """A section: its values and sections in the order of the text; `start..end` is `{` to `}` inclusive."""

    name: str
    start: int
    end: int = 0
    items: dict[str, Leaf | Section] = field(default_factory=dict)

    def sections(self) -> Iterator[Section]:
        """Yield the sections in this one, in order."""
        return (item for item in self.items.values() if isinstance(item, Section))

    def section(self, name: str) -> Section:
        """Return a section by name; an empty one where there is none."""
        item = self.items.get(name)
        return item if isinstance(item, Section) else Section(name, self.end, self.end)

    def leaf(self, name: str) -> Leaf:
        """Return a value with its place; raises Damaged where it is missing."""
        item = self.items.get(name)
        if not isinstance(item, Leaf):
            raise Damaged(f"lvm metadata: {self.name or 'top'} has no {name}", at=self.start)
        return item

    def number(self, name: str) -> int:
        """Return a number >= 0; raises Damaged where it is missing or something else."""
        leaf = self.leaf(name)
        if not isinstance(leaf.value, int) or leaf.value < 0:
            raise Damaged(f"lvm metadata: {self.name}/{name} is no number", at=leaf.start, found=leaf.value)
        return leaf.value

    def string(self, name: str, default: str | None = None) -> str:
        """Return a string; raises Damaged where it is missing and no default is given."""
        item = self.items.get(name)
        if item is None and default is not None:
            return default
        leaf = self.leaf(name)
        if not isinstance(leaf.value, str):
            raise Damaged(f"lvm metadata: {self.name}/{name} is no string", at=leaf.start, found=leaf.value)
        return leaf.value

    def array(self, name: str) -> list[int | str]:
        """Return an array; a single value counts as an array of one, a missing one as empty."""
        item = self.items.get(name)
        if not isinstance(item, Leaf):
            return []
        return item.value if isinstance(item.value, list) else [item.value]


class Edit(NamedTuple):
    """Replace bytes `start..end` of a text by `data`."""

    start: int
    end: int
    data: bytes


def tokens(text: bytes) -> Iterator[Token]:
    """Split a text into tokens without space and comments; raises Damaged with the place."""
    at = 0
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            raise Damaged("lvm metadata: not a token", at=at, found=text[at : at + 16])
        kind = match.lastgroup
        assert kind is not None
        if kind != "space":
            yield Token(kind, match.group(), at, match.end())
        at = match.end()


class Parser:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: bytes) -> None:
        self.size = len(text)
        self.source = tokens(text)
        self.next = next(self.source, None)

    def take(self, what: bytes | None = None) -> Token:
        """Return the next token and go on; raises Damaged where it is not `what` or the text ends."""
        token = self.next
        if token is None:
            raise Damaged("lvm metadata: the text ends too early", at=self.size, expected=what)
        if what is not None and token.raw != what:
            raise Damaged("lvm metadata", at=token.start, expected=what.decode(), found=shown(token.raw))
        self.next = next(self.source, None)
        return token

    def at_mark(self, mark: bytes) -> bool:
        """Whether the next token is `mark`."""
        return self.next is not None and self.next.raw == mark

    def body(self, section: Section, depth: int) -> None:
        """Read the items of a section up to its `}` or the end of the text."""
        if depth > MAX_DEPTH:
            raise Damaged("lvm metadata: nested too deep", at=section.start)
        while self.next is not None and not self.at_mark(b"}"):
            key = self.take()
            if key.kind == "mark":
                raise Damaged("lvm metadata", at=key.start, expected="a name", found=shown(key.raw))
            name = unquote(key)
            if name in section.items:
                raise Damaged(f"lvm metadata: {name} is there twice", at=key.start)
            if self.at_mark(b"{"):
                inner = Section(name, self.take().start)
                self.body(inner, depth + 1)
                inner.end = self.take(b"}").end
                section.items[name] = inner
            else:
                self.take(b"=")
                section.items[name] = self.value()

    def value(self) -> Leaf:
        """Read a value: a string, a number, or an array of them."""
        if not self.at_mark(b"["):
            token = self.take()
            return Leaf(scalar(token), token.start, token.end)
        start = self.take(b"[").start
        values: list[int | str] = []
        while not self.at_mark(b"]"):
            values.append(scalar(self.take()))
            if not self.at_mark(b"]"):
                self.take(b",")
        return Leaf(values, start, self.take(b"]").end)


def parse(text: bytes) -> Section:
    """Parse a metadata text; raises Damaged, `at` being a byte of the text."""
    parser = Parser(text)
    top = Section("", 0, len(text))
    parser.body(top, 0)
    if parser.next is not None:
        raise Damaged("lvm metadata: a } too many", at=parser.next.start)
    return top


def scalar(token: Token) -> int | str:
    """Return the value of a string or number token."""
    if token.kind == "mark":
        raise Damaged("lvm metadata", at=token.start, expected="a value", found=shown(token.raw))
    if token.kind == "word" and NUMBER.match(token.raw):
        return int(token.raw)
    return unquote(token)


def unquote(token: Token) -> str:
    """Return the text of a word or quoted string."""
    raw = token.raw
    if token.kind == "string":
        raw = ESCAPE.sub(rb"\1", raw[1:-1]) if raw[:1] == b'"' else raw[1:-1]
    return raw.decode("utf-8", "backslashreplace")


def shown(raw: bytes) -> str:
    """Format a token for a message."""
    return raw[:24].decode("utf-8", "replace")


def replace_number(text: bytes, leaf: Leaf, value: int) -> Edit:
    """Return the edit that sets a number, and drops the comment behind it, which says the old size."""
    end = leaf.end
    comment = re.compile(rb"[ \t]+#[^\n]*").match(text, end)
    return Edit(leaf.start, comment.end() if comment else end, str(value).encode())


def apply_edits(text: bytes, edits: Iterable[Edit]) -> bytes:
    """Return the text with all edits made; they must not overlap."""
    out = bytearray(text)
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        out[edit.start : edit.end] = edit.data
    return bytes(out)
