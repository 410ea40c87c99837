"""Where a node finds the secrets that load requests name, and what it says if it finds none."""

import asyncio
import json
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from nebula.actors.node import secrets
from nebula.actors.node.log_reading import LogRequest, answer, read_log
from nebula.actors.node.secret_masks import masking, unmasked
from nebula.actors.node.secrets import (
    REMEMBERED,
    EngineSecrets,
    SecretMissing,
    SecretSources,
    variable,
)
from nebula.events.masking import MASK
from nebula.events.state import Engine, Launch, Replica
from nebula.events.values import SecretReference

pytestmark = pytest.mark.anyio

VALUE = "abcSECRET123"


def put(folder: Path, name: str, content: bytes, mode: int = 0o600) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    (folder / name).chmod(mode)


def replica(**env: str | SecretReference) -> Replica:
    launch = Launch("m", "m", "chat", False, None, {}, dict(env))
    return Replica(id="m-0", model="m", node="n", devices=(0,), memory=1, version=1, launch=launch)


def printing(text: str) -> str:
    return shlex.join([sys.executable, "-c", f"import sys; {text}", "{name}"])


async def missing(sources: SecretSources, name: str = "hf") -> tuple[str, str]:
    with pytest.raises(SecretMissing) as raised:
        await sources.value(name)
    return raised.value.told(again=False)


async def test_a_file_comes_before_a_variable_and_a_variable_before_the_command(
    tmp_path: Path,
) -> None:
    command = printing("print('by ' + sys.argv[1])")
    sources = SecretSources(tmp_path / "s", {"NEBULA_SECRET_HF": "variable"}, command)
    assert await sources.value("other-one") == "by other-one"
    assert await sources.value("hf") == "variable"
    put(tmp_path / "s", "hf", b"file\n")
    assert await sources.value("hf") == "file"


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"abc", "abc"),
        (b"abc\n", "abc"),
        (b"abc\r\n", "abc"),
        (b"a\nb\n\n", "a\nb\n"),
        (b" a ", " a "),
    ],
)
async def test_the_last_line_break_of_a_file_is_not_part_of_the_value(
    tmp_path: Path, content: bytes, value: str
) -> None:
    put(tmp_path, "hf", content)
    assert await SecretSources(tmp_path, {}).value("hf") == value


async def test_what_is_nowhere_is_told_with_where_it_belongs(tmp_path: Path) -> None:
    said, remedy = await missing(SecretSources(tmp_path, {}), "hub-token")
    assert said == "this node has no secret 'hub-token'"
    assert str(tmp_path / "hub-token") in remedy
    assert "NEBULA_SECRET_HUB_TOKEN" in remedy


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
async def test_a_file_that_others_may_read_is_not_used(tmp_path: Path, mode: int) -> None:
    put(tmp_path, "hf", VALUE.encode(), mode)
    said, remedy = await missing(SecretSources(tmp_path, {"NEBULA_SECRET_HF": "x"}))
    assert "other users may read the secret 'hf'" in said
    assert f"chmod 600 {tmp_path / 'hf'}" in remedy


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "is empty"), (b"\n", "is empty"), (b"a\0b", "holds a NUL"),
     (b"\xff\xfe", "is not UTF-8"), (b"x" * (64 * 1024 + 1), "is larger than 64 KiB")],
)  # fmt: skip
async def test_a_value_that_no_variable_can_have_is_told(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    put(tmp_path, "hf", content)
    said, remedy = await missing(SecretSources(tmp_path, {}))
    assert problem in said
    assert remedy


async def test_a_folder_in_place_of_the_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    said, remedy = await missing(SecretSources(tmp_path, {}))
    assert "can't be read" in said
    assert remedy


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (printing(f"print('{VALUE}'); sys.exit(3)"), "ended with exit code 3"),
        ("/nowhere/at/all {name}", "can't be run"),
    ],
)
async def test_a_command_that_fails_may_work_the_next_time(
    tmp_path: Path, command: str, problem: str
) -> None:
    said, remedy = await missing(SecretSources(tmp_path, {}, command))
    assert problem in said
    assert VALUE not in said
    assert remedy == "", "it is tried again"


async def test_a_command_that_does_not_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "PATIENCE", 0.05)
    command = printing("import time; time.sleep(600)")
    said, _ = await missing(SecretSources(tmp_path, {}, command))
    assert "has not ended" in said


async def test_a_name_is_an_argument_and_nothing_that_a_shell_reads(tmp_path: Path) -> None:
    sources = SecretSources(tmp_path, {}, printing("print(sys.argv[1:])"))
    assert await sources.value("-rf") == "['-rf']"


async def test_an_engine_is_given_its_secrets_only(tmp_path: Path) -> None:
    put(tmp_path, "hf", VALUE.encode())
    given_to = EngineSecrets(SecretSources(tmp_path, {}))
    assert await given_to.give(replica(HF_TOKEN=SecretReference("hf"), PLAIN="x")) == {
        "HF_TOKEN": VALUE
    }
    assert await given_to.give(replica(PLAIN="x")) == {}


async def test_an_engine_that_has_served_is_started_again_although_its_secret_is_missing() -> None:
    error = SecretMissing("this node has no secret 'hf'", "write it")
    assert error.told(again=True) == ("this node has no secret 'hf': write it", "")
    assert error.told(again=False) == ("this node has no secret 'hf'", "write it")


async def test_what_a_running_engine_was_given_is_masked_after_it_was_replaced(
    tmp_path: Path,
) -> None:
    put(tmp_path, "hf", b"the new one")
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "print('up', flush=True); input()"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"HF_TOKEN": "the old one"},
    )
    assert child.stdout is not None
    await child.stdout.readline()
    try:
        engine = Engine(
            pid=child.pid, created=0.0, port=8000, log_file="/log", version=1, started=0
        )
        wanted = replace(replica(HF_TOKEN=SecretReference("hf")), engine=engine)
        mask = await EngineSecrets(SecretSources(tmp_path, {})).mask(wanted)
    finally:
        child.kill()
        await child.communicate()
    assert mask("a the old one b the new one c") == f"a {MASK} b {MASK} c"


async def test_what_an_earlier_engine_was_given_is_masked_after_a_new_one_has_started(
    tmp_path: Path,
) -> None:
    """The log of a replica has the lines of all its engines."""
    wanted = replica(HF_TOKEN=SecretReference("hf"))
    given_to = EngineSecrets(SecretSources(tmp_path, {}))
    for value in (b"the old one", b"the new one"):
        put(tmp_path, "hf", value)
        await given_to.give(wanted)
    mask = await given_to.mask(wanted)
    assert mask("a the old one b the new one c") == f"a {MASK} b {MASK} c"


async def test_the_log_of_a_replica_that_is_gone_is_not_shown(tmp_path: Path) -> None:
    """Nothing tells any more which secrets its engines were given."""
    (tmp_path / "m-0.log").write_text(f"a line with {VALUE}\n")

    async def none(_: str) -> None:
        return None

    request = json.dumps({"replica": "m-0", "lines": 5}).encode()
    reply = json.loads(await answer(request, lambda replica: tmp_path / f"{replica}.log", none))
    assert reply["error"] == "there is no replica 'm-0'"
    assert VALUE not in json.dumps(reply)


async def test_only_so_many_secrets_of_a_replica_are_remembered(tmp_path: Path) -> None:
    wanted = replica(HF_TOKEN=SecretReference("hf"))
    given_to = EngineSecrets(SecretSources(tmp_path, {}))
    for number in range(REMEMBERED + 1):
        put(tmp_path, "hf", b"token-%d-of-many" % number)
        await given_to.give(wanted)
    mask = await given_to.mask(wanted)
    last = f"token-{REMEMBERED}-of-many"
    assert mask(f"token-0-of-many token-1-of-many {last}") == f"token-0-of-many {MASK} {MASK}"


async def test_masks_of_replicas_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    put(tmp_path, "hf", VALUE.encode())
    given_to = EngineSecrets(SecretSources(tmp_path, {}))
    wanted = replica(HF_TOKEN=SecretReference("hf"))
    await given_to.give(wanted)
    (tmp_path / "hf").unlink()
    assert (await given_to.mask(wanted))(VALUE) == MASK
    given_to.forget({"m-0"})
    assert (await given_to.mask(wanted))(VALUE) == MASK
    given_to.forget(set())
    assert (await given_to.mask(wanted))(VALUE) == VALUE


def test_variables_of_secrets() -> None:
    assert variable("hf") == "NEBULA_SECRET_HF"
    assert variable("Hub-token_2") == "NEBULA_SECRET_HUB_TOKEN_2"


@given(st.text(min_size=4, max_size=40), st.text(max_size=20), st.text(max_size=20))
def test_a_value_is_masked_in_each_form_in_which_it_may_be_written(
    value: str, before: str, after: str
) -> None:
    line = max((each.strip() for each in value.splitlines()), key=len, default="")
    if len(line) < 4 or MASK in line:
        return
    mask = masking([value])
    for form in (line, json.dumps(line)[1:-1], repr(line)[1:-1], quote(line, safe="")):
        text = f"{before}{form}{after}"
        assert form not in mask(text).replace(MASK, "\0")


def test_short_values_are_masked_as_words_only() -> None:
    mask = masking(["ab"])
    assert mask("ab cab ab. 'ab'") == f"{MASK} cab {MASK}. '{MASK}'"
    assert masking([]) is unmasked
    assert masking(["", "\n"]) is unmasked


def test_of_two_values_the_longer_is_masked_whole() -> None:
    assert masking(["secret", "secret-longer"])("a secret-longer b secret") == f"a {MASK} b {MASK}"


def test_a_log_is_read_without_its_secrets_wherever_a_read_ends(tmp_path: Path) -> None:
    log, mask = tmp_path / "log", masking([VALUE])
    log.write_text(f"one {VALUE}\ntwo {VALUE[:5]}")
    last = read_log(log, LogRequest("m-0"), mask)
    assert last.text.startswith(f"one {MASK}\n")
    first = read_log(log, LogRequest("m-0", offset=0), mask)
    assert first.text == f"one {MASK}\n"
    with log.open("a") as more:
        more.write(f"{VALUE[5:]}\nthree")
    assert read_log(log, LogRequest("m-0", offset=first.offset), mask).text == f"two {MASK}\n"
