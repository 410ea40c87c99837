"""What engines tell of their caches is what routers know of them, whatever gets lost on the way."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.engine.cache_report import AGAIN, CacheReport
from nebula.actors.router.cached_prefixes import CachedPrefixes
from nebula.actors.router.prefixes import BOUNDS, digests
from nebula.events import cache_news
from nebula.events.cache_news import CacheNews
from nebula.events.reading import decoded

PROMPTS = {name: digests(name.encode() * 1024) for name in "abcdef"}
LONG = BOUNDS[2]


def known(prefixes: CachedPrefixes, name: str) -> dict[str, int]:
    return prefixes.known(PROMPTS[name])


def news(serial: int = 1, pid: int = 7, **changed: object) -> CacheNews:
    return CacheNews(replica="m-0", pid=pid, serial=serial, **changed)  # type: ignore[arg-type]


def test_a_router_learns_what_an_engine_got_from_another() -> None:
    prefixes = CachedPrefixes()
    report = CacheReport("m-0", 7)
    report.got(PROMPTS["a"], 0.0)
    prefixes.heard(report.news())
    assert known(prefixes, "a") == {"m-0": LONG}
    assert known(prefixes, "b") == {}


def test_what_is_evicted_is_held_no_longer_and_the_rest_still_is() -> None:
    prefixes = CachedPrefixes()
    prefixes.learn("m-0", PROMPTS["a"])
    prefixes.learn("m-1", PROMPTS["a"])
    prefixes.heard(news(gone=PROMPTS["a"][1:]))
    assert known(prefixes, "a") == {"m-0": BOUNDS[0], "m-1": LONG}
    prefixes.heard(news(2, gone=(*PROMPTS["a"], *PROMPTS["b"])))
    assert known(prefixes, "a") == {"m-1": LONG}
    assert len(prefixes) == len(PROMPTS["a"])


def test_what_an_unknown_replica_evicts_changes_nothing() -> None:
    prefixes = CachedPrefixes()
    prefixes.heard(news(gone=PROMPTS["a"]))
    assert len(prefixes) == 0


def test_after_a_gap_nothing_is_known_of_an_engine_that_tells_its_evictions() -> None:
    prefixes = CachedPrefixes()
    prefixes.heard(news(held=PROMPTS["a"], evictions=True))
    prefixes.heard(news(3, held=PROMPTS["b"], evictions=True))
    assert (known(prefixes, "a"), known(prefixes, "b")) == ({}, {"m-0": LONG})


def test_after_a_gap_a_guess_stays_a_guess() -> None:
    prefixes = CachedPrefixes()
    prefixes.heard(news(held=PROMPTS["a"]))
    prefixes.heard(news(3, held=PROMPTS["b"]))
    assert (known(prefixes, "a"), known(prefixes, "b")) == ({"m-0": LONG}, {"m-0": LONG})


def test_a_router_that_begins_to_listen_keeps_what_it_has_sent() -> None:
    prefixes = CachedPrefixes()
    prefixes.learn("m-0", PROMPTS["a"])
    prefixes.heard(news(9, held=PROMPTS["b"], evictions=True))
    assert known(prefixes, "a") == {"m-0": LONG}


def test_another_process_of_a_replica_has_an_empty_cache() -> None:
    prefixes = CachedPrefixes()
    prefixes.heard(news(held=PROMPTS["a"]))
    prefixes.heard(news(2, pid=8, held=PROMPTS["b"]))
    assert (known(prefixes, "a"), known(prefixes, "b")) == ({}, {"m-0": LONG})


def test_a_digest_is_told_again_only_after_a_while_or_when_it_was_evicted() -> None:
    report = CacheReport("m-0", 7)
    report.got(PROMPTS["a"], 0.0)
    assert set(report.news().held) == set(PROMPTS["a"])
    report.got(PROMPTS["a"], AGAIN - 1)
    assert not report.due
    report.got(PROMPTS["a"], AGAIN)
    assert report.due
    report.evicted(PROMPTS["a"][2:])
    told = report.news()
    assert (told.held, told.gone) == (PROMPTS["a"][1::-1], PROMPTS["a"][2:])
    report.got(PROMPTS["a"], AGAIN + 1)
    assert report.news().held == PROMPTS["a"][2:]


def test_the_beginning_of_a_prompt_is_told_to_last_longer_than_its_end() -> None:
    report = CacheReport("m-0", 7)
    report.got(PROMPTS["a"], 0.0)
    prefixes = CachedPrefixes(limit=1)
    prefixes.heard(report.news())
    assert known(prefixes, "a") == {"m-0": BOUNDS[0]}


def test_a_message_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nebula.actors.engine.cache_report.MOST", 4)
    report = CacheReport("m-0", 7)
    for number, name in enumerate("abc"):
        report.got(PROMPTS[name], number)
    told = report.news()
    assert told.held == (PROMPTS["b"][0], *PROMPTS["c"][::-1])
    report.evicted(PROMPTS["a"])
    report.evicted(PROMPTS["b"])
    told = report.news()
    assert (told.forgotten, told.held, told.gone) == (True, (), ())
    assert cache_news.MOST == 4096


def test_a_message_beyond_the_bound_is_passed_over() -> None:
    def told(number: int) -> CacheNews | None:
        news = CacheNews(replica="chat-0", pid=7, serial=1, held=("d",) * number)
        return decoded(msgspec.json.encode(news), CacheNews)

    assert told(cache_news.MOST) is not None
    assert told(cache_news.MOST + 1) is None


def test_what_is_remembered_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nebula.actors.engine.cache_report.REMEMBERED", 3)
    report = CacheReport("m-0", 7)
    for name in "abcdef":
        report.got(PROMPTS[name], 0.0)
    assert len(report._told) == 3


steps = st.lists(
    st.one_of(
        st.tuples(st.just("got"), st.sampled_from("abcdef")),
        st.tuples(st.just("evicted"), st.sampled_from("abcdef")),
        st.tuples(st.sampled_from(["tell", "lose", "forget"]), st.just("")),
    ),
    max_size=40,
)


@given(steps)
def test_whatever_happens_nothing_is_believed_that_the_engine_has_told_to_be_gone(
    history: list[tuple[str, str]],
) -> None:
    """Once a message arrives, a router knows no more than is held; without losses, all of it."""
    report, prefixes = CacheReport("m-0", 7), CachedPrefixes()
    report.evictions = True
    held: set[str] = set()
    lost = False
    for now, (step, name) in enumerate([*history, ("tell", "")]):
        match step:
            case "got":
                report.got(PROMPTS[name], now / 1000)
                held |= set(PROMPTS[name])
            case "evicted":
                report.evicted(PROMPTS[name][1:])
                held -= set(PROMPTS[name][1:])
            case "forget":
                report.forget()
                held.clear()
            case "lose":
                if report.due:
                    report.news()
                    lost = True
            case _:
                prefixes.heard(report.news())
                believed = {each for each, _ in prefixes._sent if prefixes.known((each,))}
                assert believed <= held
                assert lost or believed == held
