"""Forms with files: what is read of one, what is refused, and what another model's name changes."""

import contextlib

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.openai import forms
from nebula.openai.forms import BadForm, Form, FormReader

BOUNDARY = "b0undary"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"
WANTED = ("model", "stream")
SOUND = b"RIFF\r\n--b0undar\r\n\x00\xff"


def part(disposition: str, content: bytes, *more: str) -> bytes:
    heads = "\r\n".join([f"Content-Disposition: {disposition}", *more])
    return b"--%b\r\n%b\r\n\r\n%b\r\n" % (BOUNDARY.encode(), heads.encode(), content)


def field(name: str, value: str) -> bytes:
    return part(f'form-data; name="{name}"', value.encode())


def file(content: bytes = SOUND, name: str = "a.wav") -> bytes:
    disposition = f'form-data; name="file"; filename="{name}"'
    return part(disposition, content, "Content-Type: audio/wav")


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--%b--\r\n" % BOUNDARY.encode()


def read(body: bytes, slices: int = 7, content_type: str = TYPE) -> Form:
    reader = FormReader(content_type, WANTED)
    for at in range(0, len(body), slices):
        reader.feed(body[at : at + slices])
    return reader.end()


def refusal(body: bytes, content_type: str = TYPE) -> BadForm:
    with pytest.raises(BadForm) as refused:
        read(body, 1000, content_type)
    return refused.value


@given(
    sound=st.binary(max_size=300),
    model=st.text(min_size=1, max_size=20).filter(lambda text: "\r" not in text),
    slices=st.integers(1, 400),
    last=st.booleans(),
)
def test_a_form_s_model_is_read_wherever_it_stands_and_however_it_is_cut(
    sound: bytes, model: str, slices: int, last: bool
) -> None:
    parts = [file(sound), field("model", model)]
    body = form(*(parts if last else parts[::-1]), field("stream", "true"))
    said = read(body, slices)
    assert said.fields == {"model": model, "stream": "true"}
    assert said.names == {"file", "model", "stream"}


@given(sound=st.binary(max_size=300), name=st.text(max_size=20), last=st.booleans())
def test_another_model_s_name_changes_nothing_else(sound: bytes, name: str, last: bool) -> None:
    def of(model: str) -> bytes:
        parts = [file(sound), field("model", model)]
        return form(field("prompt", 'name="model"'), *(parts if last else parts[::-1]))

    assert forms.renamed(TYPE, of("a"), name) == of(name)


def test_a_form_without_a_model_stays_as_it_is() -> None:
    body = form(file(), field("stream", "true"))
    assert forms.renamed(TYPE, body, "x") == body


def test_what_httpx_writes_is_read() -> None:
    asked = httpx.Request(
        "POST", "http://x", data={"model": "mödel"}, files={"file": ('a"\r\nb.wav', SOUND)}
    )
    said = read(asked.read(), content_type=asked.headers["content-type"])
    assert said.fields == {"model": "mödel"}


def test_a_client_s_next_try_with_another_boundary_is_the_same_form() -> None:
    body = form(file(), field("model", "m"))
    assert BOUNDARY.encode() not in SOUND
    other = body.replace(BOUNDARY.encode(), b"other")
    first = forms.fingerprint(TYPE, body)
    assert forms.fingerprint("multipart/form-data; boundary=other", other) == first
    assert forms.fingerprint(TYPE, form(file(SOUND + b"."), field("model", "m"))) != first
    assert forms.fingerprint(TYPE, form(file(), field("model", "n"))) != first


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("", 415),
        ("application/json", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=", 400),
        ('multipart/form-data; boundary=""', 400),
        ("multipart/form-data; boundary=a; boundary=b0undary", 400),
        ("multipart/form-data; boundary*0=b0un; boundary*1=dary", 400),
        (f"{TYPE}; x={'y' * forms.TYPE_SIZE}", 400),
    ],
)
def test_a_content_type_names_one_boundary(content_type: str, status: int) -> None:
    assert refusal(form(field("model", "m")), content_type).status == status


@pytest.mark.parametrize("cut", [0, 5, 40, 60, -14, -5, -4])
def test_a_form_that_breaks_off_is_refused(cut: int) -> None:
    body = form(file(), field("model", "m"))
    assert refusal(body[:cut] if cut else b"").status == 400


@pytest.mark.parametrize("name", WANTED)
def test_a_field_that_is_read_occurs_once(name: str) -> None:
    refused = refusal(form(field(name, "a"), file(), field(name, "b")))
    assert (refused.param, str(refused)) == (name, f"{name} may occur once")


def test_a_model_is_a_field_of_text_in_utf_8() -> None:
    disposition = 'form-data; name="model"; filename="m"'
    assert refusal(form(part(disposition, b"m"))).param == "model"
    assert refusal(form(part('form-data; name="model"', b"\xff"))).param == "model"


@pytest.mark.parametrize(
    "disposition",
    [
        'form-data; name="x"; name="model"',
        "form-data; name*=utf-8''model; name=\"x\"",
        'form-data; name*0="mod"; name*1="el"',
        'form-data; name="model',
        'form-data; name="x\\"; filename="a.wav"',
        'form-data; name="mo\\del"',
        'form-data; name="file"; filename="a\r\nX: b.wav"',
        'form-data; name="x"\r\nContent-Disposition: form-data; name="model"',
        'attachment; name="model"',
    ],
)
def test_what_parsers_read_in_different_ways_is_refused(disposition: str) -> None:
    assert refusal(form(part(disposition, b"m"), field("model", "m"))).status == 400


def test_only_so_many_parts_are_read() -> None:
    few = [field(f"x{number}", "") for number in range(forms.MOST_PARTS - 1)]
    assert read(form(field("model", "m"), *few), 1000).fields["model"] == "m"
    many = b"".join(field("x", "") for _ in range(10_000))
    assert "more than 100 parts" in str(refusal(form(many)))


def test_a_field_has_a_bound_and_a_file_has_none() -> None:
    long = "x" * (forms.FIELD_SIZE + 1)
    for name in ("model", "prompt"):
        refused = refusal(form(file(), field(name, long)))
        assert (refused.status, refused.param) == (413, name)
    large = form(file(long.encode() * 2), field("model", "m"), field("prompt", long[:-1]))
    assert read(large, 65536).fields == {"model": "m"}


@given(data=st.binary(max_size=200), slices=st.integers(1, 50))
def test_any_bytes_are_read_or_refused_and_nothing_else_is_raised(data: bytes, slices: int) -> None:
    for body in (data, form(data), b"--b0undary\r\n" + data):
        with contextlib.suppress(BadForm):
            read(body, slices)
        forms.renamed(TYPE, body, "x")
        forms.fingerprint(TYPE, body)
