"""Who may: a one-time code from the console, then a session that lives in memory.

The code has 40 random bits. A wrong one costs a pause that doubles, for everybody, and the tenth makes a new
code, so that guessing needs more years than anybody has. It is used up by a login: a second browser needs the
next one, which is on the console then.
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
TRIES = 10  # wrong codes until there is a new one
FREE = 2  # wrong codes that cost no pause: a slip of the finger
LONGEST = 60.0  # seconds of pause
IDLE = 30 * 60.0  # seconds without a request after which a session ends
SESSIONS = 16


class Access:
    """The code and the sessions; `changed` is called when there is another code. For one thread."""

    def __init__(
        self, changed: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.changed, self.clock = changed, clock
        self.wrong = 0  # since the last good one
        self.until = 0.0
        self.sessions: dict[bytes, float] = {}
        self.code = ""
        self.renew()

    def renew(self) -> None:
        """Make another code, and tell it."""
        letters = "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))
        self.code = f"{letters[:4]}-{letters[4:]}"
        self.changed(self.code)

    def pause(self) -> float:
        """Seconds until the next code is looked at."""
        return max(0.0, self.until - self.clock())

    def login(self, given: str) -> str | None:
        """Return the token of a new session, or None where the code is wrong or it is too early."""
        if self.pause():
            return None
        if not hmac.compare_digest(plain(given), plain(self.code)):
            self.wrong += 1
            if self.wrong > FREE:
                self.until = self.clock() + min(LONGEST, 2.0 ** min(self.wrong - FREE, 10))
            if self.wrong % TRIES == 0:
                self.renew()
            return None
        self.wrong = 0
        token = secrets.token_urlsafe(32)
        self.forget_idle()
        while len(self.sessions) >= SESSIONS:
            del self.sessions[min(self.sessions, key=self.sessions.__getitem__)]
        self.sessions[digest(token)] = self.clock()
        self.renew()
        return token

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
