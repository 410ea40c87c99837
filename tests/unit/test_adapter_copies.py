"""A node's copies of adapters' files: named by content, whole or not there, gone when unused."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.node import adapter_copies, adapter_files
from nebula.actors.node.adapter_copies import AdapterCopies, Unusable
from nebula.actors.node.adapter_files import chosen, digest, problem
from nebula.actors.node.weights.hub import Hub

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def trained(place: Path, weights: bytes = b"one", **more: bytes) -> str:
    place.mkdir(exist_ok=True)
    for name, content in {CONFIG: b"{}", WEIGHTS: weights, **more}.items():
        (place / name).write_bytes(content)
    return str(place)


def copies(tmp_path: Path, **fields: bool) -> AdapterCopies:
    return AdapterCopies(tmp_path / "copies", "n1", Hub(tmp_path / "hub"), **fields)


def there(kept: AdapterCopies) -> list[str]:
    folder = kept.path("/", "x").parent
    return sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []


def test_what_is_taken_stays_as_it_was(tmp_path: Path) -> None:
    kept, source = copies(tmp_path), trained(tmp_path / "a")
    first = kept.take(source)
    assert kept.take(source) == first
    trained(tmp_path / "a", b"two")
    second = kept.take(source)
    assert first != second
    assert (kept.path(source, first) / WEIGHTS).read_bytes() == b"one"
    assert (kept.path(source, second) / WEIGHTS).read_bytes() == b"two"
    assert there(kept) == sorted([first, second])
    assert stat.S_IMODE((kept.path(source, first) / WEIGHTS).stat().st_mode) == 0o400


def test_a_version_is_the_same_wherever_it_lies_and_whatever_lies_beside_it(tmp_path: Path) -> None:
    kept = copies(tmp_path)
    one = kept.take(trained(tmp_path / "a"))
    state = {"optimizer.pt": b"huge", "README.md": b"words"}
    assert kept.take(trained(tmp_path / "b", **state)) == one
    assert {path.name for path in kept.path("", one).iterdir()} == {CONFIG, WEIGHTS}


def test_one_that_must_be_a_version_is_it_or_refused(tmp_path: Path) -> None:
    kept, source = copies(tmp_path), trained(tmp_path / "a")
    first = kept.take(source)
    trained(tmp_path / "a", b"two")
    assert kept.take(source, first) == first, "the copy is here"
    kept.prune((), kept.taken)
    with pytest.raises(Unusable, match=f"on n1 are version .*, and {first[:12]} is wanted: make"):
        kept.take(source, first)
    assert there(kept) == []


@pytest.mark.parametrize("source", ["/does/not/exist", "no such name"])
def test_a_folder_that_is_not_there_is_named(tmp_path: Path, source: str) -> None:
    with pytest.raises(Unusable, match=f"{source}: there is no such folder on this node"):
        copies(tmp_path).take(source)


def test_any_folder_is_not_copied_for_being_asked_for(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    kept = copies(tmp_path)
    with pytest.raises(Unusable, match="it has no adapter_config"):
        kept.take(str(other))
    (other / "data").write_bytes(b"x" * 11)
    with pytest.raises(Unusable, match="it has no adapter_config"):
        kept.take(str(other))
    (other / "config.json").write_text("{}")
    with pytest.raises(Unusable, match="holds a model, not an adapter"):
        kept.take(str(other))
    (other / CONFIG).write_text("{}")
    with pytest.raises(Unusable, match=r"it has no adapter_model\.safetensors"):
        kept.take(str(other))
    assert there(kept) == []


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (b"", "is not valid JSON"),
        (b'{"r": 8', "is not valid JSON"),
        (b"\xff\xfe{", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"[8]", "is not a JSON object"),
        (b'{"r": 8}' + b" " * adapter_files.LARGEST, "is larger than 1.0 MiB"),
    ],
)
def test_a_broken_configuration_goes_to_no_engine(
    tmp_path: Path, config: bytes, words: str
) -> None:
    kept, source = copies(tmp_path), trained(tmp_path / "a", **{CONFIG: config})
    with pytest.raises(Unusable, match=f"the {CONFIG} in {source} {words}"):
        kept.take(source)
    assert there(kept) == []


class Offline(Hub):
    """A hub that is not asked: what lies in the cache has to do."""

    @property
    def offline(self) -> bool:
        return True


def test_an_adapter_of_the_hub_is_found_in_the_cache_and_copied_too(tmp_path: Path) -> None:
    hub = Offline(tmp_path / "hub")
    repository = hub.repository("org/poet")
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    trained(snapshot)
    kept = AdapterCopies(tmp_path / "copies", "n1", hub)
    found = kept.take("org/poet")
    assert found == kept.take(trained(tmp_path / "a"))
    with pytest.raises(Unusable, match="org/none can't be fetched from"):
        kept.take("org/none")


def test_a_full_disk_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_copies, "SPARE", 1 << 60)
    kept = copies(tmp_path)
    with pytest.raises(Unusable, match="don't fit on the disk"):
        kept.take(trained(tmp_path / "a"))
    assert there(kept) == []


def test_files_that_change_while_they_are_copied_are_read_again_then_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, source, changes = copies(tmp_path), trained(tmp_path / "a"), [1]
    copy = adapter_copies._copy

    def while_it_changes(file: Path, to: Path) -> str:
        if changes and file.name == WEIGHTS:
            file.write_bytes(b"x" * (10 + changes.pop()))
        return copy(file, to)

    monkeypatch.setattr(adapter_copies, "_copy", while_it_changes)
    assert (kept.path("", kept.take(source)) / WEIGHTS).read_bytes() == b"x" * 11
    changes.extend(range(20))
    with pytest.raises(Unusable, match="change while they are copied"):
        kept.take(source)
    assert len(there(kept)) == 1


def test_only_what_is_wanted_is_kept_and_nothing_of_what_comes_meanwhile_goes(
    tmp_path: Path,
) -> None:
    kept = copies(tmp_path)
    one, two = kept.take(trained(tmp_path / "a")), kept.take(trained(tmp_path / "b", b"two"))
    (tmp_path / "copies" / ".fresh-left").mkdir()
    before = kept.taken
    three = kept.take(trained(tmp_path / "c", b"three"))
    assert not kept.prune({one}, before)
    assert there(kept) == sorted([".fresh-left", one, two, three])
    assert kept.prune({one}, kept.taken)
    assert there(kept) == [one]


def test_a_rehearsal_touches_no_files(tmp_path: Path) -> None:
    kept = copies(tmp_path, simulated=True)
    assert kept.take("/not/here", "known") == "known"
    assert kept.take("/not/here") == kept.take("/not/here") != kept.take("/nor/here")
    assert kept.path("/not/here", "known") == Path("/not/here")
    assert kept.prune((), kept.taken)
    assert not (tmp_path / "copies").exists()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (None, "there is no such folder"),
        ([], "it has no adapter_config.json"),
        (["config.json", "model.safetensors"], "holds a model, not an adapter"),
        ([CONFIG], "it has no adapter_model.safetensors"),
        ([CONFIG, "adapter_model.bin"], ""),
        ([CONFIG, WEIGHTS, "config.json"], ""),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(names: list[str] | None, words: str) -> None:
    assert words in problem("/a", names)
    assert bool(problem("/a", names)) == bool(words)


def test_an_engine_reads_one_file_of_weights() -> None:
    assert chosen(["x", "adapter_model.bin", WEIGHTS, CONFIG]) == (CONFIG, WEIGHTS)
    assert chosen(["b", "a", CONFIG, "adapter_model.pt"]) == (CONFIG, "adapter_model.pt")


@given(st.dictionaries(st.text(), st.text(), max_size=4), st.dictionaries(st.text(), st.text()))
def test_digests_tell_contents_apart(one: dict[str, str], other: dict[str, str]) -> None:
    plain = all(
        "\n" not in part and " " not in part
        for each in (one, other)
        for part in (*each, *each.values())
    )
    if plain:
        assert (digest(one) == digest(other)) == (one == other)
    assert digest(dict(reversed(one.items()))) == digest(one)
