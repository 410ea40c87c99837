"""A model's folder is read within bounds, whatever lies there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nebula.actors.node.weights import folder, measuring
from nebula.actors.node.weights.measuring import Unmeasurable
from tests.hub import config, tensors


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_bytes(config())
    (tmp_path / "model.safetensors").write_bytes(tensors(5000))
    return tmp_path


def sparse(path: Path, size: int, head: bytes = b"") -> None:
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)


@pytest.mark.parametrize("name", [folder.CONFIG, folder.INDEX])
def test_a_huge_json_file_is_refused_and_not_read(place: Path, name: str) -> None:
    sparse(place / name, 5 * 1024**3)
    with pytest.raises(Unmeasurable, match=f"{name} is larger than"):
        folder.measure(place)
    assert folder.whole(place) == (name == folder.CONFIG)


def test_a_long_header_is_not_taken_apart_for_its_tensors(place: Path) -> None:
    length = folder.HEADER_BYTES + 1
    sparse(place / "model.safetensors", 8 + length + 7000, length.to_bytes(8, "little"))
    assert folder.measure(place).weights == 7000
    sparse(place / "model.safetensors", 100, length.to_bytes(8, "little"))
    with pytest.raises(Unmeasurable, match="no weights that can be counted"):
        folder.measure(place)


def test_a_header_of_absurd_length_is_none(place: Path) -> None:
    sparse(place / "model.safetensors", 100, (2**62).to_bytes(8, "little"))
    with pytest.raises(Unmeasurable, match="does not begin as one"):
        folder.measure(place)


def test_tensors_of_absurd_size_are_not_believed(place: Path) -> None:
    header = json.dumps({"a": {"data_offsets": [0, 10**30]}}).encode()
    (place / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(Unmeasurable, match=r"more memory .* than there are|can't be read"):
        folder.measure(place)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 2**39, "head_dim": 2**39},
        {
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 10**400,
            }
        },
        {
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 10**400,
                "original_max_position_embeddings": 9,
            }
        },
        {"architectures": [json.loads("[" * 900 + "]" * 900)]},
        {"layer_types": [json.loads("[" * 900 + "]" * 900)]},
    ],
)
def test_a_config_of_absurd_figures_is_measured_or_refused(
    place: Path, changes: dict[str, Any]
) -> None:
    (place / "config.json").write_bytes(config(**changes))
    try:
        found = folder.measure(place)
    except Unmeasurable:
        return
    assert max(found.weights, found.cache_per_token, found.context) <= measuring.MOST


def test_more_entries_than_a_model_has_are_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "MAX_ENTRIES", 10)
    for number in range(9):
        (place / f"{number}.txt").touch()
    with pytest.raises(Unmeasurable, match="has more than 10 files and folders"):
        folder.measure(place)
    with pytest.raises(OSError, match="has more than 10 files and folders"):
        folder.size(place)
    assert not folder.whole(place)


def test_links_that_lead_to_themselves_end(place: Path) -> None:
    (place / "self").symlink_to("self")
    (place / "up").symlink_to("..")
    (place / "gone").symlink_to("nowhere")
    inner = place / "inner"
    inner.mkdir()
    (inner / "back").symlink_to(place)
    before = folder.measure(place)
    assert before.weights == 5000
    assert folder.whole(place)
    files = (place / "config.json", place / "model.safetensors")
    assert folder.size(place) == sum(file.stat().st_size for file in files)
