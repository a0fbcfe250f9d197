"""Who may: a one-time code from the console, then a session that lives in memory.

The code has 40 random bits. A wrong one costs whoever sent it a pause that doubles, and all together may try
some five a second, so that guessing needs thousands of years. Ten wrong ones make a new code, not so often
that its owner cannot type it. It is used up by a login: a second browser needs the next one, which is on the
console then.
"""

from __future__ import annotations

import hmac
import secrets
import time
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # 32 letters, 5 bits each; no 0, 1, I, O
LENGTH = 8
TRIES = 10  # wrong codes after which there is a new one
FREE = 2  # wrong codes that cost no pause: a slip of the finger
LONGEST = 60.0  # seconds of pause
PACE = 5.0  # wrong codes in a second, of all together, after which all wait
RENEWAL = 600.0  # seconds from one new code to the next that wrong ones may cause
SOURCES = 1024  # that are remembered
IDLE = 30 * 60.0  # seconds without a request after which a session ends
SESSIONS = 16


class Access:
    """The code and the sessions; `changed` is called when there is another code. For one thread."""

    def __init__(
        self, changed: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.changed, self.clock = changed, clock
        self.wrong = 0  # since the last new code
        self.renewed = self.free = clock()  # `free`: when the next code of anybody may be looked at
        self.sources: dict[
            str, tuple[int, float]
        ] = {}  # wrong codes since a good one, and until when to wait
        self.sessions: dict[bytes, float] = {}
        self.code = ""
        self.renew()

    def renew(self) -> None:
        """Make another code, and tell it."""
        letters = "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))
        self.code = f"{letters[:4]}-{letters[4:]}"
        self.wrong, self.renewed = 0, self.clock()
        self.changed(self.code)

    def pause(self, source: str = "") -> float:
        """Seconds until the next code from this source is looked at."""
        own = self.sources.get(source, (0, 0.0))[1]
        return max(0.0, own - self.clock(), self.free - self.clock() - 1.0)

    def login(self, given: str, source: str = "") -> str | None:
        """Return the token of a new session, or None where the code is wrong or it is too early."""
        if self.pause(source):
            return None
        if not hmac.compare_digest(plain(given), plain(self.code)):
            self.note_wrong(source)
            return None
        self.sources.pop(source, None)
        token = secrets.token_urlsafe(32)
        self.forget_idle()
        while len(self.sessions) >= SESSIONS:
            del self.sessions[min(self.sessions, key=self.sessions.__getitem__)]
        self.sessions[digest(token)] = self.clock()
        self.renew()
        return token

    def note_wrong(self, source: str) -> None:
        """Have a source wait longer and longer, and make a new code once there were many wrong ones."""
        wrong = self.sources.pop(source, (0, 0.0))[0] + 1
        while len(self.sources) >= SOURCES:
            del self.sources[next(iter(self.sources))]  # whose last try is the oldest
        wait = min(LONGEST, 2.0 ** min(wrong - FREE, 10)) if wrong > FREE else 0.0
        self.sources[source] = wrong, self.clock() + wait
        self.free = max(self.free, self.clock()) + 1 / PACE  # up to PACE at once
        self.wrong += 1
        if self.wrong >= TRIES and self.clock() - self.renewed >= RENEWAL:
            self.renew()

    def known(self, token: str | None) -> bool:
        """Whether a token is of a session; asking keeps it alive."""
        self.forget_idle()
        key = digest(token or "")
        if key not in self.sessions:
            return False
        self.sessions[key] = self.clock()
        return True

    def logout(self, token: str | None) -> None:
        """End a session."""
        self.sessions.pop(digest(token or ""), None)

    def forget_idle(self) -> None:
        """End the sessions that nobody used for long."""
        now = self.clock()
        self.sessions = {key: at for key, at in self.sessions.items() if now - at < IDLE}


def plain(code: str) -> bytes:
    """Return a code as it is compared: without the marks that people add, in capitals."""
    return "".join(code.split()).replace("-", "").upper()[:64].encode("utf-8", "replace")


def digest(token: str) -> bytes:
    """Return what a token is kept as: a look-up of it tells nothing of the token by its time."""
    return sha256(token.encode("utf-8", "replace")).digest()
