"""nats-py's client that only `close` ends: after any other end of the connection it reconnects.

nats-py gives up for good upon every error from a server (`-ERR`: a revoked user, expired
credentials, too many connections), and waits for ever for a failed TLS connection to close. Here an
error is noted and reported, and the connection counts as alive until it really ends. All
subscriptions are restored after a reconnection.
"""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from nats.aio.client import Client, Srv
from nats.errors import Error as NatsError
from nats.errors import NoServersError

from nebula.store import reaching
from nebula.store.client import FastClient
from nebula.store.credentials import Way
from nebula.store.forbidden import OpenRequests
from nebula.store.reaching import BadFile, Trouble

_LAST_WORDS = 1.0
"""Seconds for the server that it leaves to take what was posted."""

_STEADY = 5.0
"""Seconds after which a connection counts as established: if it ends sooner, a pause follows."""


_LOOK_EVERY = 0.2
"""Seconds between two looks at the file with credentials, while none is taken."""


class Silent(TimeoutError):
    """The server accepted the connection and sent nothing."""


class ToldByServer(NatsError):
    """An error in the server's own words (`-ERR`)."""


class LastingClient(FastClient):
    """A client that reconnects until `close`.

    Args: way: returns the way to the servers; called before every try, so that changed credentials
    are used. It raises OSError or ValueError if they are unknown. on_trouble: called with the
    problem whenever connecting to a server failed. forbids_at_once: a request that NATS does not
    permit raises Forbidden at once.
    """

    def __init__(
        self,
        way: Callable[[], Way],
        on_trouble: Callable[[], None],
        *,
        forbids_at_once: bool = False,
    ) -> None:
        super().__init__()
        self._open_requests = OpenRequests() if forbids_at_once else None
        self.troubles: dict[str, Trouble] = {}
        self._way = way
        self._given: tuple[str, ...] = ()
        self._login = Way(())
        self._on_trouble = on_trouble
        self._untried: list[Srv] | None = None
        self._left = 0
        self._rounds = 0
        self._connected_at = 0.0
        self._closing = False

    async def connect(self, *_: Any, **options: Any) -> None:
        """Connect to one of the servers, trying each once. Raise NoServersError, OSError."""
        way = self._login = self._way()
        self._given = way.servers
        if way.inbox:
            options["inbox_prefix"] = way.inbox
        # The first connection must fail if there is no server; later ones are tried for ever.
        await super().connect(
            servers=list(self._given),
            connect_timeout=reaching.CONNECT,
            max_reconnect_attempts=1,
            **options,
        )
        self._untried = None
        self.options["max_reconnect_attempts"] = -1
        self.options["dont_randomize"] = True  # the server that was lost stays the last to be tried

    @property
    def has_jetstream(self) -> bool:
        """Whether the server says that JetStream is enabled on it."""
        return bool(self._server_info.get("jetstream"))

    @property
    def in_cluster(self) -> bool:
        """Whether the server says that it is one of a cluster."""
        return bool(self._server_info.get("cluster"))

    @property
    def was_connected(self) -> bool:
        """Whether a server has accepted it before."""
        return self._connected_at > 0

    async def close(self) -> None:
        """As nats-py's method; data that is pending without a server is dropped."""
        self._closing = True
        if not self.is_connected:
            self._pending.clear()
            self._pending_data_size = 0
            self.abort()
        await super().close()

    def abort(self) -> None:
        """Drop the connection at once."""
        transport, self._transport = self._transport, None
        writers = (getattr(transport, name, None) for name in ("_io_writer", "_bare_io_writer"))
        for writer in writers:
            if writer is not None:
                with contextlib.suppress(Exception):
                    writer.transport.abort()

    # Another server, by intent

    @property
    def others(self) -> tuple[str, ...]:
        """Host and port of each known server beside the connected one."""
        self._renew()
        at = None if self._current_server is None else _host(self._current_server)
        return tuple(dict.fromkeys(each for s in self._server_pool if (each := _host(s)) != at))

    def url_of(self, server: str) -> str:
        """Return the URL of one of the servers that it knows, with credentials. Raise LookupError.

        Args:
            server: its host and port.
        """
        for known in self._server_pool:
            if _host(known) == server:
                using = self._with_credentials(known)
                user, at, _ = (
                    using.uri.netloc.rpartition("@") if using is not None else ("", "", "")
                )
                return known.uri._replace(netloc=f"{user}{at}{server}").geturl()
        raise LookupError(server)

    async def move(self, server: str) -> None:
        """Leave its server for another one; what was posted goes through the old server, if it can.

        Everything else is as after a loss: if the other server is gone, the next one is tried.

        Args:
            server: host and port of one of those that it knows.
        """
        with contextlib.suppress(NatsError, TimeoutError, OSError):
            await self.flush(timeout=_LAST_WORDS)
        self._server_pool.sort(key=lambda each: _host(each) != server)
        await self.force_reconnect()

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """As nats-py's method, with the files for TLS as they are now. Raise BadFile."""
        way = self._login
        if not way.ca and not way.cert:
            return super().ssl_context
        try:
            context = ssl.create_default_context(cafile=way.ca or None)
            if way.cert:
                context.load_cert_chain(way.cert, way.key or None)
        except OSError as error:
            files = ", ".join(filter(None, (way.ca, way.cert, way.key)))
            raise BadFile(f"{files}: {error.strerror or error}") from error
        return context

    # Which server, and when

    async def _select_next_server(self) -> None:
        while True:
            server = await self._next()
            try:
                await self._connect_to_server(server)
            except Exception as error:
                self._failed(server, error)
                continue
            self._current_server = server
            return

    async def _next(self) -> Srv:
        if not self.was_connected:
            if self._untried is None:
                self._untried = list(self._server_pool)
            if not self._untried:
                self._current_server = None
                raise NoServersError
            return self._untried.pop(0)
        if self._left <= 0:
            if self._rounds:
                troubles = tuple(self.troubles.values())
                await self._rest(reaching.pause(self._rounds, troubles))
            self._renew()
            self._left = len(self._server_pool)
            self._rounds += 1
        self._left -= 1
        server = self._server_pool.pop(0)
        self._server_pool.append(server)
        return server

    async def _rest(self, seconds: float) -> None:
        """Wait, but no longer once there are other credentials or servers to try."""
        while seconds > 0:
            await asyncio.sleep(min(seconds, _LOOK_EVERY))
            seconds -= _LOOK_EVERY
            with contextlib.suppress(OSError, ValueError):
                if self._way() != self._login:
                    return

    def _renew(self) -> None:
        """Use the present URLs, if they have changed and can be read."""
        with contextlib.suppress(OSError, NatsError, ValueError):
            way = self._login = self._way()
            named = way.servers
            pool = [Srv(self._parse_server_uri(each)) for each in named]
            if pool and named != self._given:
                self._given, self._server_pool = named, pool
                self.troubles.clear()

    def _failed(self, server: Srv, error: BaseException) -> None:
        host = _host(server)
        known = bool(self._login.token) or self._with_credentials(server) is not None
        certificate = bool(self._login.cert) or not self._server_info.get("tls_verify")
        self.troubles[host] = reaching.trouble(
            host, error, credentials=known, certificate=certificate
        )
        self._on_trouble()

    def _with_credentials(self, server: Srv) -> Srv | None:
        """Return the server whose credentials are used: this one, or else a configured one.

        Servers that other servers announce have none.
        """
        return next((s for s in (server, *self._server_pool) if s.uri.username is not None), None)

    def _connect_command(self) -> bytes:
        assert self._current_server is not None
        self._sign_in(self._login)
        with_credentials = self._with_credentials(self._current_server)
        self._auth_configured = bool(self._login.token) or with_credentials is not None
        if with_credentials is not None:
            uri = with_credentials.uri
            name = unquote(uri.username or "")
            if uri.password is None:
                self.options |= {"user": None, "password": None, "token": name}
            else:
                password = unquote(uri.password)
                self.options |= {"user": name, "password": password, "token": None}
        return super()._connect_command()

    def _sign_in(self, way: Way) -> None:
        """Prove with its private key to be the user of a token, if there is one."""
        if not way.token:
            self._user_jwt_cb = self._signature_cb = None
            return
        import nkeys  # only tokens need it

        def sign(nonce: str) -> bytes:
            pair = nkeys.from_seed(bytearray(way.seed.encode()))
            return base64.b64encode(bytes(pair.sign(nonce.encode())))

        self._user_jwt_cb = lambda: bytearray(way.token.encode())
        self._signature_cb = sign

    # Connecting, once and again

    async def _process_connect_init(self) -> None:
        """As nats-py's method, with a time limit, and without leaving half a connection behind."""
        server = self._current_server
        assert server is not None
        try:
            try:
                async with asyncio.timeout(2 * reaching.CONNECT):
                    await super()._process_connect_init()
            except TimeoutError as error:
                raise Silent from error
            if not self.is_connected:
                raise ConnectionResetError
        except BaseException as error:
            for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
                if task is not None:
                    task.cancel()
            self.abort()
            if not isinstance(error, Exception):
                raise
            self._failed(server, error)
            if isinstance(error, (OSError, NatsError)):
                raise
            raise NatsError(repr(error)) from error
        self._connected_at = asyncio.get_running_loop().time()
        self.troubles.clear()

    async def _attempt_reconnect(self) -> None:
        lived = asyncio.get_running_loop().time() - self._connected_at
        self._rounds, self._left = (0 if lived >= _STEADY else self._rounds), 0
        task = asyncio.current_task()
        assert task is not None
        self.abort()  # data that the other side has not taken is not waited for
        while True:
            try:
                await super()._attempt_reconnect()
            except Exception as error:
                await self._error_cb(error)
            # nats-py's method treats a cancellation like any other end.
            if self.is_connected or self.is_closed or task.cancelling():
                return
            await asyncio.sleep(reaching.FIRST_PAUSE)
            self._status = Client.RECONNECTING

    async def _process_err(self, err_msg: str) -> None:
        if "stale connection" in err_msg:
            await super()._process_err(err_msg)
        elif not self._refuses_request(err_msg):
            await self._error_cb(ToldByServer(err_msg.strip("' ")))

    def _refuses_request(self, words: str) -> bool:
        if self._open_requests is None:
            return False
        inbox = bytes(self._resp_sub_prefix or b"").decode()
        return self._open_requests.refuse(words, inbox, self._login.login)

    async def publish(
        self,
        subject: str,
        payload: bytes = b"",
        reply: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        """As nats-py's method. For a request, `request` has already made what awaits its answer."""
        if reply and self._open_requests is not None:
            answer = self._resp_map.get(reply.rpartition(".")[2])
            if answer is not None:
                self._open_requests.begin(answer, subject)
        await super().publish(subject, payload, reply, headers)

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        if not self.was_connected or self._closing or self.is_closed:
            await super()._close(status, do_cbs)
            return
        self._status = Client.RECONNECTING
        self._ps.reset()
        self._reconnection_task = asyncio.create_task(self._attempt_reconnect())


def _host(server: Srv) -> str:
    """Return a server's host and port."""
    host = server.uri.hostname or ""
    return f"[{host}]:{server.uri.port}" if ":" in host else f"{host}:{server.uri.port}"
