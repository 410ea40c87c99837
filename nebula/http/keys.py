"""The admin API of keys: they are issued, changed, rotated and revoked as events of the log."""

import secrets
from typing import Annotated, Any

import msgspec
from litestar import Request, delete, get, patch, post
from msgspec import Meta, Struct

from nebula.actors.gateway.actor import Gateway
from nebula.actors.new_keys import new_key
from nebula.events.key import Key
from nebula.events.key_events import KeyIssued, KeyRevoked, Rights
from nebula.events.values import Seconds
from nebula.events.wrong_values import in_words
from nebula.history.key_rights import rotated, with_changes
from nebula.http.errors import ApiError, field_at_fault
from nebula.http.inference import Limits
from nebula.http.intents import known, read_intent, submitted, valid_id
from nebula.http.views import KeyView, key_view


class IssuedKey(Struct, frozen=True):
    """A key that was issued or replaced now: its text is shown this once, and stored nowhere."""

    id: str
    secret: str
    seq: int
    rights: KeyView


class KeyRotation(Struct, frozen=True, forbid_unknown_fields=True):
    """How a key is replaced."""

    overlap: Annotated[
        Seconds, Meta(description="Seconds for which the previous key stays valid.")
    ] = 0.0


class Change(Struct, frozen=True):
    """A change of a key is in the log at `seq`."""

    id: str
    seq: int
    rights: KeyView


def _key(gateway: Gateway, identity: str) -> Key:
    return known("key", gateway.projection.state.keys, identity)


def _view(gateway: Gateway, identity: str) -> KeyView:
    return key_view(gateway.projection.state.keys[identity])


@get("/admin/keys")
async def list_keys(gateway: Gateway) -> list[KeyView]:
    """List all keys, without their secrets."""
    present = gateway.projection.state.keys
    return [key_view(present[identity]) for identity in sorted(present)]


@get("/admin/keys/{key:str}")
async def show_key(key: str, gateway: Gateway) -> KeyView:
    """Show one key, by its id."""
    return key_view(_key(gateway, key))


@post("/admin/keys", status_code=201, request_max_body_size=None)
async def issue_key(request: Request[Any, Any, Any], gateway: Gateway, limits: Limits) -> IssuedKey:
    """Issue a key: the body is its rights as JSON, perhaps with an `id`."""
    rights, extra = await read_intent(request, gateway, limits, Rights, "id", optional=False)
    identity = valid_id(extra.get("id") or f"key-{secrets.token_hex(4)}", "id")
    new = new_key(identity)
    event = msgspec.convert(
        {**msgspec.to_builtins(rights), "hash": new.hash, "prefix": new.prefix}, KeyIssued
    )
    accepted = await submitted(request, gateway, identity, event)
    return IssuedKey(identity, new.text, accepted.seq, _view(gateway, identity))


@patch("/admin/keys/{key:str}", status_code=202, request_max_body_size=None)
async def change_key(
    key: str, request: Request[Any, Any, Any], gateway: Gateway, limits: Limits
) -> Change:
    """Change the rights of a key: those that the body does not name stay."""
    fields, _ = await read_intent(request, gateway, limits, dict[str, object], optional=False)
    try:
        event = with_changes(_key(gateway, key), fields)
    except msgspec.ValidationError as error:
        raise ApiError(400, in_words(error), param=field_at_fault(error)) from error
    accepted = await submitted(request, gateway, key, event)
    return Change(key, accepted.seq, _view(gateway, key))


@post("/admin/keys/{key:str}/rotate", status_code=201, request_max_body_size=None)
async def rotate_key(
    key: str, request: Request[Any, Any, Any], gateway: Gateway, limits: Limits
) -> IssuedKey:
    """Replace a key by a new one with the same id and rights."""
    rotation, _ = await read_intent(request, gateway, limits, KeyRotation, optional=False)
    new = new_key(key)
    event = rotated(_key(gateway, key), new, rotation.overlap)
    accepted = await submitted(request, gateway, key, event)
    return IssuedKey(key, new.text, accepted.seq, _view(gateway, key))


@delete("/admin/keys/{key:str}", status_code=202)
async def revoke_key(key: str, request: Request[Any, Any, Any], gateway: Gateway) -> Change:
    """Revoke a key, for good."""
    accepted = await submitted(
        request, gateway, key, KeyRevoked(), there=lambda: _key(gateway, key)
    )
    return Change(key, accepted.seq, _view(gateway, key))
