"""Follows a request until it is fulfilled or can't be, and shows what happens meanwhile."""

import asyncio
from collections.abc import Callable, Sequence

from msgspec import Struct
from rich.console import Console
from rich.markup import escape

from nebula.actors.projection import Projection
from nebula.cli.exits import INTERRUPTED
from nebula.cli.meanwhile import Meanwhile
from nebula.events.state import Replica, State
from nebula.history.outcome import Asked, Coming, Outcome, Progress, asked, outcome
from nebula.http.silence import silent

QUIET = 60.0
"""Seconds without news before a command checks whether the responsible actors are alive."""

NATS_AWAY = 30.0
"""Seconds for which a waiting command tolerates a lost connection to NATS."""


class Wait(Struct):
    """A wait: since when it lasts, when there was news, and when NATS was last reachable."""

    began: float
    news: float
    connected: float
    seen: object = None


class Lost(Exception):
    """The outcome can't be known; the text says why."""


class Patience:
    """Ends a wait whose outcome will not come, or can't be known."""

    def __init__(self, projection: Projection) -> None:
        self._projection = projection
        now = self._now()
        self._wait = Wait(now, now, now)

    @property
    def waited(self) -> float:
        """Seconds since the wait began."""
        return self._now() - self._wait.began

    async def change(self, awaited: Sequence[Coming], seen: object) -> None:
        """Wait for the next events, a second at most. Raise Lost if waiting is pointless.

        `seen`: a value that changes whenever something happens to what is awaited.
        """
        try:
            async with asyncio.timeout(1):
                await self._projection.changed()
        except TimeoutError:
            pass
        now, wait, connection = self._now(), self._wait, self._projection.log.connection
        if connection.connected:
            wait.connected = now
        elif now - wait.connected > NATS_AWAY:
            away = now - wait.connected
            raise Lost(
                f"{connection.trouble or 'the connection to NATS is lost'}, for {away:.0f} s"
            )
        if seen != wait.seen:
            wait.seen, wait.news = seen, now
        elif now - wait.news > QUIET:
            wait.news = now
            text = await silent(connection, awaited)
            if text:
                raise Lost(text)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


async def follow(
    projection: Projection, identity: str, console: Console, wish: Asked | None = None
) -> bool:
    """Show the progress of a request for a model; return whether it was fulfilled.

    `wish`: the request and its event [the newest request].
    """
    wish = wish or asked(projection.state, identity, projection.state.seq)
    followed = Followed(wish, console)
    found = await until_settled(
        projection,
        console,
        identity,
        followed.look,
        f"the request is event {wish.seq} of the log and still counts",
    )
    if found is None:
        return False
    followed.tell(found)
    return found.progress == Progress.FULFILLED


class Followed:
    """Reports one request while it is waited for, and its outcome."""

    def __init__(self, wish: Asked, console: Console) -> None:
        self.wish = wish
        self._console = console
        self._told: set[str] = set()
        self._failing: Replica | None = None
        self._waited = False

    def look(self, state: State) -> Outcome:
        """Return the progress of the request, and print each problem once."""
        found = outcome(state, self.wish, self._waited)
        if not self.wish.adapter:
            self._failing = _failing(state, self.wish.model) or self._failing
        self._waited = self._waited or any(each.node for each in found.coming)
        for text in found.troubles:
            if text not in self._told:
                self._told.add(text)
                self._console.print(f"[yellow]{escape(text)}[/yellow]", soft_wrap=True)
        return found

    def tell(self, found: Outcome) -> None:
        """Print the final state of the request."""
        if found.progress == Progress.FULFILLED:
            head, colon, rest = found.text.partition(":")
            text = f"[green]{escape(head)}[/green]{escape(colon + rest)}"
        else:
            _last_words(self._failing, self._console)
            text = f"[red]{escape(found.text)}[/red]"
        self._console.print(text, soft_wrap=True)
        if found.todo:
            self._console.print(escape(found.todo), soft_wrap=True)


async def settled(
    projection: Projection,
    console: Console,
    who: str,
    look: Callable[[State], Outcome],
    seq: int,
) -> bool:
    """Wait for what the event at `seq` requested; return whether it was fulfilled."""
    found = await until_settled(
        projection, console, who, look, f"the request is event {seq} of the log and still counts"
    )
    if found is not None:
        colour = "green" if found.progress == Progress.FULFILLED else "red"
        console.print(f"[{colour}]{escape(found.text)}[/{colour}]", soft_wrap=True)
    return found is not None and found.progress == Progress.FULFILLED


async def until_settled(
    projection: Projection,
    console: Console,
    who: str,
    look: Callable[[State], Outcome],
    recorded: str,
) -> Outcome | None:
    """Wait while `look` says that something is coming; return its next result.

    If the outcome can't be known, report that and return None. `who` is what is waited for;
    `recorded` is printed when the command stops waiting.
    """
    try:
        patience = Patience(projection)
        found = look(projection.state)
        with Meanwhile(console, f"{who}: asked for") as line:
            while found.progress == Progress.PENDING:
                line.update(f"{who}: {found.text}", patience.waited)
                await patience.change(found.coming, found)
                found = look(projection.state)
    except Lost as error:
        console.print(f"[red]{escape(who)}: {escape(str(error))}[/red]", soft_wrap=True)
        console.print(f"{escape(who)} is not waited for any longer; {recorded}", soft_wrap=True)
        return None
    except asyncio.CancelledError:
        console.print(f"{escape(who)} is not waited for any longer; {recorded}", soft_wrap=True)
        raise SystemExit(INTERRUPTED) from None
    return found


def _failing(state: State, identity: str) -> Replica | None:
    """Return a replica with last lines of an engine's log: after a rollback it may be gone."""
    model = state.models.get(identity)
    if model is None:
        return None
    return next((each for each in state.replicas_of(model) if each.log_tail), None)


def _last_words(replica: Replica | None, console: Console) -> None:
    if replica is None:
        return
    console.print(f"The last lines of {replica.id} ({replica.node}):", style="bold")
    for text in replica.log_tail[-15:]:
        console.print("  " + escape(text), style="dim", highlight=False, soft_wrap=True)
