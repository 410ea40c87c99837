"""What Nebula needs of a NATS server, and messages about what a server lacks. Pure."""

LEAST_PAYLOAD = 256 * 1024
"""Smallest max_payload in bytes: an intent of 64 KiB, or a chunk of a snapshot of 128 KiB, must fit
with its headers. nats-server's default is 1 MiB."""

OVERLAP = 10065
"""JetStream's error code for a stream whose subjects belong to another stream:
https://github.com/nats-io/nats-server/blob/main/server/errors.json"""


class Unfit(Exception):
    """NATS, or the log on it, exists but can't be used as it is; the text says what to do."""


def lacking(server: str, max_payload: int) -> str:
    """Return what a server lacks, and what to set; "" if nothing.

    `max_payload`: bytes of its largest message.
    """
    if max_payload >= LEAST_PAYLOAD:
        return ""
    return (
        f"the NATS server {server} takes messages of {max_payload:,} bytes, and Nebula needs "
        f"{LEAST_PAYLOAD:,} or more: set max_payload: 8MB in its configuration"
    )


def refusal(server: str, enabled: bool, said: str, no_responder: bool) -> str:
    """Return why a request to JetStream failed.

    Args:
        server: host and port.
        enabled: whether the server has JetStream enabled; in a cluster others may have it.
        said: JetStream's own words; "" if there are none.
        no_responder: whether NATS says that there is no responder for JetStream.
    """
    if said and not no_responder:
        return f"JetStream refuses the log: {said}"
    if no_responder and not enabled:
        return (
            f"JetStream is not enabled on {server}: start it with -js, or write jetstream {{}} "
            "into its configuration"
        )
    if no_responder:
        return f"JetStream does not answer at {server}: it starts, or has no leader now"
    return f"JetStream does not answer at {server}"


def overlapping(stream: str, subject: str, other: str) -> str:
    """Return what to do if another stream has subjects that a stream needs."""
    return (
        f"stream {stream} can't be created: stream {other!r} has subjects of {subject} already. "
        f"Give that one other subjects (nats stream edit {other}), delete it if it is not needed "
        f"(nats stream rm {other}), or give Nebula an account of NATS, or a server, of its own"
    )
