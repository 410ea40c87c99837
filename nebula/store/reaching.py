"""Why NATS can't be reached: in words, without a password, and whether waiting may help. Pure."""

import enum
import re
import ssl
from collections.abc import Sequence

from msgspec import Struct

CONNECT = 2.0
"""Seconds that a server has for each step of a connection: to take it, to speak, to let in."""

REFUSED_FOR = 10.0
"""Seconds of nothing but refusals after which a process that was never connected ends."""

FIRST_PAUSE = 0.25
"""Seconds between the first tries to reach a server again."""

LONGEST_PAUSES = (1.0, 5.0)
"""Seconds between later tries: where no server is there, and where one refuses."""

SAID_AGAIN = 60.0
"""Seconds after which a line that still holds is logged once more."""

_REMEMBERED = 100


class Cause(enum.Enum):
    """What is in the way; `final` ones are not mended by waiting alone."""

    NOTHING_LISTENS = "nothing listens there"
    UNKNOWN_NAME = "its name does not resolve"
    NO_WAY = "there is no way to it"
    NO_ANSWER = f"it does not take the connection within {CONNECT:.0f} s"
    SILENT = f"something listens there that says nothing for {CONNECT:.0f} s"
    ENDED = "it ends the connection"
    NOT_NATS = "what listens there is not a NATS server"
    BAD_URL = "that is not a valid URL of a NATS server: nats://[USER:PASSWORD@]HOST[:PORT]"
    CREDENTIALS = "it refuses the user or password"
    NO_CREDENTIALS = "it wants a user and password or a token: nats://USER:PASSWORD@HOST"
    CERTIFICATE = "its certificate is not trusted"
    TLS = "TLS fails"

    @property
    def final(self) -> bool:
        """Whether it lasts until somebody changes something."""
        return self in _FINAL

    @property
    def absent(self) -> bool:
        """Whether nothing that speaks NATS is there."""
        return self in _ABSENT


_FINAL = (
    Cause.NOT_NATS,
    Cause.BAD_URL,
    Cause.CREDENTIALS,
    Cause.NO_CREDENTIALS,
    Cause.CERTIFICATE,
    Cause.TLS,
)
_ABSENT = (
    Cause.NOTHING_LISTENS,
    Cause.UNKNOWN_NAME,
    Cause.NO_WAY,
    Cause.NO_ANSWER,
    Cause.SILENT,
)
_CREDENTIALS = ("authorization", "authentication", "credentials")


class Trouble(Struct, frozen=True):
    """What is in the way of a connection to one server; `words` are its own, if it had any."""

    server: str
    cause: Cause
    words: str = ""

    def told(self) -> str:
        """Return it as half a sentence."""
        if self.cause is Cause.CERTIFICATE:
            hint = "SSL_CERT_FILE names the file of the authority that signed it"
            return f"{self.cause.value} ({self.words}); {hint}"
        return f"{self.cause.value} ({self.words})" if self.words else self.cause.value


def shown(url: str) -> str:
    """Return a URL, or several joined by commas, without user, password or token."""
    bare = re.sub(r"://(?:(?!,\s*\w+://).)*@", "://", url)
    return bare if "://" in bare else bare.rpartition("@")[2]


def trouble(server: str, error: BaseException, *, credentials: bool) -> Trouble:
    """Return what an error says about a server.

    `credentials`: whether the URL has a user, password or token.
    """
    words, kind = str(error), type(error).__name__
    lower = words.lower()
    if isinstance(error, ssl.SSLCertVerificationError):
        return Trouble(server, Cause.CERTIFICATE, str(getattr(error, "verify_message", words)))
    if isinstance(error, ssl.SSLError):
        return Trouble(server, Cause.TLS, str(getattr(error, "reason", "") or words))
    if kind == "gaierror":
        return Trouble(server, Cause.UNKNOWN_NAME)
    if isinstance(error, ConnectionRefusedError) or "Errno 111" in words:
        return Trouble(server, Cause.NOTHING_LISTENS)
    if isinstance(error, TimeoutError):
        return Trouble(server, Cause.SILENT if kind == "Silent" else Cause.NO_ANSWER)
    if isinstance(error, ConnectionError):
        return Trouble(server, Cause.ENDED, error.strerror or "")
    if isinstance(error, OSError):
        return Trouble(server, Cause.NO_WAY, error.strerror or words)
    if any(word in lower for word in _CREDENTIALS):
        if not credentials:
            return Trouble(server, Cause.NO_CREDENTIALS)
        return Trouble(server, Cause.CREDENTIALS, _own_words(words))
    if "tls" in lower:
        return Trouble(server, Cause.TLS, _own_words(words))
    if "expecting info" in lower or "json parse" in lower:
        return Trouble(server, Cause.NOT_NATS)
    if "connect url" in lower:
        return Trouble(server, Cause.BAD_URL)
    return Trouble(server, Cause.ENDED, _own_words(words))


def _own_words(text: str) -> str:
    return text.removeprefix("nats: ").strip("'\" ")


def told(url: str, troubles: Sequence[Trouble]) -> str:
    """Return one sentence about what is in the way of a connection to `url`."""
    at = shown(url)
    causes = {each.told() for each in troubles}
    if not causes:
        return f"no NATS server answers at {at}"
    if len(causes) == 1:
        first = troubles[0]
        if first.cause.absent:
            return f"no NATS server answers at {at}: {first.told()}"
        return f"can't connect to NATS at {at}: {first.told()}"
    each = "; ".join(f"{trouble.server}: {trouble.told()}" for trouble in troubles)
    return f"can't connect to NATS: {each}"


def final(troubles: Sequence[Trouble]) -> bool:
    """Return whether waiting alone helps with no server: each of them refuses."""
    return bool(troubles) and all(each.cause.final for each in troubles)


def pause(rounds: int, troubles: Sequence[Trouble]) -> float:
    """Return seconds to wait after so many fruitless rounds over all servers."""
    refused = any(not each.cause.absent for each in troubles)
    return float(min(LONGEST_PAUSES[refused], FIRST_PAUSE * 2 ** min(max(rounds - 1, 0), 10)))


def topic(complaint: str) -> str:
    """Return what one complaint of a server has in common with others like it.

    Subjects of one kind are alike in their first three tokens, and inboxes all are.
    """
    alike = re.sub(r"_inbox\.[^\s\"']+", "_inbox", complaint.lower())
    return re.sub(r"([^\s\"'.]+\.[^\s\"'.]+\.[^\s\"'.]+)\.[^\s\"']+", r"\1", alike)


class Repetitions:
    """Tells a line that is to be logged from one that was logged not long ago."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}

    def due(self, line: str, now: float, again: float = SAID_AGAIN) -> bool:
        """Return whether to log it `now` (s): `again` seconds after the last time, or never yet."""
        last = self._said.get(line)
        if last is not None and now - last < again:
            return False
        self._said.pop(line, None)
        self._said[line] = now
        if len(self._said) > _REMEMBERED:
            del self._said[next(iter(self._said))]
        return True
