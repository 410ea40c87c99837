"""Requests that NATS does not permit: they end at once, with its refusal.

NATS says what it refuses, but not to which request. Without this a request waits for its answer
until it gives up.
"""

import asyncio
import re
from typing import Any

_VIOLATION = re.compile(
    r'permissions violation for (?P<what>publish|subscription) to "(?P<subject>[^"]+)"'
)
"""A refusal as nats-py gives it: in lower case."""


class Forbidden(Exception):
    """NATS does not let this user publish on a subject, or subscribe to it.

    `login`: the user, and where its credentials are from.
    """

    def __init__(self, subject: str, login: str, *, subscribing: bool = False) -> None:
        action = "subscribe to" if subscribing else "publish on"
        super().__init__(f"NATS does not let {login} {action} {subject}")
        self.subject = subject
        self.subscribing = subscribing


class OpenRequests:
    """The requests of a client that have no answer yet, each with its subject."""

    def __init__(self) -> None:
        self._subjects: dict[asyncio.Future[Any], str] = {}
        self._deaf: Forbidden | None = None

    def begin(self, answer: asyncio.Future[Any], subject: str) -> None:
        """Note a request before it is sent; `answer` gets NATS's refusal if there is one."""
        if self._deaf is not None:
            answer.set_exception(self._deaf)
            return
        self._subjects[answer] = subject
        answer.add_done_callback(lambda done: self._subjects.pop(done, None))

    def refuse(self, words: str, inbox: str, login: str) -> bool:
        """End the requests that an error of the server is about; return whether there were any.

        `inbox`: the prefix of the subjects of their answers.
        """
        found = _VIOLATION.search(words)
        if found is None:
            return False
        if found["what"] == "subscription":
            if not inbox or not found["subject"].startswith(inbox.lower()):
                return False
            self._deaf = Forbidden(inbox + ">", login, subscribing=True)
            refused = dict.fromkeys(self._subjects, self._deaf)
        else:
            refused = {
                answer: Forbidden(subject, login)
                for answer, subject in self._subjects.items()
                if subject.lower() == found["subject"]
            }
        for answer, error in refused.items():
            if not answer.done():
                answer.set_exception(error)
        return bool(refused)
