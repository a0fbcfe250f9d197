"""Everything that can go wrong, as one tree; each class has the exit code of the command line.

    Error
      Refused        3   we stopped before writing: busy, too small, wrong target, needs --yes
      Unsupported    4   valid, but a feature is unknown or out of scope (named)
      Damaged        5   data breaks its own rules: BadMagic BadChecksum Truncated Inconsistent
      Incomplete     6   a member is missing (which, how many are needed)
      SourceError    7   Missing Denied Corrupt Transient; only Transient is worth a retry
      ToolFailed     8   a program failed: argv, status, last lines; ToolMissing: it is not installed
      Interrupted  130

An error says where (`volume`, `at`), what was expected and what was found. `state` is the last line that the
user reads: what condition the disk is in. It is set by whoever knows: the planner leaves NOTHING_WRITTEN,
the executor replaces it after the first write.
"""

from __future__ import annotations

NOTHING_WRITTEN = "nothing was written"


class Error(Exception):
    """Base of every failure that a user may see.

    `volume` names the disk, partition or file, `at` is a byte offset in it, `hint` says what to do.
    """

    code = 1

    def __init__(
        self,
        what: str,
        *,
        volume: str | None = None,
        at: int | None = None,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
        state: str = NOTHING_WRITTEN,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.volume = volume
        self.at = at
        self.expected = expected
        self.found = found
        self.hint = hint
        self.state = state

    def __str__(self) -> str:
        where = self.volume or ""
        if self.at is not None:
            where = f"{where} at {self.at:#x}".strip()
        text = f"{where}: {self.what}" if where else self.what
        if self.expected is not None:
            text += f": expected {show(self.expected)}, found {show(self.found)}"
        elif self.found is not None:
            text += f": found {show(self.found)}"
        return text


def show(value: object) -> str:
    """Format a field value for a message: bytes as short hex, everything else as itself."""
    if isinstance(value, bytes | bytearray | memoryview):
        raw = bytes(value)
        return raw[:16].hex() + (".." if len(raw) > 16 else "")
    return str(value)


def reason(error: OSError) -> str:
    """What the system says of a failure, in the style of our own messages."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


class Refused(Error):  # noqa: N818
    """We stopped before writing anything, on purpose."""

    code = 3


class Unsupported(Error):  # noqa: N818
    """The data is valid as far as we can tell, but needs a feature that we do not know or do not do."""

    code = 4


class Damaged(Error):  # noqa: N818
    """Data breaks the rules of its own format."""

    code = 5


class BadMagic(Damaged):
    """A signature is not what the format says."""


class BadChecksum(Damaged):
    """A checksum or digest does not match the bytes it covers."""


class Truncated(Damaged):
    """Data ends before the format says it may."""


class Inconsistent(Damaged):
    """Two statements of the same data contradict each other."""


class Incomplete(Error):  # noqa: N818
    """A member of a group (array, volume group, multi-device file system) is missing."""

    code = 6


class SourceError(Error):
    """The place that the image comes from cannot give it."""

    code = 7


class Missing(SourceError):  # noqa: N818
    """There is nothing at that place."""


class Denied(SourceError):  # noqa: N818
    """The place wants other credentials, or permissions forbid reading."""


class Corrupt(SourceError):  # noqa: N818
    """The source gave other bytes than it promised."""


class Transient(SourceError):  # noqa: N818
    """The source failed in a way that may pass; the only class that is retried."""


class ToolFailed(Error):  # noqa: N818
    """A program that we ran ended with an unexpected status."""

    code = 8


class ToolMissing(ToolFailed):
    """A program that we need is not installed."""


class Interrupted(Error):  # noqa: N818
    """The user or the system asked us to stop."""

    code = 130
