"""Which digests an engine's cache holds, by what vLLM publishes about its blocks."""

from __future__ import annotations

import base64
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.engine import cached_blocks
from nebula.actors.engine.cached_blocks import CachedBlocks, Prompt
from nebula.actors.engine.kv_events import Change, Cleared, Removed, Stored, changes
from nebula.actors.router.prefixes import BOUNDS

RECORDED = Path(__file__).parent / "data" / "kv-events.txt"
"""What vLLM 0.32 on a CPU published while its cache of 9 blocks ran over: number and message."""

BLOCK = BOUNDS[0]
"""Bytes of a block, so that a prompt of one block reaches the first bound."""


def prompt(text: str) -> Prompt:
    """A prompt of so many blocks as it has letters and a half, with digests named by letters."""
    size = len(text) * BLOCK + BLOCK // 2
    return Prompt(tuple([text[: bound // BLOCK] for bound in BOUNDS if bound <= size]), size)


def stored(text: str, after: int = 0, session: str = "") -> Stored:
    """Blocks are named by what they and those before them have."""
    hashes = tuple([text[: end + 1].encode() for end in range(after, len(text))])
    return Stored(hashes, text[:after].encode() if after else None, session or text)


def removed(text: str, left: int = 0) -> Removed:
    """The blocks of a prompt go, the last one first, but for some."""
    return Removed(tuple([text[:end].encode() for end in range(len(text), left, -1)]))


def run(*steps: tuple[str, str] | Change | None) -> tuple[CachedBlocks, set[str]]:
    """Return what is left, and which digests were said to be held."""
    blocks, held = CachedBlocks(), set[str]()
    for step in steps:
        if isinstance(step, tuple):
            blocks.came(step[0], prompt(step[1]))
            continue
        difference = blocks.happened(None if step is None else (step,))
        if difference.forgotten:
            held.clear()
        held = (held - set(difference.gone)) | set(difference.held)
    return blocks, held


def test_the_digests_of_a_prompt_are_held_when_its_blocks_are_stored() -> None:
    _, held = run(("q", "abcd"), stored("abcd", session="q"))
    assert held == {"a", "ab", "abcd"}


def test_what_another_request_stored_says_nothing_of_a_prompt() -> None:
    blocks, held = run(("q", "abcd"), stored("abcd", session="other"))
    assert held == set()
    assert not blocks.holds("a")


def test_the_end_of_a_prompt_goes_before_its_beginning() -> None:
    _, held = run(("q", "abcd"), stored("abcd", session="q"), removed("abcd", left=2))
    assert held == {"a", "ab"}


def test_a_second_prompt_stores_only_what_is_not_there_yet() -> None:
    _, held = run(
        *(("q", "abcd"), stored("abcd", session="q")),
        *(("p", "abxy"), stored("abxy", after=2, session="p"), removed("abcd", left=2)),
    )
    assert held == {"a", "ab", "abxy"}


def test_a_prompt_that_is_all_cached_goes_with_the_blocks_that_it_used() -> None:
    longer = Prompt((*prompt("ab").digests, "ab?"), 600)
    blocks = CachedBlocks()
    blocks.came("q", prompt("ab"))
    blocks.happened((stored("ab", session="q"),))
    blocks.came("p", longer)
    assert blocks.holds("ab?")
    assert set(blocks.happened((removed("ab", left=1),)).gone) == {"ab", "ab?"}


def test_an_answer_that_grows_does_not_move_its_prompts_digests() -> None:
    _, held = run(
        *(("q", "ab"), stored("ab", session="q")),
        *(stored("abx", after=2, session="q"), stored("abxy", after=3, session="q")),
        removed("abxy", left=2),
    )
    assert held == {"a", "ab"}


def test_a_prompt_that_is_computed_in_chunks_is_placed_by_all_of_them() -> None:
    _, held = run(
        ("q", "abcdefgh"),
        stored("abcd", session="q"),
        stored("abcdefgh", after=4, session="q"),
        removed("abcdefgh", left=4),
    )
    assert held == {"a", "ab", "abcd"}


def test_a_digest_that_was_gone_is_held_again_when_its_block_is() -> None:
    _, held = run(
        *(("q", "abcd"), stored("abcd", session="q"), removed("abcd", left=1)),
        *(("p", "abcd"), stored("abcd", after=1, session="p")),
    )
    assert held == {"a", "ab", "abcd"}


@pytest.mark.parametrize("end", [Cleared(), None])
def test_after_a_clearance_or_a_gap_nothing_is_known_until_it_is_stored_again(
    end: Cleared | None,
) -> None:
    blocks, held = run(("q", "abcd"), stored("abcd", session="q"), end)
    assert held == set()
    assert blocks.happened((removed("abcd"),)).gone == ()
    unknown = blocks.happened((stored("abcdefgh", after=4, session="q"),))
    assert unknown.held == (), "what stands before these blocks is unknown"
    assert set(blocks.happened((stored("abcd", session="q"),)).held) == {"a", "ab", "abcd"}


def test_what_is_remembered_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, most in (("PROMPTS", 3), ("DIGESTS", 5), ("BLOCKS", 20)):
        monkeypatch.setattr(cached_blocks, name, most)
    blocks = CachedBlocks()
    forgotten = 0
    for number in range(50):
        text = chr(0x4E00 + number) + "bcd"
        blocks.came(text, prompt(text))
        forgotten += blocks.happened((stored(text),)).forgotten
        assert len(blocks._prompts) <= 3
        assert len(blocks._begun) <= 3
        assert len(blocks._block_of) <= 5
        assert sum(map(len, blocks._digests_of.values())) == len(blocks._block_of)
        assert len(blocks._blocks) <= 20
    assert forgotten == 50 // 6


texts = st.text("ab", min_size=1, max_size=5)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("asked"), texts),
        st.tuples(st.just("removed"), texts),
        st.tuples(st.sampled_from(["cleared", "lost"]), st.just("")),
    ),
    max_size=40,
)


@given(steps)
def test_after_any_sequence_exactly_the_beginnings_are_held_whose_blocks_are_there(
    history: list[tuple[str, str]],
) -> None:
    blocks, held = CachedBlocks(), set[str]()
    there: set[str] = set()
    known: set[str] = set()
    for number, (step, text) in enumerate(history):
        happens: tuple[Change, ...] | None = ()
        match step:
            case "asked":
                have = max((n for n in range(len(text) + 1) if text[:n] in there | {""}), default=0)
                blocks.came(str(number), prompt(text))
                if have < len(text):
                    happens = (stored(text, have, str(number)),)
                    there |= {text[:n] for n in range(1, len(text) + 1)}
                    if have == 0 or text[:have] in known:
                        known |= {text[:n] for n in range(1, len(text) + 1)}
            case "removed" if text in there:
                # What continues it has gone before.
                gone = sorted((each for each in there if each.startswith(text)), key=len)[::-1]
                happens = (Removed(tuple([each.encode() for each in gone])),)
                there -= set(gone)
                known -= set(gone)
            case "cleared":
                happens, there, known = (Cleared(),), set(), set()
            case "lost":
                happens, known = None, set()
        difference = blocks.happened(happens)
        held = set() if difference.forgotten else held
        held = (held - set(difference.gone)) | set(difference.held)
        assert held <= known
        assert {each for each in held if blocks.holds(each)} == held


def test_the_messages_of_a_real_engine_are_read() -> None:
    cache: set[int | bytes] = set()
    evictions, sessions = 0, set()
    for serial, line in enumerate(RECORDED.read_text("ascii").splitlines()):
        number, payload = line.split()
        assert int(number) == serial
        told = changes(base64.b64decode(payload))
        assert told
        for change in told:
            match change:
                case Stored():
                    assert change.parent is None or change.parent in cache
                    cache |= set(change.hashes)
                    sessions.add(change.session)
                case Removed():
                    assert set(change.hashes) <= cache
                    cache -= set(change.hashes)
                    evictions += len(change.hashes)
                case Cleared():
                    cache.clear()
        assert len(cache) <= 9
    assert evictions
    assert "req-1" in sessions


def event(**fields: object) -> bytes:
    return msgspec.msgpack.encode([1.5, [{"token_ids": [1, 2], **fields}], 0])


def test_what_is_not_known_of_an_event_is_passed_over() -> None:
    fields = {"type": "BlockStored", "block_hashes": [b"\1" * 32], "parent_block_hash": None}
    one = Stored((b"\1" * 32,))
    assert changes(event(**fields, medium="GPU", newer={"x": [1]})) == (one,)
    assert changes(event(**fields, medium="CPU")) == ()
    assert changes(event(**fields, group_idx=1)) == ()
    assert changes(event(type="BlockMoved", block_hashes=[1])) == ()
    assert changes(event(type="AllBlocksCleared")) == (Cleared(),)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        msgspec.msgpack.encode([1.5]),
        # Before vLLM 0.32 the events themselves were lists.
        msgspec.msgpack.encode([1.5, [["BlockRemoved", [1]]]]),
        event(type="BlockRemoved", block_hashes="x"),
        event(block_hashes=[1]),
    ],
)
def test_what_makes_no_sense_counts_as_lost(payload: bytes) -> None:
    assert changes(payload) is None


@given(st.binary(max_size=60))
def test_no_bytes_are_an_error(payload: bytes) -> None:
    changes(payload)
