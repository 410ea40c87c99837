"""Why NATS can't be reached, in words without passwords, and whether waiting may help. Pure."""

import enum
import re
import ssl
from collections.abc import Sequence

from msgspec import Struct

CONNECT = 2.0
"""Seconds for each step of a connection: to accept it, to send INFO, to authenticate."""

REFUSED_FOR = 10.0
"""Seconds of only refusals after which a process that was never connected ends."""

FIRST_PAUSE = 0.25
"""Seconds between the first tries to reach a server again."""

LONGEST_PAUSES = (1.0, 5.0)
"""Seconds between later tries: if there is no server, and if one refuses."""


class BadFile(ValueError):
    """The file with a server's URL makes no sense; the text says why."""


class Cause(enum.Enum):
    """Causes of a failed connection; waiting does not help against `final` ones."""

    NOTHING_LISTENS = "nothing listens there"
    UNKNOWN_NAME = "its name does not resolve"
    NO_WAY = "there is no way to it"
    NO_FILE = "the file with its URL can't be read"
    BAD_FILE = "the file with its URL is not a valid context of the nats program"
    NO_ANSWER = f"it does not take the connection within {CONNECT:.0f} s"
    SILENT = f"something listens there that says nothing for {CONNECT:.0f} s"
    ENDED = "it ends the connection"
    NOT_NATS = "what listens there is not a NATS server"
    BAD_URL = "that is not a valid URL of a NATS server: nats:// and [USER:PASSWORD@]HOST[:PORT]"
    CREDENTIALS = "it refuses the user or password"
    NO_CREDENTIALS = "it wants a user and password or a token before the host: USER:PASSWORD@HOST"
    NO_CERTIFICATE = "it wants a certificate: `cert` and `key` of a context name its files"
    CERTIFICATE = "its certificate is not trusted"
    TLS = "TLS fails"

    @property
    def final(self) -> bool:
        """Whether it lasts until a person changes something."""
        return self in _FINAL

    @property
    def absent(self) -> bool:
        """Whether there is no NATS server."""
        return self in _ABSENT


_FINAL = (
    Cause.NOT_NATS,
    Cause.BAD_FILE,
    Cause.BAD_URL,
    Cause.CREDENTIALS,
    Cause.NO_CREDENTIALS,
    Cause.NO_CERTIFICATE,
    Cause.CERTIFICATE,
    Cause.TLS,
)
_ABSENT = (
    Cause.NOTHING_LISTENS,
    Cause.UNKNOWN_NAME,
    Cause.NO_WAY,
    Cause.NO_FILE,
    Cause.NO_ANSWER,
    Cause.SILENT,
)
_KNOWN_AT_ONCE = (Cause.NOTHING_LISTENS, Cause.UNKNOWN_NAME, Cause.NO_FILE)
_CREDENTIALS = ("authorization", "authentication", "credentials")

# A password may have commas, line ends and even `,x://` in it: only a scheme that NATS speaks
# begins the next URL.
_USER_INFO = re.compile(r"://(?:(?!,\s*(?:nats|tls|wss?)://).)*@", re.DOTALL)


class Trouble(Struct, frozen=True):
    """Why a connection to one server failed; `words` are the server's own, if there are any."""

    server: str
    cause: Cause
    words: str = ""

    def told(self) -> str:
        """Return it as half a sentence."""
        if self.cause is Cause.CERTIFICATE:
            hint = "`ca` of a context, or SSL_CERT_FILE, names the authority that signed it"
            return f"{self.cause.value} ({self.words}); {hint}"
        return f"{self.cause.value} ({self.words})" if self.words else self.cause.value


def shown(url: str) -> str:
    """Return a URL, or several joined by commas, without user, password or token."""
    bare = _USER_INFO.sub("://", url)
    return bare if "://" in bare else bare.rpartition("@")[2]


def trouble(
    server: str, error: BaseException, *, credentials: bool, certificate: bool = True
) -> Trouble:
    """Return the complaint about a server that an error means.

    `credentials`: whether the URL has a user, password or token. `certificate`: whether it has a
    certificate, or the server wants none.
    """
    words, kind = str(error), type(error).__name__
    lower = words.lower()
    if not certificate and _ended(error):
        return Trouble(server, Cause.NO_CERTIFICATE)
    if isinstance(error, ssl.SSLCertVerificationError):
        return Trouble(server, Cause.CERTIFICATE, str(getattr(error, "verify_message", words)))
    if isinstance(error, ssl.SSLError):
        return Trouble(server, Cause.TLS, str(getattr(error, "reason", "") or words))
    if kind == "gaierror":
        return Trouble(server, Cause.UNKNOWN_NAME)
    if server.startswith("file:") and isinstance(error, OSError):
        return Trouble(server, Cause.NO_FILE, error.strerror or words)
    if isinstance(error, BadFile):
        return Trouble(server, Cause.BAD_FILE, words)
    if isinstance(error, ConnectionRefusedError) or "Errno 111" in words:
        return Trouble(server, Cause.NOTHING_LISTENS)
    if isinstance(error, TimeoutError):
        return Trouble(server, Cause.SILENT if kind == "Silent" else Cause.NO_ANSWER)
    if isinstance(error, ConnectionError):
        return Trouble(server, Cause.ENDED, error.strerror or "")
    if isinstance(error, OSError):
        return Trouble(server, Cause.NO_WAY, error.strerror or words)
    if refuses_credentials(words):
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


def _ended(error: BaseException) -> bool:
    """Return whether the server has ended the connection after it was made."""
    other = (ssl.SSLCertVerificationError, ConnectionRefusedError)
    return isinstance(error, (ssl.SSLError, ConnectionError)) and not isinstance(error, other)


def withdrawn(words: str) -> bool:
    """Return whether a server says that credentials were valid and no longer are."""
    lower = words.lower()
    return "authentication revoked" in lower or "authentication expired" in lower


def refuses_credentials(words: str) -> bool:
    """Return whether a server says that it does not take the credentials of a connection."""
    return any(word in words.lower() for word in _CREDENTIALS)


def _own_words(text: str) -> str:
    return text.removeprefix("nats: ").strip("'\" ")


def told(url: str, troubles: Sequence[Trouble]) -> str:
    """Return one sentence about why `url` can't be reached."""
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
    """Return whether waiting is useless, because every server refuses."""
    return bool(troubles) and all(each.cause.final for each in troubles)


def absent(troubles: Sequence[Trouble]) -> bool:
    """Return whether it is known at once that there is no server, without waiting for an answer."""
    return bool(troubles) and all(each.cause in _KNOWN_AT_ONCE for each in troubles)


def pause(rounds: int, troubles: Sequence[Trouble]) -> float:
    """Return the seconds to wait after this many failed rounds over all servers."""
    refused = any(not each.cause.absent for each in troubles)
    return float(min(LONGEST_PAUSES[refused], FIRST_PAUSE * 2 ** min(max(rounds - 1, 0), 10)))


def topic(complaint: str) -> str:
    """Return the key of a server's complaint, which similar complaints share.

    Subjects of one kind are alike in their first three tokens, and inboxes all are.
    """
    alike = re.sub(r"_inbox[^\s\"']+", "_inbox", complaint.lower())
    return re.sub(r"([^\s\"'.]+\.[^\s\"'.]+\.[^\s\"'.]+)\.[^\s\"']+", r"\1", alike)
