"""The events by which gateways report on batches: requests of a file, worked off in slack. Pure."""

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from nebula.events.values import Count

Outcome: TypeAlias = Literal["completed", "expired", "failed"]

_Completed: TypeAlias = Annotated[
    Count, Meta(description="Number of lines that were answered with a status below 400.")
]
_Failed: TypeAlias = Annotated[
    Count, Meta(description="Number of lines that were answered with an error.")
]
_Output: TypeAlias = Annotated[
    str, Meta(description="Id of the file with the answers; empty for none.")
]
_Errors: TypeAlias = Annotated[
    str,
    Meta(description="Id of the file with the lines that have no answer; empty for none."),
]


class Problem(Struct, frozen=True, gc=False):
    """What is wrong with a batch's input, in the form of OpenAI's API."""

    code: Annotated[str, Meta(description="What is wrong, in a word.")]
    message: Annotated[str, Meta(description="What is wrong, in words.")]
    line: Annotated[int | None, Meta(description="Number of the line in the file, from 1.")] = None
    param: Annotated[str | None, Meta(description="Field that is at fault.")] = None


class BatchStarted(Struct, frozen=True, gc=False):
    """The input is valid: from now on its lines are sent as requests."""

    lines: Annotated[Count, Meta(description="Number of lines of the input.")]


class BatchProgressed(Struct, frozen=True, gc=False):
    """How many lines have an answer by now; a roll-up, since single lines are not in the log."""

    completed: _Completed
    failed: _Failed


class BatchFinished(Struct, frozen=True, gc=False):
    """The batch has ended: all lines have a result, its time is over, or its input is not valid."""

    outcome: Annotated[
        Outcome,
        Meta(
            description="`completed`: every line was sent. `expired`: the time was over before. "
            "`failed`: the input is not valid, and no line was sent."
        ),
    ]
    completed: _Completed = 0
    failed: _Failed = 0
    output: _Output = ""
    errors: _Errors = ""
    problems: Annotated[
        tuple[Problem, ...], Meta(description="What is wrong with the input, if it is not valid.")
    ] = ()


class BatchCancelled(Struct, frozen=True, gc=False):
    """The batch was cancelled on request; the answers that were there by then are kept."""

    completed: _Completed = 0
    failed: _Failed = 0
    output: _Output = ""
    errors: _Errors = ""
