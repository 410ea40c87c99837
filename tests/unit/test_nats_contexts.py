"""Files with a NATS server's address and credentials, and which address needs one of them."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from nebula.store import credentials, reaching
from nebula.store.credentials import Way
from nebula.store.reaching import BadFile


def context(path: Path, **fields: str) -> Path:
    path.write_text(json.dumps({"url": "nats://h:4222", **fields}))
    return path


def test_a_context_gives_the_servers_with_its_user(tmp_path: Path) -> None:
    file = context(
        tmp_path / "c.json",
        url="nats://a:4222, tls://own@b:4222",
        user="u s",
        password="p@/:",
        inbox_prefix="_INBOX_x",
        jetstream_domain="of other programs",
    )
    assert credentials.way(f"file:{file}", "operator") == Way(
        ("nats://u%20s:p%40%2F%3A@a:4222", "tls://own@b:4222"), "_INBOX_x", file=str(file)
    )


def test_a_token_stands_alone_before_the_host(tmp_path: Path) -> None:
    file = context(tmp_path / "c.json", token="t:1")
    assert credentials.read(file).servers == ("nats://t%3A1@h:4222",)


def test_a_file_may_have_just_urls(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("nats://u:p@a:1,nats://b:2\n")
    for url in (f"file:{file}", f"file://{file}"):
        assert credentials.way(url, "node") == Way(("nats://u:p@a:1", "nats://b:2"), file=str(file))


@pytest.mark.parametrize("text", ["{", '{"url": 5}', "{}", '{"user": "u"}'])
def test_a_context_that_makes_no_sense_is_refused_in_words(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.json"
    file.write_text(text)
    with pytest.raises(BadFile) as refused:
        credentials.read(file)
    [trouble] = [reaching.trouble(f"file:{file}", refused.value, credentials=True)]
    assert trouble.told().startswith("the file with its URL is not a valid context")
    assert reaching.final([trouble])


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("nats://127.0.0.1:4333", 4333),
        ("nats://127.0.0.1", 4222),
        ("127.0.0.1:4333", 4333),
        ("nats://localhost:1", 1),
        ("nats://[::1]:1", 1),
        ("nats://u:p@127.0.0.1:4333", 0),
        ("nats://token@127.0.0.1:4333", 0),
        ("tls://127.0.0.1:4333", 0),
        ("nats://10.0.0.1:4333", 0),
        ("nats://example.org:4333", 0),
        ("nats://127.0.0.1:port", 0),
        ("", 0),
    ],
)
def test_files_are_looked_for_only_for_a_server_of_this_machine(url: str, port: int) -> None:
    assert credentials.local_port(url) == port


def test_a_password_stays_until_its_file_is_gone(tmp_path: Path) -> None:
    def ensure(url: str) -> str:
        return credentials.ensure(tmp_path / "nats", "node", url, "_INBOX_node")

    first = ensure("nats://127.0.0.1:1")
    file = credentials.file_of(tmp_path / "nats", "node")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert ensure("nats://127.0.0.1:2") == first
    assert credentials.read(file).servers == (f"nats://node:{first}@127.0.0.1:2",)
    file.write_text("{")
    assert ensure("nats://127.0.0.1:2") != first
    file.unlink()
    assert ensure("nats://127.0.0.1:2") != first
