"""The fair queue in which requests for one model wait until a replica can take them.

It decides which request goes next and nothing else. A lower priority number goes first. Within one
priority tenants take turns, so that one that sends a thousand requests delays another by one
request and not by a thousand; a key without a tenant counts as one by itself, and all requests
without a key that the log knows as one together. Within one tenant its
keys take turns in the same way, and within one key its users, so that a key divides its turn among
the users that it names, and gains nothing by naming many. Within one user
the request that has waited longest goes first. A request whose adapter no replica can serve now is
skipped, and keeps its place and the turns of its user and key.

Times are seconds of one monotonic clock, which the caller reads.
"""

from bisect import bisect_left, bisect_right, insort
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import cache
from itertools import zip_longest
from typing import TypeAlias, TypeVar

from msgspec import Struct

from nebula.events.key import OF_KEY


class QueuedRequest(Struct, frozen=True):
    """A queued request.

    `user` is the user that fairness counts it for, as KEY or KEY/USER. All requests without a key
    share the turn of the key "", and all requests of a key without a user that of its user "".
    `tenant`: that of the key, "" for none. `adapter` is "" for the base model. A lower `priority`
    goes first, as in vLLM. It waits from `since` and is given up at `until`. `size`: the bytes that
    it takes here.
    """

    id: str
    user: str
    priority: int
    adapter: str
    since: float
    until: float
    size: int = 0
    tenant: str = ""


_Place = tuple[float, int, QueuedRequest]
"""A time, the number of the arrival, which makes it unique, and the request's id."""

_Sorted = TypeVar("_Sorted", _Place, int)

_Users: TypeAlias = OrderedDict[str, dict[str, list[_Place]]]
"""The queued requests of one key's users, by adapter; the user whose turn it is comes first."""

_Keys: TypeAlias = OrderedDict[str, _Users]
"""The queued requests of one tenant's keys; the key whose turn it is comes first."""

_Tenants: TypeAlias = OrderedDict[str, _Keys]
"""Those of each tenant in one priority. A key without a tenant is one by itself."""


class FairQueue:
    """The fair queue of one model.

    `size`: the bytes of all queued requests. `of_keys`, `of_tenants`: how many requests of each
    wait, for a key as in a request's `user`. All lists are kept sorted. Inserting into or deleting
    from a list of thousands moves a few kilobytes, which costs less than a heap with deleted
    entries.
    """

    def __init__(self) -> None:
        self.size = 0
        self.of_keys: Counter[str] = Counter()
        self.of_tenants: Counter[str] = Counter()
        self._arrivals = 0
        self._places: dict[str, _Place] = {}
        self._by_since: list[_Place] = []
        self._by_until: list[_Place] = []
        self._adapters: Counter[str] = Counter()
        self._priorities: list[int] = []
        self._turns: dict[int, _Tenants] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, identity: str) -> bool:
        return identity in self._places

    def add(self, request: QueuedRequest) -> None:
        """Queue a request, the turn of a new key or user last; a queued one stays as it is.

        A request that comes back with its old `since` is again the first of its user.
        """
        if request.id in self._places:
            return
        self._arrivals += 1
        place = (request.since, self._arrivals, request)
        self._places[request.id] = place
        self.size += request.size
        insort(self._by_since, place)
        insort(self._by_until, (request.until, self._arrivals, request))
        self._adapters[request.adapter] += 1
        turns = self._turns.get(request.priority)
        if turns is None:
            turns = self._turns[request.priority] = OrderedDict()
            insort(self._priorities, request.priority)
        key, _, user = request.user.partition("/")
        self.of_keys[key] += 1
        if request.tenant:
            self.of_tenants[request.tenant] += 1
        keys = turns.setdefault(_tenant(request), OrderedDict())
        adapters = keys.setdefault(key, OrderedDict()).setdefault(user, {})
        insort(adapters.setdefault(request.adapter, []), place)

    def remove(self, identity: str) -> QueuedRequest | None:
        """Remove a request that was cancelled or sent elsewhere. No turn changes."""
        place = self._places.pop(identity, None)
        if place is None:
            return None
        _, arrival, request = place
        self.size -= request.size
        _delete(self._by_since, place)
        _delete(self._by_until, (request.until, arrival, request))
        _count_down(self._adapters, request.adapter)
        key, _, user = request.user.partition("/")
        _count_down(self.of_keys, key)
        if request.tenant:
            _count_down(self.of_tenants, request.tenant)
        turns = self._turns[request.priority]
        keys = turns[tenant := _tenant(request)]
        users = keys[key]
        adapters = users[user]
        _delete(adapters[request.adapter], place)
        if not adapters[request.adapter]:
            del adapters[request.adapter]
        if not adapters:
            del users[user]
        if not users:
            del keys[key]
        if not keys:
            del turns[tenant]
        if not turns:
            del self._turns[request.priority]
            _delete(self._priorities, request.priority)
        return request

    def next(self, able: Callable[[str], bool]) -> QueuedRequest | None:
        """Remove and return the first request whose adapter is `able`, called once per adapter.

        The next turns of its tenant, of its key and of its user come last.
        """
        able = cache(able)
        # The common case while all replicas are busy, decided without checking each user.
        if not any(map(able, self._adapters)):
            return None
        for priority in self._priorities:
            turns = self._turns[priority]
            for tenant, keys in turns.items():
                for key, users in keys.items():
                    for user, adapters in users.items():
                        for _, _, request in sorted([places[0] for places in adapters.values()]):
                            if able(request.adapter):
                                users.move_to_end(user)
                                keys.move_to_end(key)
                                turns.move_to_end(tenant)
                                return self.remove(request.id)
        return None

    def order(self) -> list[str]:
        """Return the ids in the order in which `next` would return them if all were able."""
        order: list[str] = []
        for priority in self._priorities:
            tenants = []
            for keys in self._turns[priority].values():
                of_keys = []
                for users in keys.values():
                    of_users = []
                    for adapters in users.values():
                        places = sorted(place for each in adapters.values() for place in each)
                        of_users.append([request.id for _, _, request in places])
                    of_keys.append(_in_turn(of_users))
                tenants.append(_in_turn(of_keys))
            order += _in_turn(tenants)
        return order

    def expired(self, now: float) -> list[QueuedRequest]:
        """Remove and return all requests that have waited too long, in the order of `until`."""
        end = bisect_right(self._by_until, now, key=lambda place: place[0])
        expired = [request for _, _, request in self._by_until[:end]]
        for request in expired:
            self.remove(request.id)
        return expired

    def due(self) -> float | None:
        """Return when the next request is to be given up."""
        return self._by_until[0][0] if self._by_until else None

    def oldest(self) -> float | None:
        """Return since when the oldest request has waited."""
        return self._by_since[0][0] if self._by_since else None


def _in_turn(waiting: list[list[str]]) -> list[str]:
    """Return what lists have, one of each in turn."""
    rounds = zip_longest(*waiting)
    return [each for turn in rounds for each in turn if each is not None]


def _tenant(request: QueuedRequest) -> str:
    """Return whose turn a request waits for: a tenant's, or a key's that belongs to none.

    All that come without a key that the log knows share one, whatever they send in its place.
    """
    key = request.user.partition("/")[0]
    return request.tenant or (f"/{key}" if key.startswith(OF_KEY) else "/")


def _count_down(counts: Counter[str], name: str) -> None:
    counts[name] -= 1
    if not counts[name]:
        del counts[name]


def _delete(ordered: list[_Sorted], value: _Sorted) -> None:
    del ordered[bisect_left(ordered, value)]
