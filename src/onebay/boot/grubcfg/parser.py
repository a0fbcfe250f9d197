"""Commands of GRUB's configuration language, so that one word can be replaced and every other byte kept.

Text is decoded as UTF-8 with surrogate escapes; `edit` replaces ranges of characters and leaves the rest
alone. Accepted is what GRUB accepts, and empty blocks beside.

Source: grub 2.06, grub-core/script/parser.y. Not supported, as in GRUB: `case`, `select`, redirection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from onebay.boot.grubcfg.lexer import Lexer, Token, Word, place

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DEPTH = 100  # nested blocks; GRUB's own stack gives up much earlier


@dataclass(frozen=True, slots=True)
class Command:
    """A simple command; `block` is the {...} behind its arguments, as `menuentry` has."""

    words: tuple[Word, ...]
    block: Script | None = None


@dataclass(frozen=True, slots=True)
class Compound:
    """`if`, `for`, `while`, `until` or `function`, with its own words (of `for`, `function`) and bodies."""

    keyword: str
    words: tuple[Word, ...]
    bodies: tuple[Script, ...]


Statement = Command | Compound
Script = tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Config:
    """A parsed configuration file; `name` is for messages."""

    name: str
    text: str
    script: Script

    def place(self, at: int) -> tuple[int, int]:
        """Return line and column, both from 1, of character `at`."""
        return place(self.text, at)


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace characters `start..end` by `text`."""

    start: int
    end: int
    text: str


class Parser:
    """Recursive descent over the tokens."""

    def __init__(self, text: str, name: str) -> None:
        self.lexer = Lexer(text, name)
        self.stream = self.lexer.tokens()
        self.token = next(self.stream)
        self.depth = 0

    def advance(self) -> Token:
        """Return the present token and go to the next."""
        token = self.token
        self.token = next(self.stream, token)
        return token

    def unexpected(self, wanted: str) -> NoReturn:
        """Raise Inconsistent: another token was wanted here."""
        token = self.token
        text = self.lexer.text
        found = text[token.word.start : token.word.end] if token.word else repr(token.sign or "end of file")
        self.lexer.fail(f"expected {wanted}, found {found}", token.start)

    def script(self, *ends: str) -> Script:
        """Read commands up to a keyword or sign of `ends`, which is not consumed."""
        self.depth += 1
        if self.depth > DEPTH:
            self.lexer.fail(f"more than {DEPTH} nested blocks", self.token.start)
        out: list[Statement] = []
        while True:
            while self.token.sign in ("\n", ";"):
                self.advance()
            if self.token.sign in ends or (self.token.keyword and self.token.keyword in ends):
                break
            out.append(self.statement())
            if self.token.sign not in ("\n", ";", "", *(end for end in ends if end == "}")):
                self.unexpected("a new line or ;")
        self.depth -= 1
        return tuple(out)

    def statement(self) -> Statement:
        """Read one command, simple or compound."""
        match self.token.keyword:
            case "if":
                return self.conditional()
            case "for":
                return self.loop_over()
            case "while" | "until" as keyword:
                self.advance()
                return Compound(keyword, (), (self.body("do"), self.body("done")))
            case "function":
                return self.function()
            case "then" | "elif" | "else" | "fi" | "do" | "done":
                self.unexpected("a command")
        return self.command()

    def body(self, end: str) -> Script:
        """Read commands up to the keyword `end`, which is consumed."""
        script = self.script(end)
        self.advance()
        return script

    def conditional(self) -> Compound:
        """Read if ...; then ...; elif ...; then ...; else ...; fi."""
        bodies: list[Script] = []
        self.advance()
        bodies.append(self.body("then"))
        while True:
            bodies.append(self.script("elif", "else", "fi"))
            keyword = self.advance().keyword
            if keyword == "fi":
                return Compound("if", (), tuple(bodies))
            if keyword == "else":
                bodies.append(self.body("fi"))
                return Compound("if", (), tuple(bodies))
            bodies.append(self.body("then"))

    def loop_over(self) -> Compound:
        """Read for NAME in WORDS; do ...; done."""
        self.advance()
        words = self.words()
        if len(words) < 2 or words[1].literal != "in":
            self.unexpected("for NAME in WORDS")
        while self.token.sign in ("\n", ";"):
            self.advance()
        if self.token.keyword != "do":
            self.unexpected("do")
        self.advance()
        return Compound("for", tuple(words), (self.body("done"),))

    def function(self) -> Compound:
        """Read function NAME { ... }."""
        self.advance()
        if self.token.word is None:
            self.unexpected("the name of a function")
        word = self.advance().word
        while self.token.sign in ("\n", ";"):
            self.advance()
        if self.token.sign != "{":
            self.unexpected("{")
        return Compound("function", (word,) if word else (), (self.block(),))

    def command(self) -> Command:
        """Read a simple command with its block."""
        words = self.words()
        if not words:
            self.unexpected("a command")
        block = self.block() if self.token.sign == "{" else None
        return Command(tuple(words), block)

    def words(self) -> list[Word]:
        """Read words up to a sign."""
        words: list[Word] = []
        while self.token.word is not None:
            words.append(self.token.word)
            self.advance()
        return words

    def block(self) -> Script:
        """Read { ... }."""
        self.advance()
        script = self.script("}")
        self.advance()
        return script


def parse_config(data: bytes, name: str = "grub.cfg") -> Config:
    """Parse a configuration file; raises Inconsistent with line and column where GRUB would refuse it."""
    text = data.decode("utf-8", "surrogateescape")
    parser = Parser(text, name)
    return Config(name, text, parser.script(""))


def commands(script: Script) -> Iterator[Command]:
    """Yield every simple command, also those inside blocks, in the order of the text.

    The words that a `for` goes over come as a command of their own, so that nobody overlooks them.
    """
    for statement in script:
        if isinstance(statement, Compound):
            if len(statement.words) > 2:
                yield Command(statement.words[2:])
            for body in statement.bodies:
                yield from commands(body)
        else:
            yield statement
            if statement.block is not None:
                yield from commands(statement.block)


def functions(script: Script) -> Iterator[str]:
    """Yield the names of all functions that the script defines."""
    for statement in script:
        if isinstance(statement, Compound):
            if statement.keyword == "function" and statement.words:
                yield statement.words[0].literal or ""
            for body in statement.bodies:
                yield from functions(body)
        elif statement.block is not None:
            yield from functions(statement.block)


def edit(config: Config, edits: Sequence[Edit]) -> bytes:
    """Return the file with ranges replaced; raises ValueError where two of them overlap."""
    out: list[str] = []
    at = 0
    for change in sorted(edits, key=lambda e: (e.start, e.end)):
        if change.start < at:
            raise ValueError(f"overlapping edits at {change.start}")
        out += [config.text[at : change.start], change.text]
        at = change.end
    out.append(config.text[at:])
    return "".join(out).encode("utf-8", "surrogateescape")
