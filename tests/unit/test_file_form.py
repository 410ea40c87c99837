"""A form with a file is read the same however its bytes arrive."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.events.endpoints import ENDPOINTS
from nebula.http import uploads
from nebula.http.errors import ApiError
from nebula.http.files.form import FileForm

pytestmark = pytest.mark.anyio

TYPE = 'multipart/form-data; boundary="b0undary"'


def form(purpose: str, content: bytes, *, file_first: bool = False) -> bytes:
    heads = b'Content-Disposition: form-data; name="%b"'
    field = heads % b"purpose" + b"\r\n\r\n" + purpose.encode()
    file = heads % b"file" + b'; filename="a.jsonl"\r\n\r\n' + content
    parts = [file, field] if file_first else [field, file]
    return b"".join(b"--b0undary\r\n" + part + b"\r\n" for part in parts) + b"--b0undary--\r\n"


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


@given(
    content=st.binary(max_size=300).filter(lambda data: b"b0undary" not in data),
    sizes=st.lists(st.integers(0, 40)),
    file_first=st.booleans(),
)
def test_a_file_comes_out_as_it_went_in_however_it_is_cut(
    content: bytes, sizes: list[int], *, file_first: bool
) -> None:
    read, got = FileForm(TYPE), b""
    for piece in cut(form("batch", content, file_first=file_first), sizes):
        got += b"".join(read.feed(piece))
    read.close()
    assert got == content
    assert (read.fields, read.filename) == ({"purpose": "batch"}, "a.jsonl")


def status_of(data: bytes) -> int:
    read = FileForm(TYPE)
    try:
        list(read.feed(data))
        read.close()
    except ApiError as error:
        return error.status
    return 200


@given(st.integers(0, 160))
def test_a_form_that_breaks_off_is_never_taken_for_whole(at: int) -> None:
    whole = form("batch", b"content")
    assert status_of(whole) == 200
    assert status_of(whole[: min(at, len(whole) - 4)]) == 400


@given(st.binary(max_size=200))
def test_any_bytes_are_a_form_or_an_error_of_the_client(data: bytes) -> None:
    assert status_of(b"--b0undary\r\n" + data) in (200, 400)


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "application/json",
        "multipart/mixed; boundary=b",
        "multipart/form-data",
        "multipart/form-data; boundary=a; boundary=b",
        "multipart/form-data; boundary=" + "b" * 1100,
    ],
)
async def test_every_path_that_takes_a_form_refuses_the_same_types(kind: str) -> None:
    with pytest.raises(ApiError) as stored:
        FileForm(kind)
    with pytest.raises(ApiError) as transcribed:
        await uploads.read(ENDPOINTS["/v1/audio/transcriptions"], kind, form("batch", b"sound"))
    assert (stored.value.status, stored.value.body) == (
        transcribed.value.status,
        transcribed.value.body,
    )
    assert stored.value.status == (400 if "form-data" in kind else 415)


@pytest.mark.parametrize(
    "head",
    [
        'form-data; name="purpose"; name="other"',
        "form-data; name*=utf-8''purpose",
        'form-data; name="pur\\\\pose"',
    ],
)
async def test_every_path_refuses_a_part_that_could_have_several_names(head: str) -> None:
    part = f"--b0undary\r\nContent-Disposition: {head}\r\n\r\nx\r\n--b0undary--\r\n".encode()
    with pytest.raises(ApiError) as stored:
        list(FileForm(TYPE).feed(part))
    with pytest.raises(ApiError) as transcribed:
        await uploads.read(ENDPOINTS["/v1/audio/transcriptions"], TYPE, part)
    assert stored.value.body == transcribed.value.body
    assert stored.value.body.code == "bad_form"


def test_a_field_that_is_too_large_is_refused() -> None:
    assert status_of(form("x" * 5000, b"content")) == 413
