"""In which words a gateway ends an answer that no engine has ended, or refuses to begin one."""

NATS_LOST = "nats-lost"
TOO_SLOW = "too-slow"
NOT_TAKEN = "not-taken"
IDLE = "idle"
OVERDUE = "overdue"
CANT_CONTINUE = "cant-continue"

FATAL = "fatal"
"""Engines in a row have failed with it and said nothing: it may be what ends them."""

FINISHED = "finished"
"""No failure: all that was missing of the answer were bytes that the gateway itself could write."""


class NotServed(Exception):
    """A known model can't answer now. `retry_after` in seconds; None where waiting won't help."""

    def __init__(self, reason: str, retry_after: int | None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
