"""Transcriptions and translations of a simulated engine, in vLLM's shapes."""

import hashlib
from typing import Any

import httpx
import pytest

from nebula.engines.simulated_app import SimulatedEngine
from nebula.engines.simulated_forms import File, read_form
from nebula.engines.simulated_http import Refusal
from tests.unit.asked_engine import chunks, client, engine

pytestmark = pytest.mark.anyio

TRANSCRIBE, TRANSLATE = "/v1/audio/transcriptions", "/v1/audio/translations"
SOUND = bytes(range(256)) * 200


def hearing(**settings: Any) -> SimulatedEngine:
    return engine(tasks=("transcription",), **settings)


async def hear(
    app: SimulatedEngine, path: str = TRANSCRIBE, sound: bytes = SOUND, **fields: Any
) -> httpx.Response:
    async with client(app) as opened:
        return await opened.post(path, files={"file": ("a.wav", sound)}, data=fields)


async def test_a_text_follows_from_the_bytes_of_the_sound() -> None:
    app = hearing(tokens=7)
    answer = (await hear(app)).json()
    words = answer["text"].split()
    assert words[:3] == ["transcribed", str(len(SOUND)), "bytes"]
    assert "".join(words[3:]) == hashlib.sha256(SOUND).hexdigest()[:16]
    assert answer["usage"] == {"type": "duration", "seconds": 2}
    assert (await hear(app)).json() == answer
    assert (await hear(app, sound=SOUND + b"!")).json()["text"] != answer["text"]
    translated = (await hear(app, TRANSLATE)).json()
    assert translated == {"text": " ".join(["translated", *words[1:]])}


async def test_a_verbose_answer_has_segments_and_plain_text_is_json_too() -> None:
    app = hearing()
    plain = (await hear(app, response_format="text")).json()
    verbose = (await hear(app, response_format="verbose_json", language="de")).json()
    assert verbose["text"] == plain["text"] == verbose["segments"][0]["text"]
    assert (verbose["duration"], verbose["language"]) == (1.6, "de")


@pytest.mark.parametrize(
    ("path", "kind"), [(TRANSCRIBE, "transcription"), (TRANSLATE, "translation")]
)
async def test_a_stream_has_a_chunk_for_each_token_and_the_usage_where_it_is_wanted(
    path: str, kind: str
) -> None:
    app = hearing(tokens=4)
    whole = (await hear(app, path)).json()["text"]
    response = await hear(app, path, stream="true", stream_include_usage="true")
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = [f"{event}\n\n" for event in response.text.split("\n\n")[:-1]]
    *tokens, usage = chunks([*events, ""])
    assert {chunk["object"] for chunk in (*tokens, usage)} == {f"{kind}.chunk"}
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in tokens) == whole
    assert tokens[-1]["choices"][0]["finish_reason"] == "stop"
    assert "finish_reason" not in tokens[0]["choices"][0]
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 4)
    bare = await hear(app, path, stream="true")
    assert len(bare.text.split("\n\n")) == len(events)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"response_format": "srt"}, 400),
        ({"response_format": "nonsense"}, 400),
        ({"response_format": "diarized_json"}, 400),
        ({"response_format": "verbose_json", "stream": "true"}, 400),
        ({"stream_include_usage": "true"}, 400),
        ({"temperature": "warm"}, 400),
        ({"model": "big"}, 404),
        ({"sound": b""}, 400),
    ],
)
async def test_what_vllm_does_not_hear_is_refused(fields: dict[str, Any], status: int) -> None:
    response = await hear(hearing(), **fields)
    assert response.status_code == response.json()["error"]["code"] == status


async def test_a_form_without_a_file_is_refused() -> None:
    async with client(hearing()) as opened:
        for sent, status in (
            ({"files": {"other": ("a", b"b")}}, 400),
            ({"data": {"file": "a"}}, 400),  # not multipart
            ({"files": {"file": (None, "text")}}, 422),
            ({"content": b"nonsense", "headers": {"content-type": "multipart/form-data"}}, 400),
        ):
            response = await opened.post(TRANSCRIBE, **sent)
            assert response.status_code == status


async def test_orders_come_in_the_prompt() -> None:
    response = await hear(hearing(orders=True), prompt="!status=503")
    assert response.status_code == 503
    broken = await hear(hearing(orders=True), prompt="!break", stream="true")
    assert 'data: {"error"' in broken.text
    assert broken.text.endswith("data: [DONE]\n\n")


async def test_speech_has_no_path_where_the_model_does_not_hear() -> None:
    assert (await hear(engine())).status_code == 404
    both = engine(tasks=("generate", "transcription"))
    assert (await hear(both)).status_code == 200


# Forms


def test_a_form_is_read_whatever_its_files_contain() -> None:
    content = b"\r\n--other\r\n\r\n\x00\xff--B"
    body = (
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="a \\" b.wav"\r\n'
        b"Content-Type: audio/wav\r\n\r\n" + content + b"\r\n--B\r\n"
        b"content-disposition: form-data; name=model\r\n\r\nm\r\n--B--\r\n"
    )
    fields = read_form(b'multipart/form-data; boundary="B"', body)
    file = fields["file"]
    assert isinstance(file, File)
    assert (file.content, fields["model"]) == (content, "m")


@pytest.mark.parametrize("body", [b"", b"--B", b"--B\r\n\r\na", b"a--B--", b"--B\r\nx\r\n--B--"])
def test_a_form_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal):
        read_form(b"multipart/form-data; boundary=B", body)
