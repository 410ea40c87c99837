"""When a store takes events, when its server is restarted, and what is said of it."""

from __future__ import annotations

import errno
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.events.memory import GIB, MIB
from nebula.store.disk import PROBE, Disk, in_words
from nebula.store.writability import (
    FIRST_PAUSE,
    HEALED,
    LONGEST_PAUSE,
    WARN_BELOW,
    Probed,
    Restarts,
    restart,
    status,
    warning,
    why_refused,
)

ROOMY = Disk("/data", 100 * GIB, 50 * GIB, 1000_000, 900_000)
WELL = Probed("/data/nats", ROOMY)
LATCHED = Probed("/data/nats", ROOMY, server="write error: no space left on device")
FULL = Probed("/data/nats", Disk("/data", 48 * MIB, 0), refusal="is full", server="write error")


def test_a_store_that_takes_a_file_and_whose_server_is_well_takes_events() -> None:
    assert why_refused(WELL) == ""
    assert warning(WELL, WARN_BELOW) == ""
    told = status(WELL, WARN_BELOW, 5.0)
    assert (told.refused, told.warning, told.since) == ("", "", 0.0)
    assert (told.disk, told.size, told.free) == ("/data", 100 * GIB, 50 * GIB)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "input/output error"),
        (errno.EFBIG, "can't be written: File too large"),
    ],
)
def test_whatever_keeps_a_file_out_is_told_with_the_disks_name(number: int, words: str) -> None:
    refusal = in_words(OSError(number, "File too large"))
    told = why_refused(Probed("/data/nats", ROOMY, refusal=refusal))
    assert words in told
    assert told.startswith("the log's disk /data ")
    assert "50.0 GiB of 100.0 GiB are free" in told


def test_no_inodes_a_hung_disk_a_silent_server_and_a_limit_are_told_apart() -> None:
    out = Disk("/data", GIB, GIB // 2, 1000, 0)
    assert "has no inodes left" in why_refused(Probed("/s", out, refusal="is full"))
    assert why_refused(Probed("/s", None, "does not answer")) == (
        "the log's disk under /s does not answer"
    )
    assert "does not answer" in why_refused(Probed("/s", ROOMY, silent=True))
    limited = Probed("/s", ROOMY, used=20 * MIB, limit=20 * MIB)
    assert why_refused(limited) == (
        "the log's store /s has reached JetStream's limit, max_file_store: "
        "20.0 MiB of 20.0 MiB are used"
    )


@given(size=st.integers(MIB, 100 * 1024 * GIB), part=st.floats(0, 1))
def test_a_disk_is_nearly_full_below_a_tenth_or_the_amount_that_is_asked_for(
    size: int, part: float
) -> None:
    free = int(size * part)
    told = warning(Probed("/s", Disk("/data", size, free)), WARN_BELOW)
    assert bool(told) == (free < min(WARN_BELOW, int(size * 0.1)))


def test_limits_and_inodes_that_near_their_end_are_told() -> None:
    assert "nears JetStream's limit" in warning(
        Probed("/s", ROOMY, used=19 * MIB, limit=20 * MIB), WARN_BELOW
    )
    few = Disk("/data", GIB, GIB // 2, 1000, 40)
    assert "40 of 1000 inodes" in warning(Probed("/s", few), WARN_BELOW)


def test_a_server_that_holds_an_error_is_restarted_once_its_disk_takes_files() -> None:
    remembered, due = restart(Restarts(), FULL, 10.0)
    assert not due
    remembered, due = restart(remembered, LATCHED, 12.0)
    assert due
    assert restart(remembered, WELL, 14.0)[1] is False


@given(st.floats(0.5, 20))
def test_restarts_that_do_not_help_come_ever_more_seldom(step: float) -> None:
    remembered, times, now = Restarts(), [], 0.0
    while now < 4000:
        remembered, due = restart(remembered, LATCHED, now)
        if due:
            times.append(now)
        now += step
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert times[0] == 0.0
    assert all(pause >= FIRST_PAUSE for pause in pauses)
    assert all(LONGEST_PAUSE <= pause <= LONGEST_PAUSE + 20 for pause in pauses[5:])
    assert len(times) < 12


def test_a_minute_without_a_failed_write_lets_the_next_be_answered_at_once() -> None:
    remembered = Restarts(count=4, at=0.0)
    now = 10.0
    while now < 10.0 + HEALED + 5:
        remembered, _ = restart(remembered, WELL, now)
        now += 2
    assert restart(remembered, LATCHED, now)[1]


def test_a_full_disk_again_at_once_is_not_a_minute_without_failures() -> None:
    remembered = Restarts(count=1, at=0.0)
    remembered, _ = restart(remembered, WELL, 2.0)
    remembered, _ = restart(remembered, FULL, 4.0)
    assert remembered.well_since is None
    assert not restart(remembered, LATCHED, FIRST_PAUSE - 1)[1]
    assert restart(remembered, LATCHED, FIRST_PAUSE + 1)[1]


def test_a_probe_is_larger_than_what_a_heartbeat_rounds() -> None:
    assert why_refused(Probed("/s", ROOMY, used=20 * MIB - PROBE, limit=20 * MIB)) == ""
    assert why_refused(Probed("/s", ROOMY, used=20 * MIB - PROBE + 1, limit=20 * MIB))
