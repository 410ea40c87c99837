"""Downloads over real HTTP from a small hub: what breaks goes on, what is wrong is not kept."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import huggingface_hub
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.node.secrets import SecretSources
from nebula.actors.node.weights import answers, download, folder, listing
from nebula.actors.node.weights import hub as hub_module
from nebula.actors.node.weights.download import LEAST, WINDOW, Damaged, NoRoom, _Pace
from nebula.actors.node.weights.hub import Busy, Hub, Refused, Unreachable
from nebula.actors.node.weights.listing import Listing, Malformed, Unlisted, needed
from nebula.actors.node.weights.measuring import Figures
from nebula.actors.node.weights.provision import Files
from tests.hub import COMMIT, SmallHub, tensors

pytestmark = pytest.mark.anyio

TINY = Files("lab/tiny")
SIZE = 300_000


@pytest.fixture
def server() -> Iterator[SmallHub]:
    hub = SmallHub()
    hub.model("lab/tiny", SIZE)
    yield hub
    hub.close()


@pytest.fixture
def hub(server: SmallHub, tmp_path: Path) -> Hub:
    return Hub(tmp_path / "cache", server.url)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSE", 0.0)


async def fetch(hub: Hub, files: Files = TINY) -> int:
    """Fetch a source; give the bytes that progress told of."""
    told: list[int] = []
    await download.fetch(hub, await hub.listing(files), told.append)
    return sum(told)


async def test_what_was_fetched_is_what_the_hubs_own_library_finds_without_a_network(
    hub: Hub, server: SmallHub
) -> None:
    listing = await hub.listing(TINY)
    assert await fetch(hub) == sum(len(each) for each in server.sources["lab/tiny"].values())
    found = huggingface_hub.snapshot_download(
        "lab/tiny", cache_dir=hub.cache, local_files_only=True
    )
    assert Path(found) == hub.cached(TINY)
    assert contents(Path(found)) == server.sources["lab/tiny"]
    assert listing.commit == COMMIT
    assert download.missing(hub, listing) == ()


async def test_the_hubs_own_library_fetches_none_of_it_again(hub: Hub, server: SmallHub) -> None:
    await fetch(hub)
    server.asked.clear()
    huggingface_hub.snapshot_download("lab/tiny", cache_dir=hub.cache, endpoint=server.url)
    assert [asked for asked in server.asked if asked[0] == "GET" and "/resolve/" in asked[1]] == []


async def test_a_connection_that_breaks_goes_on_where_it_broke(hub: Hub, server: SmallHub) -> None:
    server.breaks["model.safetensors"] = [100_000, 0, 50_000]
    await fetch(hub)
    assert server.fetched("model.safetensors") == [
        "",
        "bytes=100000-",
        "bytes=100000-",
        "bytes=150000-",
    ]


async def test_what_an_earlier_process_has_left_is_not_fetched_again(
    hub: Hub, server: SmallHub
) -> None:
    content = server.sources["lab/tiny"]["model.safetensors"]
    listing = await hub.listing(TINY)
    blob = blob_of(hub, listing, "model.safetensors")
    blob.parent.mkdir(parents=True)
    blob.with_name(blob.name + ".incomplete").write_bytes(content[:123_456])
    assert download.begun(hub, listing, download.missing(hub, listing)) == 123_456
    await fetch(hub)
    assert server.fetched("model.safetensors") == ["bytes=123456-"]
    assert blob.read_bytes() == content


async def test_an_earlier_part_that_was_another_file_is_found_out_and_begun_anew(
    hub: Hub, server: SmallHub
) -> None:
    listing = await hub.listing(TINY)
    blob = blob_of(hub, listing, "model.safetensors")
    blob.parent.mkdir(parents=True)
    blob.with_name(blob.name + ".incomplete").write_bytes(b"x" * 1000)
    with pytest.raises(Damaged, match=r"model.safetensors is not what the hub lists: its SHA-256"):
        await fetch(hub)
    await fetch(hub)
    assert blob.read_bytes() == server.sources["lab/tiny"]["model.safetensors"]


async def test_a_server_without_ranges_is_asked_from_the_beginning(
    hub: Hub, server: SmallHub
) -> None:
    server.ranges = False
    server.breaks["model.safetensors"] = [200_000]
    told = await fetch(hub)
    assert told == sum(len(each) for each in server.sources["lab/tiny"].values())
    assert hub.cached(TINY) is not None


@pytest.mark.parametrize(
    ("path", "hash_name"), [("model.safetensors", "SHA-256"), ("config.json", "git hash")]
)
async def test_other_bytes_than_the_hub_lists_are_not_kept(
    hub: Hub, server: SmallHub, path: str, hash_name: str
) -> None:
    server.swapped.add(path)
    with pytest.raises(Damaged, match=f"{path} is not what the hub lists: its {hash_name}"):
        await fetch(hub)
    assert hub.cached(TINY) is None
    assert not blob_of(hub, await hub.listing(TINY), path).exists()


async def test_a_connection_that_only_breaks_is_given_up(hub: Hub, server: SmallHub) -> None:
    server.breaks["model.safetensors"] = [1000] + [0] * 20
    with pytest.raises(Unreachable, match="broke off 5 times in a row at byte 1000 of"):
        await fetch(hub)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("longer, announced", r"answers with 300\d+ bytes, the hub lists 300\d+ for this file"),
        ("shorter, announced", r"answers with \d+ bytes, the hub lists 300\d+ for this file"),
        (
            "shorter",
            r"broke off 5 times in a row at byte \d+ of \d+: the hub's answer was too short",
        ),
        ("web page", "answers with a web page instead of the file"),
        ("compressed", "answers with the file in gzip, which was not requested"),
        ("redirected", "broke off 5 times in a row at byte 0 of .*: TooManyRedirects"),
        ("nowhere", "broke off 5 times in a row at byte 0 of .*: (OverflowError|ExceptionGroup) "),
    ],
)
async def test_an_answer_that_is_not_the_file_ends_with_the_reason(
    hub: Hub, server: SmallHub, how: str, reason: str
) -> None:
    server.odd["model.safetensors"] = how
    with pytest.raises(Unreachable, match=reason):
        await fetch(hub)
    assert len(server.fetched("model.safetensors")) <= 5 * 21
    server.odd.clear()
    await fetch(hub)
    assert hub.cached(TINY) is not None


@pytest.mark.parametrize("how", ["another part", "416"])
async def test_a_part_that_the_hub_can_t_give_is_fetched_with_the_whole_file(
    hub: Hub, server: SmallHub, how: str
) -> None:
    server.odd["model.safetensors"] = how
    server.breaks["model.safetensors"] = [100_000]
    await fetch(hub)
    assert server.fetched("model.safetensors") == ["", "bytes=100000-", ""]
    assert hub.cached(TINY) is not None


async def test_of_a_body_without_an_end_only_the_file_is_read(hub: Hub, server: SmallHub) -> None:
    server.odd["model.safetensors"] = "longer"
    await fetch(hub)
    assert hub.cached(TINY) is not None


async def test_bytes_that_were_there_before_are_not_progress(hub: Hub, server: SmallHub) -> None:
    server.ranges = False
    server.breaks["model.safetensors"] = [200_000, *[1000, 2000, 150_000, 200_000] * 50]
    with pytest.raises(Unreachable, match="broke off 5 times in a row at byte 200000 of"):
        await fetch(hub)
    assert len(server.fetched("model.safetensors")) == 5


@pytest.mark.parametrize("how", ["", "slow head"])
async def test_a_trickle_is_given_up_and_what_came_is_kept(
    hub: Hub, server: SmallHub, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(download, "WINDOW", 0.5)
    monkeypatch.setattr(download, "LEAST", 100_000)
    server.odd["model.safetensors"] = how
    server.rates["model.safetensors"] = 20
    with pytest.raises(Unreachable, match=r"is too slow: less than 50000 bytes in 0 s"):
        await fetch(hub)
    listing = await hub.listing(TINY)
    assert (download.begun(hub, listing, download.missing(hub, listing)) > 0) == (how == "")


async def test_a_byte_with_each_connection_is_too_slow_too(
    hub: Hub, server: SmallHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "WINDOW", 0.5)
    monkeypatch.setattr(download, "LEAST", 100_000)
    server.breaks["model.safetensors"] = [1] * 100_000
    with pytest.raises(Unreachable, match="is too slow"):
        await fetch(hub)


@given(st.lists(st.tuples(st.floats(0, 300), st.integers(0, 300_000)), max_size=60))
def test_a_pace_is_kept_only_by_new_bytes(looks: list[tuple[float, int]]) -> None:
    now, most, pace = 0.0, 0, download._Pace(0, 0.0)
    met, begun = 0.0, 0
    for passed, there in looks:
        now += passed
        until = pace.until_after(there, now)
        if there >= begun + download.LEAST * download.WINDOW:
            met, begun = now, there
        most = max(most, there)
        assert until == met + download.WINDOW
    windows = most / (download.LEAST * download.WINDOW)
    assert begun <= most
    assert (begun > 0) == (windows >= 1)


async def test_a_disk_that_is_too_small_is_told_before_a_byte_is_fetched(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = await hub.listing(TINY)
    usage = shutil.disk_usage(hub.cache.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(NoRoom, match=r"lab/tiny needs .* more on the disk of .* left"):
        download.check_room(hub, listing, download.missing(hub, listing))


async def test_a_node_that_shares_the_cache_waits_for_the_node_that_fetches(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "POLL", 0.01)
    order: list[str] = []

    async def other() -> None:
        async with download.turn(Hub(hub.cache, hub.endpoint), "lab/tiny"):
            order.append("other")

    async with download.turn(hub, "lab/tiny"):
        waiting = asyncio.create_task(other())
        with pytest.raises(Busy):
            hub.remove("lab/tiny")
        await asyncio.sleep(0.05)
        order.append("first")
    await waiting
    assert order == ["first", "other"]


async def test_a_cancelled_download_goes_on_later(
    hub: Hub, server: SmallHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "BLOCK", 16_384)
    server.rates["model.safetensors"] = 400_000
    got = asyncio.Event()

    def progress(more: int) -> None:
        if more >= 16_384:
            loop.call_soon_threadsafe(got.set)

    loop = asyncio.get_running_loop()
    task = asyncio.create_task(download.fetch(hub, await hub.listing(TINY), progress))
    await got.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    server.rates.clear()
    server.asked.clear()
    await fetch(hub)
    assert server.fetched("model.safetensors")[0] >= "bytes=1"
    assert hub.cached(TINY) is not None


async def test_what_the_hub_does_not_have_or_give_is_told_apart_from_its_silence(
    hub: Hub, server: SmallHub
) -> None:
    with pytest.raises(Refused, match="has no lab/nothing, or it is private"):
        await hub.listing(Files("lab/nothing"))
    with pytest.raises(Refused, match="has no revision 'v2'"):
        await hub.listing(Files("lab/tiny", "v2"))
    server.gated.add("lab/tiny")
    with pytest.raises(Refused, match="only to accounts that its owner has admitted"):
        await hub.listing(TINY)
    server.down = True
    with pytest.raises(Unreachable, match="does not answer"):
        await hub.listing(TINY)
    with pytest.raises(Unreachable, match="does not answer"):
        await Hub(hub.cache, "http://127.0.0.1:9").listing(TINY)


async def test_a_hub_that_lists_no_hashes_can_not_be_fetched_from(
    hub: Hub, server: SmallHub
) -> None:
    server.bare = True
    with pytest.raises(Unlisted, match="does not list sizes and hashes of lab/tiny"):
        await hub.listing(TINY)


async def test_a_cache_of_plain_files_without_links_is_as_good(hub: Hub, server: SmallHub) -> None:
    listing = await hub.listing(TINY)
    for path, content in server.sources["lab/tiny"].items():
        place = hub.snapshot(listing) / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    assert download.missing(hub, listing) == ()
    hub.link(listing)
    assert hub.cached(TINY) == hub.snapshot(listing)


async def test_a_hub_tells_what_a_model_needs_without_its_weights_being_fetched(
    hub: Hub, server: SmallHub
) -> None:
    header = len(tensors(0)) + len("300000") - len("0") + len("150000") - len("0")
    assert await hub.measure(TINY) == Figures(SIZE + header, 2 * 4 * 2 * 64 * 2, 2048)
    assert server.fetched("model.safetensors") == []


async def test_what_lies_whole_in_the_cache_is_listed_and_can_be_removed(
    hub: Hub, server: SmallHub
) -> None:
    assert hub.held() == ()
    await fetch(hub)
    server.model("lab/half", 10_000)
    listing = await hub.listing(Files("lab/half"))
    blob_of(hub, listing, "model.safetensors").parent.mkdir(parents=True)
    (held,) = hub.held()
    assert held.source == "lab/tiny"
    assert held.bytes == sum(len(each) for each in server.sources["lab/tiny"].values())
    hub.remove("lab/tiny")
    hub.remove("lab/half")
    hub.remove("lab/never")
    assert hub.held() == ()
    assert list(hub.cache.glob("models--*")) == []


async def test_of_two_sources_with_the_same_commits_the_other_one_stays(
    hub: Hub, server: SmallHub
) -> None:
    server.model("lab/copy", SIZE)
    await fetch(hub)
    await fetch(hub, Files("lab/copy"))
    hub.remove("lab/copy")
    assert [held.source for held in hub.held()] == ["lab/tiny"]
    assert hub.cached(TINY) is not None


async def test_a_cache_that_misses_a_shard_is_not_taken_for_whole(
    hub: Hub, server: SmallHub
) -> None:
    server.sources["lab/tiny"] |= {
        "model.safetensors.index.json": b'{"weight_map":{"a":"model.safetensors","b":"more"}}'
    }
    await fetch(hub)
    assert hub.cached(TINY) is None


@pytest.mark.parametrize(
    "commit", ["../../elsewhere", "/elsewhere", "a/../../../elsewhere", "..", ""]
)
async def test_a_name_in_the_cache_leads_nowhere_else(hub: Hub, commit: str) -> None:
    await fetch(hub)
    whole = hub.cached(TINY)
    assert whole is not None
    elsewhere = hub.repository(TINY.source) / "elsewhere"
    elsewhere.mkdir()
    (elsewhere.parent / "snapshots" / "a").mkdir()
    for file in whole.iterdir():
        for place in (
            elsewhere,
            elsewhere.parent,
            elsewhere.parent / "snapshots",
            hub.cache / "elsewhere",
        ):
            place.mkdir(exist_ok=True)
            (place / file.name).write_bytes(file.read_bytes())
    commit = str(elsewhere) if commit == "/elsewhere" else commit
    (elsewhere.parent / "refs" / (TINY.revision or "main")).write_text(commit)
    assert hub.cached(TINY) is None


def test_weights_that_are_there_twice_are_fetched_once() -> None:
    paths = {
        "config.json",
        "model.safetensors",
        "pytorch_model.bin",
        "tf_model.h5",
        "onnx/model.onnx",
        "original/consolidated.00.pth",
        "1_Pooling/config.json",
        "2_Dense/pytorch_model.bin",
    }
    assert needed(sorted(paths)) == {
        "config.json",
        "model.safetensors",
        "1_Pooling/config.json",
        "2_Dense/pytorch_model.bin",
    }
    assert needed(["config.json", "pytorch_model.bin"]) == {"config.json", "pytorch_model.bin"}


def contents(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in place.iterdir()}


def blob_of(hub: Hub, listing: Listing, path: str) -> Path:
    (file,) = (each for each in listing.content if each.path == path)
    return hub.blob(listing.files.source, file)


def test_a_fetched_folder_is_measured_from_its_headers(tmp_path: Path, server: SmallHub) -> None:
    for name, content in server.sources["lab/tiny"].items():
        (tmp_path / name).write_bytes(content)
    assert folder.measure(tmp_path) == Figures(SIZE, 2 * 4 * 2 * 64 * 2, 2048)


async def test_a_list_without_an_end_is_not_read_on(hub: Hub, server: SmallHub) -> None:
    server.odd["lab/tiny"] = "endless"
    with pytest.raises(Malformed, match="gives an endless list of the files of lab/tiny"):
        await hub.listing(TINY)
    assert server.sent < 2 * listing.MAX_BYTES


async def test_a_list_that_drips_has_an_end_in_time(
    hub: Hub, server: SmallHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "LISTING_TIME", 0.3)
    server.odd["lab/tiny"] = "drips"
    with pytest.raises(Unreachable, match="gives the list of the files of lab/tiny too slowly"):
        await hub.listing(TINY)


@pytest.mark.parametrize(
    ("how", "reason"), [("endless error", "it says 503"), ("endless way", "TooManyRedirects")]
)
async def test_unneeded_bodies_are_not_read(
    hub: Hub, server: SmallHub, how: str, reason: str
) -> None:
    server.odd["lab/tiny"] = how
    with pytest.raises(Unreachable, match=reason):
        await hub.listing(TINY)
    assert server.sent < 11 * 8 * 1024 * 1024, "no more than what sockets hold"


async def test_the_bodies_of_redirects_of_a_file_are_not_read(hub: Hub, server: SmallHub) -> None:
    listed = await hub.listing(TINY)
    server.odd["model.safetensors"] = "endless way"
    async with httpx.AsyncClient() as client:
        file = next(file for file in listed.content if file.path == "model.safetensors")
        with pytest.raises(httpx.TooManyRedirects):
            async with answers.opened(client, hub.url(listed, file)):
                pass
    assert server.sent < 11 * 8 * 1024 * 1024, "no more than what sockets hold"


async def test_a_config_without_an_end_is_not_read_on(hub: Hub, server: SmallHub) -> None:
    server.odd["config.json"] = "endless"
    with pytest.raises(Malformed, match=r"gives an endless config\.json of lab/tiny"):
        await hub.measure(TINY)
    assert server.sent < 2 * listing.MAX_BYTES


async def test_a_ref_that_is_not_a_commit_leads_nowhere(hub: Hub) -> None:
    ref = hub.repository("lab/tiny") / "refs" / "main"
    ref.parent.mkdir(parents=True)
    for odd in (b"..", b".", b"", b"\xff\xfe", b"a/../..", b"a" * 10_000_000):
        ref.write_bytes(odd)
        assert hub.cached(TINY) is None


async def test_a_hub_that_says_nothing_is_told_in_words(
    hub: Hub, server: SmallHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "SILENCE", 0.005)
    server.odd["lab/tiny"] = "drips"
    with pytest.raises(Unreachable, match=r"does not answer: \w+Timeout: nothing arrived for 0 s"):
        await hub.listing(TINY)


def test_what_came_quickly_at_first_excuses_no_later_standstill() -> None:
    pace, much = _Pace(0, 0.0), int(10 * LEAST * WINDOW)
    assert pace.until_after(much, 10.0) == 10.0 + WINDOW
    assert pace.until_after(much + 1, 20.0) == 10.0 + WINDOW, "no window was met since"
    assert pace.until_after(much + int(LEAST * WINDOW), 30.0) == 30.0 + WINDOW


async def test_a_private_source_is_fetched_with_the_token_that_its_load_request_names(
    server: SmallHub, tmp_path: Path
) -> None:
    server.tokens["lab/tiny"] = "the-token"
    secrets = {"NEBULA_SECRET_HF": "the-token", "NEBULA_SECRET_OLD": "another"}
    sources = SecretSources(tmp_path / "secrets", secrets)
    hub = Hub(tmp_path / "cache", server.url, sources.value)
    for files, reason in (
        (TINY, "it is private and this node has no token"),
        (Files("lab/tiny", secret="old"), "it is private and this node has no token"),
        (Files("lab/tiny", secret="none"), "this node has no secret 'none': write it to"),
    ):
        with pytest.raises(Refused, match=reason):
            await fetch(hub, files)
    assert await fetch(hub, Files("lab/tiny", secret="hf")) > SIZE
    assert (await hub.measure(Files("lab/tiny", secret="hf"))).weights


async def test_a_token_from_a_command_that_fails_is_asked_for_again(tmp_path: Path) -> None:
    hub = Hub(tmp_path, "http://127.0.0.1:9", SecretSources(tmp_path, {}, "false {name}").value)
    with pytest.raises(Unreachable, match="ended with exit code 1"):
        await hub.listing(Files("lab/tiny", secret="hf"))
