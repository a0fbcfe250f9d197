"""Tokens and words of GRUB's configuration language, with their places in the text.

Source: grub 2.06, grub-core/script/yylex.l; grub-core/kern/file.c drops carriage returns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NoReturn

from onebay.base.error import Inconsistent

if TYPE_CHECKING:
    from collections.abc import Iterator

PartKind = Literal["plain", "single", "double", "escape", "variable"]

BLANK = " \t\r"
STOP = "{}|&;<> \t\n\r'\"\\$"
ALPHA = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")
DIGIT = frozenset("0123456789")
SPECIAL = frozenset("?#*@")


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a word: characters `start..end` of the text; `text` is its value, or a variable's name.

    `quoted` tells a variable or an escape inside double quotes from one outside.
    """

    kind: PartKind
    start: int
    end: int
    text: str
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class Word:
    """A word: characters `start..end` of the text, in parts."""

    start: int
    end: int
    parts: tuple[Part, ...]

    @property
    def literal(self) -> str | None:
        """The word's value, or None where a variable takes part in it."""
        if any(part.kind == "variable" for part in self.parts):
            return None
        return "".join(part.text for part in self.parts)

    @property
    def bare(self) -> bool:
        """Whether nothing in the word is quoted or a variable, as keywords must be."""
        return len(self.parts) == 1 and self.parts[0].kind == "plain"


@dataclass(frozen=True, slots=True)
class Token:
    """A word, or one of the signs newline ; { } and those that GRUB knows but refuses (| & < >)."""

    sign: str
    start: int
    word: Word | None = None

    @property
    def keyword(self) -> str:
        """The text of a bare word, "" for everything else."""
        return self.word.parts[0].text if self.word and self.word.bare else ""


def place(text: str, at: int) -> tuple[int, int]:
    """Return line and column, both from 1, of character `at`."""
    line = text.count("\n", 0, at) + 1
    return line, at - (text.rfind("\n", 0, at) + 1) + 1


class Lexer:
    """Cut a text into tokens."""

    def __init__(self, text: str, name: str) -> None:
        self.text, self.name, self.at = text, name, 0

    def fail(self, what: str, at: int) -> NoReturn:
        """Raise Inconsistent with the place of character `at`."""
        line, column = place(self.text, at)
        raise Inconsistent(f"grub configuration: {what}", volume=f"{self.name}:{line}:{column}")

    def tokens(self) -> Iterator[Token]:
        """Yield all tokens; the last one has the sign ""."""
        text = self.text
        while self.at < len(text):
            char = text[self.at]
            if char in BLANK:
                self.at += 1
            elif text.startswith("\\\n", self.at) or text.startswith("\\\r\n", self.at):
                self.at = text.index("\n", self.at) + 1
            elif char == "#":
                end = text.find("\n", self.at)
                self.at = len(text) if end < 0 else end
            elif char in "\n;{}|&<>":
                double = text[self.at : self.at + 2]
                sign = double if double in ("||", "&&", ";;") else char
                yield Token(sign, self.at)
                self.at += len(sign)
            else:
                word = self.word()
                yield Token("word", word.start, word)
        yield Token("", len(text))

    def word(self) -> Word:
        """Read one word."""
        start, text = self.at, self.text
        parts: list[Part] = []
        while self.at < len(text):
            char = text[self.at]
            if char == "'":
                end = text.find("'", self.at + 1)
                if end < 0:
                    self.fail("quote without end", self.at)
                parts.append(Part("single", self.at, end + 1, text[self.at + 1 : end]))
                self.at = end + 1
            elif char == '"' or text.startswith('$"', self.at):
                self.double(parts)
            elif char == "\\":
                if text[self.at + 1 : self.at + 2] in ("\n", "\r"):
                    break
                parts.append(self.escape(quoted=False))
            elif char == "$":
                parts.append(self.variable(quoted=False))
            elif char in STOP:
                break
            else:
                parts.append(self.run(STOP, "plain"))
        return Word(start, self.at, tuple(parts))

    def run(self, stop: str, kind: PartKind) -> Part:
        """Read characters up to one of `stop`."""
        start = self.at
        while self.at < len(self.text) and self.text[self.at] not in stop:
            self.at += 1
        return Part(kind, start, self.at, self.text[start : self.at])

    def double(self, parts: list[Part]) -> None:
        """Read a string in double quotes; its parts do not cover the quotes themselves."""
        start = self.at
        self.at += 2 if self.text[self.at] == "$" else 1
        first = len(parts)
        while True:
            if self.at >= len(self.text):
                self.fail("quote without end", start)
            char = self.text[self.at]
            if char == '"':
                break
            if char == "\\":
                parts.append(self.escape(quoted=True))
            elif char == "$":
                parts.append(self.variable(quoted=True))
            else:
                parts.append(self.run('"\\$', "double"))
        if len(parts) == first:
            parts.append(Part("double", self.at, self.at, ""))
        self.at += 1

    def escape(self, *, quoted: bool) -> Part:
        """Read a backslash and what it protects; inside quotes it stays before most characters."""
        start = self.at
        char = self.text[start + 1 : start + 2]
        if not char:
            self.fail("backslash at the end", start)
        self.at += 2
        value = "" if char == "\n" else char
        if quoted and char not in '\\"$\n':
            value = "\\" + char
        return Part("escape", start, self.at, value, quoted)

    def variable(self, *, quoted: bool) -> Part:
        """Read $name, ${name}, $1 or $?; GRUB refuses a lone dollar sign."""
        start = self.at
        braces = self.text.startswith("${", start)
        at = start + (2 if braces else 1)
        first = self.text[at : at + 1]
        end = at
        if first and first in SPECIAL:
            end = at + 1
        elif first and (first in ALPHA or first in DIGIT):
            letters = DIGIT if first in DIGIT else ALPHA | DIGIT
            while end < len(self.text) and self.text[end] in letters:
                end += 1
        name = self.text[at:end]
        if not name or (braces and self.text[end : end + 1] != "}"):
            self.fail("name of a variable expected", start)
        self.at = end + (1 if braces else 0)
        return Part("variable", start, self.at, name, quoted)
