"""One subject that Nebula uses, and the messages on it."""

from typing import Literal, TypeAlias

from msgspec import Struct

from nebula.schema.message_headers import Header

Action: TypeAlias = Literal["send", "receive"]

ID = "letters, digits, `_` and `-`, 128 at most"
"""The characters and length of an id, in words."""


class Channel(Struct, frozen=True):
    """A subject with its parameters in braces, and the messages on it.

    `action`: whether Nebula itself sends or receives there. `body`: the struct whose JSON the body
    is, or a description of another body. `reply`: the same of the reply to a request. `older`: the
    address in clusters of earlier versions.
    """

    name: str
    address: str
    action: Action
    summary: str
    body: type[Struct] | str
    headers: tuple[Header, ...] = ()
    reply: type[Struct] | str = ""
    stream: str = ""
    older: str = ""
