"""The line in which requests for one model wait until a replica can take them.

It decides who goes next and nothing else. Whoever has the lower priority number goes first. Within
one priority users take turns, so that one who sends a thousand requests delays another by one
request and not by a thousand. Within one user whoever waits longer goes first. A request whose
adapter no replica can serve now is passed by those that can go, and keeps its place and its user's
turn.

Times are seconds of one monotonic clock, which the caller reads.
"""

from bisect import bisect_left, bisect_right, insort
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import cache
from typing import TypeVar

from msgspec import Struct


class Waiting(Struct, frozen=True):
    """A request that waits.

    `user` is whom fairness counts it for: all of unknown users, "", share one turn. `adapter` is
    "" for the base model. A lower `priority` goes first, as in vLLM. It waits `since` then, and is
    given up at `until`. `size`: the bytes that are kept of it.
    """

    id: str
    user: str
    priority: int
    adapter: str
    since: float
    until: float
    size: int = 0


_Place = tuple[float, int, Waiting]
"""A time, the number of the arrival, which makes it unique, and who arrived."""

_Key = TypeVar("_Key", _Place, int)


class Line:
    """See the module.

    `size`: the bytes of all that wait. All lists are kept sorted. To insert into or delete from one
    of thousands moves a few kilobytes, which costs less than a heap with its deleted entries would.
    """

    def __init__(self) -> None:
        self.size = 0
        self._arrivals = 0
        self._places: dict[str, _Place] = {}
        self._by_since: list[_Place] = []
        self._by_until: list[_Place] = []
        self._adapters: Counter[str] = Counter()
        self._priorities: list[int] = []
        # Of each priority the users, whose turn it is first, and what each has waiting by adapter.
        self._turns: dict[int, OrderedDict[str, dict[str, list[_Place]]]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, identity: str) -> bool:
        return identity in self._places

    def add(self, request: Waiting) -> None:
        """Let it wait: a new user's turn comes last. One that waits already stays as it is.

        One that went and comes back with its old `since` is again the first of its user.
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
        insort(turns.setdefault(request.user, {}).setdefault(request.adapter, []), place)

    def remove(self, identity: str) -> Waiting | None:
        """Take one out of the line: it was cancelled or sent elsewhere. Nobody's turn changes."""
        place = self._places.pop(identity, None)
        if place is None:
            return None
        _, arrival, request = place
        self.size -= request.size
        _delete(self._by_since, place)
        _delete(self._by_until, (request.until, arrival, request))
        self._adapters[request.adapter] -= 1
        if not self._adapters[request.adapter]:
            del self._adapters[request.adapter]
        turns = self._turns[request.priority]
        adapters = turns[request.user]
        _delete(adapters[request.adapter], place)
        if not adapters[request.adapter]:
            del adapters[request.adapter]
        if not adapters:
            del turns[request.user]
        if not turns:
            del self._turns[request.priority]
            _delete(self._priorities, request.priority)
        return request

    def next(self, able: Callable[[str], bool]) -> Waiting | None:
        """Take the first out of the line whose adapter is `able`, asked at most once for each.

        Its user's next turn comes last.
        """
        able = cache(able)
        # The usual answer while all replicas are busy, found without asking user by user.
        if not any(map(able, self._adapters)):
            return None
        for priority in self._priorities:
            turns = self._turns[priority]
            for user, adapters in turns.items():
                for _, _, request in sorted([places[0] for places in adapters.values()]):
                    if able(request.adapter):
                        turns.move_to_end(user)
                        return self.remove(request.id)
        return None

    def expired(self, now: float) -> list[Waiting]:
        """Take all out of the line that are to be given up by now, in the order of `until`."""
        end = bisect_right(self._by_until, now, key=lambda place: place[0])
        expired = [request for _, _, request in self._by_until[:end]]
        for request in expired:
            self.remove(request.id)
        return expired

    def due(self) -> float | None:
        """Say when the next one is to be given up."""
        return self._by_until[0][0] if self._by_until else None

    def oldest(self) -> float | None:
        """Say since when the one that waits longest does."""
        return self._by_since[0][0] if self._by_since else None


def _delete(ordered: list[_Key], value: _Key) -> None:
    del ordered[bisect_left(ordered, value)]
