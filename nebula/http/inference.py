"""The three hot paths of OpenAI's API: chat, completions, embeddings.

They are plain ASGI in front of Litestar: of a body only what concerns the gateway is read, and a
request costs no more than it must. Everything else is Litestar's.
"""

import hashlib
import logging
from collections.abc import Mapping
from itertools import count
from typing import TypeAlias

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send
from msgspec import Raw, Struct
from msgspec.structs import replace

from nebula.actors.gateway.actor import Gateway
from nebula.actors.gateway.budget import Hold
from nebula.actors.gateway.claims import Reused, claim
from nebula.actors.gateway.copies import Copies
from nebula.actors.gateway.exchange import new_id
from nebula.actors.gateway.failures import NotServed
from nebula.actors.gateway.naming import Destination, resolve, shadow
from nebula.actors.gateway.resuming import failed, prepared
from nebula.actors.router.prefixes import BOUNDS, digests
from nebula.events.envelope import HEADER_ROOM
from nebula.events.inference import Request
from nebula.events.objections import known_names
from nebula.events.state import Named
from nebula.events.values import Task
from nebula.http.bodies import ClientLeft, read_body
from nebula.http.errors import ApiError, field_at_fault, no_json, unavailable
from nebula.http.relay import fail, relay
from nebula.http.resuming import resume

log = logging.getLogger(__name__)

_TASK_OF: dict[str, Task] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "chat",
    "/v1/embeddings": "embedding",
}
_REQUIRED = {
    "/v1/chat/completions": "messages",
    "/v1/completions": "prompt",
    "/v1/embeddings": "input",
}
_EMPTY = Raw(b"")
_NAMED = 200
"""Letters of a name that is not known, as far as it is told back."""

Headers: TypeAlias = Mapping[bytes, bytes]


class Patience(Struct, frozen=True):
    """How long to wait, in seconds: for a replica, and between two pieces of an answer."""

    load: float = 30.0
    idle: float = 600.0


class Limits(Struct, frozen=True):
    """What the gateway takes: a body's bytes, at most what NATS takes; and how long it waits."""

    body: int | None = None
    patience: Patience = Patience()

    def body_for(self, gateway: Gateway) -> int:
        """Give the largest body that can be sent on."""
        room = gateway.connection.max_body - HEADER_ROOM
        return room if self.body is None else min(self.body, room)


class _Outline(Struct):
    """The fields of a request that concern the gateway; all others are the engine's."""

    model: str
    stream: bool | None = None
    messages: Raw = _EMPTY
    prompt: Raw = _EMPTY
    input: Raw = _EMPTY
    user: Raw = _EMPTY
    priority: Raw = _EMPTY


_outlines = msgspec.json.Decoder(_Outline)
_fields = msgspec.json.Decoder(dict[str, Raw])


class InferenceRoutes:
    """See the module; `rest` answers all other paths."""

    def __init__(self, rest: ASGIApp, gateway: Gateway, limits: Limits) -> None:
        self._rest = rest
        self._gateway = gateway
        self._limits = limits
        self._copies = Copies(gateway)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] != ScopeType.HTTP:
            await self._rest(scope, receive, send)
            return
        path = scope["path"].rstrip("/")
        if path not in _TASK_OF:
            await self._rest(scope, receive, send)
            return
        try:
            if scope["method"] != "POST":
                raise ApiError(405, f"{path} takes POST", allow="POST")
            await self._infer(path, scope, receive, send)
        except ApiError as error:
            await fail(error, send)
        except ClientLeft:
            return
        except ConnectionAbortedError:
            raise
        except Exception as error:
            log.exception("a request to %s failed", path)
            text = f"internal error: {type(error).__name__}"
            await fail(ApiError(500, text, kind="internal_error"), send)

    async def _infer(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        gateway = self._gateway
        if not gateway.started:
            raise unavailable("the gateway is starting")
        hold = Hold(gateway.bodies)
        try:
            gateway.admit()
            await self._answer(path, scope, receive, send, hold)
        except NotServed as error:
            raise unavailable(str(error), error.retry_after) from error
        finally:
            hold.release()

    async def _answer(
        self, path: str, scope: Scope, receive: Receive, send: Send, hold: Hold
    ) -> None:
        gateway, limits = self._gateway, self._limits
        headers = dict(scope["headers"])
        body = await read_body(receive, headers, limits.body_for(gateway), hold)
        outline = _read(path, body)
        identity, kept = new_id(), _kept(headers)
        to = self._resolve(path, outline.model, _text(outline.user) or kept or identity)
        named, asked = to.named, body
        if to.name != outline.model:
            body = _renamed(body, to.name)
        timeout, user = _from_headers(headers)
        prompt = bytes(getattr(outline, _REQUIRED[path]))
        request = Request(
            identity,
            gateway.id,
            named.model,
            path,
            body,
            named.adapter,
            user=user or _text(outline.user),
            priority=_number(outline.priority),
            patience=limits.patience.load,
            timeout=timeout,
            prefix=_prefix(named, prompt) if len(prompt) >= BOUNDS[0] else (),
        )
        if outline.stream:
            request = prepared(request)
        if kept is not None:
            request, again = await self._claim(request, kept.encode("latin-1"), asked)
            if again:
                await resume(gateway, request.id, 0, receive, send)
                return
        exchange = gateway.ask(request, named, idle=limits.patience.idle)
        if to.mirror or to.awaken:
            self._copy(request, to, asked)
        try:
            await relay(exchange, receive, send, to.name if to.name != outline.model else "")
        finally:
            gateway.leave(exchange, hold)

    def _copy(self, request: Request, to: Destination, asked: bytes) -> None:
        """Send the copies that a request calls for, of what the client asked."""
        state = self._gateway.projection.state
        if to.awaken:
            model = state.models[to.awaken]
            self._copies.wake(request, model.id, _renamed(asked, model.name))
        mirror = shadow(state, to.mirror, to) if to.mirror else None
        if mirror is not None:
            self._copies.mirror(request, mirror.named, _renamed(asked, mirror.name))

    async def _claim(self, request: Request, key: bytes, body: bytes) -> tuple[Request, bool]:
        """Make a request resumable; True where the same one is under way already.

        The same one is what has the same `body` from its client, wherever its name led to.
        Raises ApiError for a key that was used for another request, NotServed.
        """
        gateway = self._gateway
        asked = hashlib.blake2b(request.path.encode() + b"\n" + body, digest_size=16)
        for number in count():
            identity = request.id
            if key:
                of = b"%b\n%d\n%b" % (request.user.encode(), number, key)
                identity = hashlib.blake2b(of, digest_size=16).hexdigest()
            request = replace(request, id=identity, keep=True)
            try:
                other = await claim(gateway, request, asked.hexdigest())
            except Reused:
                raise ApiError(
                    422,
                    "this Idempotency-Key was used for another request",
                    code="idempotency_key_reused",
                ) from None
            if other is None:
                return request, False
            if not await failed(gateway, other.request):
                break
        return request, True

    def _resolve(self, path: str, name: str, key: str) -> Destination:
        """Find who answers. Raises ApiError: 404 with the names there are, 400, 503."""
        gateway = self._gateway
        state = gateway.projection.state
        to = resolve(state, name, key)
        if to is None:
            if not gateway.able:
                raise unavailable("NATS can't be reached: which models there are is not known now")
            said = name if len(name) <= _NAMED else f"{name[:_NAMED]}..."
            names = [each for each in known_names(state) if each != name]
            there = ", ".join(repr(known) for known in names[:50]) if names else "none yet"
            known = state.names.get(name)
            what = f"The model {said!r} does not exist"
            if known is not None and known.alias:
                targets = ", ".join(repr(each.model) for each in state.aliases[known.alias].targets)
                what = f"{name!r} is an alias of {targets}, of which none is there now"
            raise ApiError(
                404,
                f"{what}. There are: {there}",
                param="model",
                code="model_not_found",
            )
        if to.model.task != _TASK_OF[path]:
            raise ApiError(
                400,
                f"{name!r} is a model for {to.model.task}; {path} needs one for {_TASK_OF[path]}",
                param="model",
                code="wrong_task",
            )
        return to


def _renamed(body: bytes, name: str) -> bytes:
    """Give a body that names another model, and is the same else."""
    fields = _fields.decode(body)
    fields["model"] = Raw(msgspec.json.encode(name))
    return msgspec.json.encode(fields)


def _read(path: str, body: bytes) -> _Outline:
    """Read what the gateway needs of a body. Raises ApiError that names the field at fault."""
    try:
        outline = _outlines.decode(body)
    except msgspec.ValidationError as error:
        if "missing required field `model`" in str(error):
            raise ApiError(400, "you must name a model", param="model") from error
        raise ApiError(400, f"wrong type: {error}", param=field_at_fault(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise no_json(error) from error
    field = _REQUIRED[path]
    raw = bytes(getattr(outline, field))
    if not raw or raw == b"null":
        raise ApiError(400, f"{field} is required", param=field)
    if raw[:1] not in ((b"[",) if field == "messages" else (b"[", b'"')):
        expected = "a list" if field == "messages" else "a string or a list"
        raise ApiError(400, f"wrong type: {field} must be {expected}", param=field)
    return outline


def _kept(headers: Headers) -> str | None:
    """Say whether an answer is to be resumable, and by which key ("" for its own id)."""
    key = headers.get(b"idempotency-key")
    if key:
        return key.decode("latin-1")
    return "" if headers.get(b"x-resumable", b"").lower() in (b"1", b"true", b"yes") else None


def _from_headers(headers: Headers) -> tuple[float | None, str]:
    """Read a request's time limit (s), and whom its API key belongs to: its hash, never itself.

    Raises ApiError.
    """
    timeout, user = None, ""
    if (owner := headers.get(b"authorization")) is not None:
        user = hashlib.blake2b(owner, digest_size=8).hexdigest()
    if (limit := headers.get(b"x-request-timeout")) is not None:
        try:
            timeout = float(limit)
        except ValueError:
            timeout = 0.0
        if not 0 < timeout < 1e9:
            raise ApiError(400, "X-Request-Timeout must be seconds, more than 0")
    return timeout, user


def _prefix(named: Named, prompt: bytes) -> tuple[str, ...]:
    """Digest a prompt's beginnings; each adapter has a cache of its own in the engine."""
    return digests(named.adapter.encode() + b"\0" + prompt)


def _text(raw: Raw) -> str:
    """Read a user's name as a header takes it; what is no name is the engine's to refuse."""
    value = bytes(raw)
    if not value.startswith(b'"') or value == b'""':
        return ""
    return hashlib.blake2b(value, digest_size=8).hexdigest()


def _number(raw: Raw) -> int:
    """Read a priority; what is no number is the engine's to refuse."""
    value = bytes(raw)
    digits = value.removeprefix(b"-")
    return int(value) if digits.isdigit() and len(digits) < 10 else 0
