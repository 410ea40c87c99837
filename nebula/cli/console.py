"""`nebula console`: the web console of a gateway, or of an exported log without any cluster."""

import webbrowser
from pathlib import Path
from urllib.parse import quote

import click

from nebula.cli import kept_key
from nebula.cli.login import gateway_option
from nebula.cli.process import fail


@click.command()
@click.option(
    "--log",
    "file",
    default=None,
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Show an exported log (`nebula export FILE`) instead of a gateway's cluster.",
)
@click.option(
    "--port",
    default=0,
    type=click.IntRange(0, 65535),
    help="With --log: the port on 127.0.0.1 [a free one].",
)
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@gateway_option
def console(file: Path | None, port: int, no_browser: bool, gateway: str) -> None:
    """Open the web console in a browser.

    With --log it shows an exported log from this machine, until Ctrl-C, and asks nothing of a
    cluster. Without, it opens the gateway's console, with the key that `nebula login` keeps.
    """
    if file is not None:
        from nebula.cli.console_server import serve_log

        serve_log(file, port, None if no_browser else webbrowser.open)
        return
    address = f"{gateway}/console"
    click.echo(address)
    if no_browser:
        return
    try:
        key = kept_key.kept(kept_key.path_of(gateway))
    except OSError as error:
        fail(f"can't read the key of `nebula login`: {error.strerror or error}")
    # The page takes the key from the address at once; a server never sees this part of it.
    webbrowser.open(f"{address}#key={quote(key, safe='')}" if key else address)
