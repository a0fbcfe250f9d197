"""Make a GRUB configuration of the boot disk work on the folded disk: every reference to a partition follows.

What is rewritten: `search` in all its forms (always to the new file system UUID; labels may meet twice when
the old boot disk is still plugged in, device numbers depend on the machine), `(hd0,msdos1)` and `hd0,1` names
(to a variable that the first configuration file sets after a search by UUID), UUID=, LABEL= and PARTUUID= of
kernel arguments, and all that would load modules of another build: `$prefix`, `insmod` with a path, and
the implicit place of `load_env` and `save_env`. Device hd0 is the boot disk, as under every BIOS that booted
from it. What cannot be resolved is left as it is and listed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onebay.boot.grubcfg.parser import Command, Config, Edit, commands, edit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onebay.boot.grubcfg.lexer import Part, Word

PREFIX = "onebay_prefix"  # variable: where the appliance's own grub.cfg and its neighbours are

# these look at the value of one word, after the lexer has found it
IN_PARENTHESES = re.compile(r"\(hd(\d+),(?:msdos|gpt)?(\d+)\)")
BARE_DEVICE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*=)?hd(\d+),(?:msdos|gpt)?(\d+)")
LOOKS_LIKE_DEVICE = re.compile(r"\bhd\d+(?:,|\))")

KERNELS = frozenset(("linux", "linux16", "linuxefi", "multiboot", "multiboot2", "module", "module2"))
SEARCH = {
    "search.file": "file",
    "search.fs_label": "label",
    "search.fs_uuid": "uuid",
    "search_fs_file": "file",
    "search_label": "label",
    "search_fs_uuid": "uuid",
}
SOURCES = frozenset(("source", ".", "configfile", "normal"))
SHORT = {"f": "file", "l": "label", "u": "uuid"}
LONG = {"--file": "file", "--label": "label", "--fs-uuid": "uuid"}


@dataclass(frozen=True, slots=True)
class Place:
    """One partition of the boot disk, and where its content is on the folded disk.

    `uuid`, `label` and `partuuid` are what old references say ("" where it has none); `variable` names the
    GRUB variable that holds its device; `has` tells whether a path is on it.
    """

    number: int
    uuid: str
    label: str
    partuuid: str
    variable: str
    new_uuid: str
    new_partuuid: str
    has: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A configuration with its references replaced.

    `changes` and `warnings` are lines with places; `sources` are files that it reads in turn, as (variable of
    the partition, "" for the present root, PREFIX for the folder of grub.cfg; path); `roots` are numbers of
    boot disk partitions that a kernel gets as its root file system; `names` are the commands it uses.
    """

    data: bytes
    changes: tuple[str, ...]
    warnings: tuple[str, ...]
    sources: tuple[tuple[str, str], ...]
    roots: frozenset[int]
    names: frozenset[str]


@dataclass
class Rewriter:
    """Collects edits for one configuration file."""

    config: Config
    places: Sequence[Place]
    edits: list[Edit] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    sources: list[tuple[str, str]] = field(default_factory=list)
    roots: set[int] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    done: set[int] = field(default_factory=set)  # starts of words that need no second look

    def run(self) -> Rewritten:
        """Look at every command."""
        for command in commands(self.config.script):
            self.command(command)
        return Rewritten(
            edit(self.config, self.edits),
            tuple(self.changes),
            tuple(self.warnings),
            tuple(self.sources),
            frozenset(self.roots),
            frozenset(self.names),
        )

    def replace(self, start: int, end: int, text: str) -> None:
        """Replace characters `start..end`."""
        self.edits.append(Edit(start, end, text))
        line, column = self.config.place(start)
        old = self.config.text[start:end].strip()
        self.changes.append(f"{self.config.name}:{line}:{column}: {old} -> {text.strip()}")

    def replace_word(self, word: Word, text: str) -> None:
        """Replace a whole word by `text`, which needs no quotes."""
        self.done.add(word.start)
        if self.config.text[word.start : word.end] != text:
            self.replace(word.start, word.end, text)

    def drop_word(self, word: Word) -> None:
        """Remove a word and the blanks before it."""
        self.done.add(word.start)
        start = word.start
        while start and self.config.text[start - 1] in " \t":
            start -= 1
        self.replace(start, word.end, "")

    def warn(self, word: Word, what: str) -> None:
        """List something that stays as it is."""
        line, column = self.config.place(word.start)
        text = self.config.text[word.start : word.end]
        self.warnings.append(f"{self.config.name}:{line}:{column}: {text}: {what}")

    def command(self, command: Command) -> None:
        """Treat one command: first what its name asks for, then each word that is left."""
        words = command.words
        if words[0].literal == "!" and len(words) > 1:
            words = words[1:]
        name = words[0].literal or ""
        self.names.add(name)
        self.special(name, words)
        for word in words:
            if word.start not in self.done:
                self.word(word)

    def special(self, name: str, words: Sequence[Word]) -> None:
        """Treat the words whose meaning depends on the command's name."""
        if name == "search" or name in SEARCH:
            self.search(words, SEARCH.get(name))
        elif name in ("load_env", "save_env"):
            self.environment(words)
        else:
            treat, treated = self.argument, words[2:]
            if name == "insmod":
                treat, treated = self.module, words[1:]
            elif name in SOURCES:
                treat, treated = self.source, words[1:2]
            elif name in ("set", "export") or "=" in name:
                treat, treated = self.assignment, words
            elif name not in KERNELS:
                treated = words[:0]
            for word in treated:
                treat(word)

    def place(self, kind: str, value: str) -> Place | None:
        """Find the partition that a file system UUID, a label, a path or a partition UUID stands for."""
        for place in self.places:
            known = {"uuid": place.uuid, "label": place.label, "partuuid": place.partuuid}.get(kind, "")
            if kind == "file":
                if place.has(value):
                    return place
            elif known and (known == value or (kind != "label" and known.lower() == value.lower())):
                return place
        return None

    def numbered(self, disk: str, number: str) -> Place | None:
        """Find the partition that GRUB calls hd`disk`,`number`."""
        if disk != "0" or len(number) > 4:
            return None
        return next((place for place in self.places if place.number == int(number)), None)

    def search(self, words: Sequence[Word], kind: str | None) -> None:
        """Rewrite a search to one by the new UUID, without hints."""
        dotted = kind is not None
        options: list[Word] = []
        hints: list[Word] = []
        names: list[Word] = []
        after_hint = False
        for word in words[1:]:
            text = word.literal
            if after_hint or (text or "").startswith("--hint"):
                hints.append(word)
                after_hint = not after_hint and text is not None and "=" not in text
            elif text is not None and text.startswith("-"):
                options.append(word)
                kind = option_kind(text) or kind
            else:
                names.append(word)
        if dotted:
            hints += names[2:]
        found = [(word, self.place(kind or "", word.literal)) for word in names if word.literal is not None]
        hit = next(((word, place) for word, place in found if place is not None), None)
        if hit is None:
            if names:
                self.warn(names[0], "not found on the boot disk; this search stays as it is")
            self.done.update(word.start for word in hints)
            return
        if dotted:
            self.replace_word(words[0], "search.fs_uuid")
        for word in options:
            self.replace_word(word, by_uuid(word.literal or ""))
        for word in hints:
            self.drop_word(word)
        self.replace_word(hit[0], hit[1].new_uuid)

    def argument(self, word: Word) -> None:
        """Rewrite root=UUID=..., resume=PARTUUID=... and their like."""
        text = word.literal
        if text is None:
            return
        head, _, value = text.rpartition("=")
        option, _, key = head.rpartition("=")
        if not option or key.upper() not in ("UUID", "LABEL", "PARTUUID"):
            return
        place = self.place(key.lower(), value)
        if place is None:
            return
        if option == "root":
            self.roots.add(place.number)
        by_partition = key.upper() == "PARTUUID"
        new = f"PARTUUID={place.new_partuuid}" if by_partition else f"UUID={place.new_uuid}"
        self.replace_word(word, f"{option}={new}")

    def environment(self, words: Sequence[Word]) -> None:
        """Say where the environment block is, for it is looked for at $prefix."""
        given = [word.literal or "" for word in words[1:]]
        if not any(text.startswith("--file") or text == "-f" for text in given):
            end = words[0].end
            self.replace(end, end, f' --file "${{{PREFIX}}}/grubenv"')

    def module(self, word: Word) -> None:
        """Load a module by its name, from our own folder, even where a path was given."""
        text = word.literal
        raw = self.config.text[word.start : word.end]
        if "/" not in raw:
            return
        name = (text if text is not None else raw).rpartition("/")[2]
        if not name.replace("_", "").replace(".", "").isalnum():
            self.warn(word, "a module of another build may be loaded from this path")
            return
        self.replace_word(word, name.removesuffix(".mod"))

    def source(self, word: Word) -> None:
        """Remember a file that is read in turn."""
        variable = ""
        parts = list(word.parts)
        if parts and parts[0].kind == "variable" and parts[0].text == "prefix":
            variable, parts = PREFIX, parts[1:]
        elif [part.text for part in parts[:2]] == ["(", "root"] and len(parts) > 2:
            parts = [*parts[2:]]
        if any(part.kind == "variable" for part in parts):
            return
        path = "".join(part.text for part in parts).removeprefix(")")
        device = IN_PARENTHESES.match(path)
        if device:
            place = self.numbered(device[1], device[2])
            variable, path = place.variable if place else "", path[device.end() :]
        if path.startswith("/") or variable == PREFIX:
            self.sources.append((variable, path))

    def assignment(self, word: Word) -> None:
        """Rewrite set prefix=... and variables whose value is a UUID of the boot disk."""
        raw = self.config.text[word.start : word.end]
        if raw.startswith("prefix="):
            self.replace(word.start, word.start + len("prefix"), PREFIX)
        name, sign, value = (word.literal or "").partition("=")
        place = self.place("uuid", value) if sign and value else None
        if place is not None:
            self.replace_word(word, f"{name}={place.new_uuid}")

    def word(self, word: Word) -> None:
        """Rewrite device names and $prefix wherever they stand."""
        self.done.add(word.start)
        text = word.literal
        whole = BARE_DEVICE.fullmatch(text) if text is not None else None
        if whole:
            place = self.numbered(whole[2], whole[3])
            if place is not None:
                self.replace_word(word, f"{whole[1] or ''}${{{place.variable}}}")
                return
        left = ""
        for part in word.parts:
            if part.kind == "variable" and part.text == "prefix":
                self.replace(part.start, part.end, f"${{{PREFIX}}}")
            left += self.devices(part) if part.kind != "variable" else "$"
        if LOOKS_LIKE_DEVICE.search(left):
            self.warn(word, "no partition of the boot disk; this name stays as it is")
        for place in self.places:
            if place.uuid and place.uuid.lower() in left.lower():
                self.warn(
                    word, f"names the old UUID of partition {place.number}, which is now {place.new_uuid}"
                )

    def devices(self, part: Part) -> str:
        """Replace (hd0,msdos1) inside a part; return what is left of its text."""
        left = part.text
        shift = part.start + (part.kind == "single")
        # inside single quotes nothing expands: they are closed around the variable
        opening, closing = ("'\"", "\"'") if part.kind == "single" else ("", "")
        for match in IN_PARENTHESES.finditer(part.text):
            place = self.numbered(match[1], match[2])
            if place is None:
                continue
            new = f"{opening}(${{{place.variable}}}){closing}"
            self.replace(shift + match.start(), shift + match.end(), new)
            left = left.replace(match[0], "")
        return left


def option_kind(text: str) -> str | None:
    """Return what an option of `search` says is searched for, or None."""
    if text.startswith("--"):
        return LONG.get(text)
    return next((SHORT[letter] for letter in text[1:] if letter in SHORT), None)


def by_uuid(text: str) -> str:
    """Return an option of `search` with the kind replaced by that for UUIDs."""
    if text.startswith("--"):
        return "--fs-uuid" if text in LONG else text
    return "-" + "".join("u" if letter in SHORT else letter for letter in text[1:])


def rewrite(config: Config, places: Sequence[Place]) -> Rewritten:
    """Rewrite every reference to a partition of the boot disk; what cannot follow is in `warnings`."""
    return Rewriter(config, places).run()
