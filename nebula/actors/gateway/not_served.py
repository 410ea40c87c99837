"""The refusal to begin a request that can't be answered now. Pure."""


class NotServed(Exception):
    """The model is known but can't answer now.

    `retry_after`: seconds; None if waiting won't help.
    """

    def __init__(self, reason: str, retry_after: int | None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class AlreadyInFlight(NotServed):
    """A request with the same id is in flight: its claim was forgotten before it ended."""

    def __init__(self) -> None:
        super().__init__("a request with this key is still being answered", 1)
