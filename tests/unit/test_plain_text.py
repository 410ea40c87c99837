"""That text from elsewhere can't speak to a terminal."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.events.plain_text import one_line, plain

NOISY = st.text(
    st.one_of(
        st.characters(), st.sampled_from("\x1b\x9b\x9d\x07[]0;m\\\r\n\t\u202e\u2066\x00\x7f")
    ),
    max_size=80,
)


@given(NOISY)
def test_no_control_character_is_left_but_line_ends_and_tabs(text: str) -> None:
    left = {unicodedata.category(each) for each in plain(text) if each not in "\n\t"}
    assert "Cc" not in left
    assert "Cs" not in left
    bidi = {unicodedata.bidirectional(each) for each in plain(text)}
    assert not bidi & {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    assert plain(plain(text)) == plain(text)


@given(st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"]), max_size=80))
def test_other_text_is_the_very_same(text: str) -> None:
    assert plain(text) is text


@given(NOISY, st.integers(1, 60))
def test_a_cell_is_one_line_of_a_bounded_length(text: str, most: int) -> None:
    cell = one_line(text, most)
    assert len(cell) <= most
    assert "\n" not in cell
    assert "\t" not in cell


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[1;31;40mred\x1b[m and \x9b32mgreen", "red and green"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]52;c;aGk=\x1b\\text", "text"),
        ("\x1b]0;no end", "0;no end"),
        ("\x1bPq#0\x1b\\text", "text"),
        ("\x1bc\x1b(Btext", "text"),
        ("a\x00b\x08c\x7fd", "abcd"),
        ("10%\r20%\r\n30%", "10%\n20%\n30%"),
        ("abc\u202edcba\u2069", "abcdcba"),
        ("tab\tline\n", "tab\tline\n"),
        ("日本語 émoji 👩\u200d🚀", "日本語 émoji 👩\u200d🚀"),
    ],
)
def test_sequences_go_and_their_text_stays(text: str, left: str) -> None:
    assert plain(text) == left
