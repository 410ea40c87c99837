"""The form of log lines: text for people, or a JSON object for each line."""

import logging
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal, TypeAlias

import msgspec

from nebula.cli.elsewhere import shown_message
from nebula.cli.lasting_output import LastingOutput
from nebula.cli.repeating import Repeating
from nebula.events.log_fields import NAMES
from nebula.events.plain_text import plain
from nebula.events.reading import UNREADABLE

LogFormat: TypeAlias = Literal["text", "json"]

log = logging.getLogger("nebula")

_TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_TEXT_OF_WORKER = "%(asctime)s %(levelname)-7s worker {} %(name)s: %(message)s"
_PREFIX = "nebula: "
_NOISY = ("httpx", "httpcore", "nats", "uvicorn.access")


class ShownFormatter(logging.Formatter):
    """Writes log lines without secrets and without control characters.

    A message is always one line, so that its text can't forge another message.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Write a message, without the traceback that may follow it."""
        return plain(super().formatMessage(record)).replace("\n", "\\n")

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        return shown_message(super().format(record))


class JsonFormatter(logging.Formatter):
    """Writes each record as a JSON object on one line, without secrets.

    `worker`: the number of the worker that writes them, if there are several.
    """

    def __init__(self, worker: int = 0) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")
        line: dict[str, object] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": shown_message(record.getMessage()),
        }
        if self._worker:
            line["worker"] = self._worker
        for name in NAMES:
            value = getattr(record, name, None)
            if value is not None:
                line[name] = value
        if record.exc_info and record.exc_info[0] is not None:
            text = "".join(traceback.format_exception(*record.exc_info))
            line["exception"] = shown_message(text.rstrip("\n"))
        return msgspec.json.encode(line).decode()


def set_up(verbose: bool, form: LogFormat, worker: int = 0) -> None:
    """Log to stderr, one line per message, without secrets.

    `worker`: the number of the worker that this process is, which its lines have; 0 for none.

    The same line is written at most once a minute. If stderr is a file that is deleted, it is
    created again. As JSON, warnings of Python and the error that ends the process are lines too.
    """
    handler = LastingOutput(sys.stderr)
    handler.addFilter(Repeating())
    text = _TEXT_OF_WORKER.format(worker) if worker else _TEXT
    handler.setFormatter(JsonFormatter(worker) if form == "json" else ShownFormatter(text))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if form == "json":
        logging.captureWarnings(True)
        sys.excepthook = _log_the_end


def as_json() -> bool:
    """Return whether this process writes its log as JSON."""
    return any(isinstance(each.formatter, JsonFormatter) for each in logging.getLogger().handlers)


def message_of(line: str) -> str:
    """Return the message of a line that a process has written, in whichever form."""
    try:
        return msgspec.json.decode(line, type=_Message).message
    except UNREADABLE:
        return line.removeprefix(_PREFIX)


class _Message(msgspec.Struct):
    message: str


def _log_the_end(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    log.critical("ended by %s", kind.__name__, exc_info=(kind, error, trace))
