"""The mark of an engine: what is read from an environment is what was written into it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.node.engine_mark import EngineMark, read

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


def block(variables: dict[str, str]) -> bytes:
    return b"".join(f"{name}={value}\0".encode() for name, value in variables.items())


@given(st.builds(EngineMark, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT))
def test_a_mark_is_read_as_it_was_written(mark: EngineMark) -> None:
    found = read(block({"PATH": "/bin", **mark.variables, "HOME": "/root"}))
    assert found == mark
    assert mark.objection(found) == ""


@given(st.binary())
def test_other_bytes_do_not_have_a_mark(data: bytes) -> None:
    assert read(data) is None


@pytest.mark.parametrize(
    "name", ["NEBULA_NODE", "NEBULA_NODE_FOLDER", "NEBULA_REPLICA", "NEBULA_VERSION"]
)
def test_a_mark_without_one_of_its_variables_is_none(name: str) -> None:
    whole = EngineMark("n1", "/srv", "chat-0", "3").variables
    assert read(block({key: value for key, value in whole.items() if key != name})) is None
    assert read(block(whole).replace(name.encode() + b"=", name.encode() + b"=\xff")) is None
