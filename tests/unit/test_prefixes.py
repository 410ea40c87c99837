"""Which replicas are believed to have the beginning of a prompt in their cache."""

from __future__ import annotations

import pickle
from itertools import pairwise, takewhile

from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.router.prefixes import BOUNDS, Prefixes, digests

SYSTEM = b"You are a helpful assistant. " * 20  # 580 bytes: reaches two bounds
assert BOUNDS[1] <= len(SYSTEM) < BOUNDS[2]


def question(number: int, length: int = 4096) -> bytes:
    return SYSTEM + b"%d" % number * length


def test_bounds_double_so_that_few_digests_cover_short_and_long_prompts() -> None:
    assert (BOUNDS[0], BOUNDS[-1], len(BOUNDS)) == (256, 65_536, 9)
    assert all(2 * shorter == longer for shorter, longer in pairwise(BOUNDS))


def test_a_short_prompt_has_no_digest_and_is_known_to_no_replica() -> None:
    assert digests(b"x" * 255) == ()
    prefixes = Prefixes()
    prefixes.learn("a", ())
    assert prefixes.known(()) == {}
    assert len(prefixes) == 0


def test_a_prompt_has_one_digest_of_eight_bytes_for_each_bound_it_reaches() -> None:
    assert [len(digests(b"x" * length)) for length in (256, 511, 512, 4096)] == [1, 1, 2, 5]
    assert len(digests(b"x" * 200_000)) == len(BOUNDS)
    assert {len(bytes.fromhex(digest)) for digest in digests(b"x" * 4096)} == {8}


def test_what_else_the_cache_depends_on_makes_another_prompt() -> None:
    assert not set(digests(question(1), b"sql")) & set(digests(question(1)))


def test_a_replica_is_known_to_have_the_whole_prompt_it_was_sent() -> None:
    prefixes = Prefixes()
    prefixes.learn("a", digests(question(1)))
    assert prefixes.known(digests(question(1))) == {"a": 4096}


def test_of_another_prompt_it_is_known_to_have_what_both_have_in_common() -> None:
    prefixes = Prefixes()
    prefixes.learn("a", digests(question(1)))
    assert prefixes.known(digests(question(2))) == {"a": 512}
    assert prefixes.known(digests(b"else" * 1000)) == {}


def test_the_next_turn_of_a_conversation_is_known_where_the_last_one_went() -> None:
    prefixes = Prefixes()
    prefixes.learn("a", digests(question(1)))
    prefixes.learn("b", digests(question(2)))
    assert prefixes.known(digests(question(1) + b"and then?" * 900)) == {"a": 4096, "b": 512}


def test_asking_what_is_known_teaches_nothing() -> None:
    prefixes = Prefixes()
    prefixes.known(digests(question(1)))
    assert len(prefixes) == 0


def test_a_replica_whose_engine_is_another_one_now_has_nothing() -> None:
    prefixes = Prefixes()
    for replica in ("a", "b"):
        prefixes.learn(replica, digests(question(1)))
    prefixes.forget("a")
    assert prefixes.known(digests(question(1))) == {"b": 4096}
    prefixes.learn("a", digests(question(2)))
    assert prefixes.known(digests(question(1))) == {"a": 512, "b": 4096}


def test_a_replica_that_was_sent_nothing_can_be_forgotten() -> None:
    Prefixes().forget("unknown")


def test_what_was_sent_longest_ago_is_forgotten_first() -> None:
    prefixes = Prefixes(limit=10)
    for number in (1, 2, 3):
        prefixes.learn("a", digests(b"%d" % number * 4096))
    assert [prefixes.known(digests(b"%d" % number * 4096)) for number in (1, 2, 3)] == [
        {},
        {"a": 4096},
        {"a": 4096},
    ]


def test_what_is_sent_again_is_not_forgotten() -> None:
    prefixes = Prefixes(limit=10)
    for number in (1, 2, 1, 3):
        prefixes.learn("a", digests(b"%d" % number * 4096))
    assert prefixes.known(digests(b"1" * 4096)) == {"a": 4096}
    assert prefixes.known(digests(b"2" * 4096)) == {}


def test_what_others_are_sent_does_not_keep_a_replica_s_own_alive() -> None:
    prefixes = Prefixes(limit=10)
    prefixes.learn("a", digests(b"1" * 4096))
    for number in (1, 2, 1):
        prefixes.learn("b", digests(b"%d" % number * 4096))
    assert prefixes.known(digests(b"1" * 4096)) == {"b": 4096}


def test_of_one_prompt_the_end_is_forgotten_before_the_beginning() -> None:
    prefixes = Prefixes(limit=6)
    prefixes.learn("a", digests(b"1" * 4096))
    assert prefixes.known(digests(b"1" * 4096)) == {"a": 4096}
    prefixes.learn("a", digests(b"2" * 1024))
    assert prefixes.known(digests(b"1" * 4096)) == {"a": 1024}


def test_what_is_forgotten_takes_no_memory() -> None:
    def size(prompts: int) -> int:
        prefixes = Prefixes(limit=10)
        for number in range(prompts):
            prefixes.learn("a", digests(b"%04d" % number * 1024))
            prefixes.forget("b")
            prefixes.learn("b", digests(b"%04d" % number * 1024))
        return len(pickle.dumps(prefixes))

    assert size(500) < size(10) + 100


# Of few different blocks, so that beginnings are often the same.
prompts = st.builds(
    lambda blocks, tail: b"".join(block * 256 for block in blocks) + tail,
    st.lists(st.sampled_from([b"x", b"y"]), max_size=9),
    st.binary(max_size=3),
)
replicas = st.sampled_from(["a", "b", "c"])
histories = st.lists(st.tuples(replicas, st.none() | prompts), max_size=20)
"""Which replica was sent what; nothing means that another engine started there."""


def common_length(one: bytes, other: bytes) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def told(history: list[tuple[str, bytes | None]], limit: int) -> Prefixes:
    prefixes = Prefixes(limit)
    for replica, prompt in history:
        if prompt is None:
            prefixes.forget(replica)
        else:
            prefixes.learn(replica, digests(prompt))
        assert len(prefixes) <= limit
    return prefixes


def truth(history: list[tuple[str, bytes | None]], prompt: bytes) -> dict[str, int]:
    """Return the longest beginning of the prompt that each replica's present engine was sent."""
    longest: dict[str, int] = {}
    for replica, sent in history:
        if sent is None:
            longest.pop(replica, None)
        else:
            common = common_length(prompt, sent)
            longest[replica] = max(longest.get(replica, 0), common)
    return longest


@given(prompts, prompts)
def test_prompts_share_the_digests_of_the_bounds_up_to_which_they_are_equal(
    one: bytes, other: bytes
) -> None:
    common = common_length(one, other)
    reached = sum(bound <= common for bound in BOUNDS)
    assert digests(one)[:reached] == digests(other)[:reached]
    assert not set(digests(one)[reached:]) & set(digests(other)[reached:])


@given(histories, prompts)
def test_with_room_for_all_exactly_the_bounds_that_were_sent_are_known(
    history: list[tuple[str, bytes | None]], prompt: bytes
) -> None:
    assert told(history, 1000).known(digests(prompt)) == {
        replica: max(bound for bound in BOUNDS if bound <= common)
        for replica, common in truth(history, prompt).items()
        if common >= BOUNDS[0]
    }


@given(histories, prompts, st.integers(0, 12))
def test_however_little_room_there_is_no_more_is_known_than_was_sent(
    history: list[tuple[str, bytes | None]], prompt: bytes, limit: int
) -> None:
    common = truth(history, prompt)
    for replica, known in told(history, limit).known(digests(prompt)).items():
        assert known in BOUNDS
        assert known <= common[replica]


@given(histories, prompts, replicas, st.integers(4, 12))
def test_what_was_sent_last_is_known_whole(
    history: list[tuple[str, bytes | None]], prompt: bytes, replica: str, limit: int
) -> None:
    prefixes = told([*history, (replica, prompt)], limit)
    whole = max((bound for bound in BOUNDS if bound <= len(prompt)), default=0)
    assert prefixes.known(digests(prompt)).get(replica, 0) == whole
