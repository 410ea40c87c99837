"""The text of an API key, and what is shown of it."""

import pytest

from nebula.events import key_text
from nebula.events.masking import MASK
from nebula.events.showing import shown

SECRET = b"\x07" * key_text.SECRET_BYTES


@pytest.mark.parametrize("length", range(1, 129))
def test_the_prefix_of_a_key_is_shown_and_the_key_itself_is_not(length: int) -> None:
    identity = "k" * length
    made = key_text.made(identity, SECRET)
    assert shown({"prefix": made.prefix}) == {"prefix": made.prefix}
    assert shown(made.text) == MASK
    assert key_text.identity_in(made.text) == identity


def test_the_prefix_of_a_key_has_its_id_and_a_part_of_its_secret() -> None:
    assert key_text.made("ci", SECRET).prefix == "nbl_ci_BwcHBw"
    long = key_text.made("person-0123456789abcdef-0123456789abcdef", SECRET)
    assert long.prefix == "nbl_person-0123456789abcdef-012345.._BwcHBw"
