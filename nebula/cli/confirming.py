"""A question at the terminal before something is changed."""

import signal

import click

from nebula.cli.exits import INTERRUPTED


def confirmed(question: str) -> bool:
    """Ask at the terminal. The event loop's own handler would let Ctrl-C wait for an answer."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return click.confirm(f"\n{question}")
    except click.Abort:
        click.echo("\nnothing was appended", err=True)
        raise SystemExit(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGINT, handler)
