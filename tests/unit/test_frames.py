"""Messages of sessions as bytes: whole again however they are cut, and bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.events import frames
from nebula.events.frames import MESSAGE_SIZE, BadFrame, Frame, FrameReader

MESSAGES = st.one_of(
    st.builds(Frame, st.sampled_from(("text", "bytes")), st.binary(max_size=50)),
    st.builds(Frame, st.just("close"), st.binary(max_size=50), st.integers(1000, 4999)),
)


@given(messages=st.lists(MESSAGES, max_size=8), slices=st.integers(1, 60))
def test_frames_are_the_same_again_however_they_are_cut(messages: list[Frame], slices: int) -> None:
    data = b"".join(map(frames.encode, messages))
    reader = FrameReader()
    parts = [data[at : at + slices] for at in range(0, len(data), slices)]
    assert [frame for part in parts for frame in reader.feed(part)] == messages


@given(data=st.binary(max_size=40))
def test_any_bytes_are_frames_or_refused_and_nothing_else_is_raised(data: bytes) -> None:
    reader = FrameReader()
    try:
        found = list(reader.feed(data))
    except BadFrame:
        return
    assert data.startswith(b"".join(map(frames.encode, found)))


def test_a_frame_that_is_too_large_is_refused_before_it_has_come() -> None:
    reader = FrameReader()
    assert list(reader.feed(b"\x01" + MESSAGE_SIZE.to_bytes(4))) == []
    with pytest.raises(BadFrame):
        FrameReader().feed(b"\x01" + (MESSAGE_SIZE + 3).to_bytes(4))
