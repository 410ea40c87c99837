"""What members of a provider's groups may do here: GROUP=SCOPE[,SCOPE][@TENANT]. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any, cast, get_args

from msgspec import Struct

from nebula.events.key_events import Scope
from nebula.events.subjects import ID_FORM, is_token

EVERYONE = "*"
"""The group of all people that sign in."""

_SCOPES: tuple[Scope, ...] = get_args(Scope)


class Grant(Struct, frozen=True):
    """Members of a group get these scopes, and a tenant; "" for none."""

    group: str
    scopes: tuple[Scope, ...]
    tenant: str = ""


class Granted(Struct, frozen=True):
    """What a person may do, by all groups together."""

    scopes: tuple[Scope, ...]
    tenant: str = ""


def parsed(text: str) -> Grant:
    """Read a grant. Raise ValueError that says what is wrong."""
    group, equals, rest = text.rpartition("=")
    if not (equals and group.strip()):
        raise ValueError(
            f"{text!r} is not a grant: write GROUP=SCOPE[,SCOPE][@TENANT], as ops=operate,infer"
        )
    words, at, tenant = rest.partition("@")
    scopes = tuple(dict.fromkeys(each.strip() for each in words.split(",")))
    for each in scopes:
        if each not in _SCOPES:
            raise ValueError(f"{each!r} in {text!r} is not a scope: use {', '.join(_SCOPES)}")
    if at and not is_token(tenant):
        raise ValueError(f"{tenant!r} in {text!r} is not a valid tenant: use {ID_FORM}")
    return Grant(group.strip(), cast("tuple[Scope, ...]", scopes), tenant)


def granted(groups: Iterable[str], grants: Iterable[Grant]) -> Granted | None:
    """Return what a member of these groups may do; None if none of them has a grant.

    Scopes add up. The tenant is that of the first grant that names one.
    """
    member = {*groups, EVERYONE}
    own = [each for each in grants if each.group in member]
    if not own:
        return None
    given = {scope for each in own for scope in each.scopes}
    tenant = next((each.tenant for each in own if each.tenant), "")
    return Granted(tuple(each for each in _SCOPES if each in given), tenant)


def groups_in(claims: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Return the groups that a claim names: a text, or a list of texts.

    A name with dots may lead into an object, as `realm_access.roles`.
    """
    found: Any = claims.get(name)
    if found is None:
        found = claims
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    if isinstance(found, str):
        return (found,)
    if not isinstance(found, list | tuple):
        return ()
    return tuple(each for each in found if isinstance(each, str))
