"""A hub's list of files is a stranger's word: taken whole, or refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula.actors.node.weights import listing
from nebula.actors.node.weights.listing import File, Malformed, Unlisted
from nebula.actors.node.weights.provision import Files

TINY = Files("lab/tiny")
COMMIT = "c0ffee" + "0" * 34
SHA1, SHA256 = "b" * 40, "d" * 64


def told(*siblings: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"id": "lab/tiny", "sha": COMMIT, "siblings": siblings} | fields).encode()


def plain(path: str, size: Any = 2, etag: Any = SHA1) -> dict[str, Any]:
    return {"rfilename": path, "size": size, "blobId": etag}


def large(path: str, size: Any, sha256: Any = SHA256) -> dict[str, Any]:
    return {"rfilename": path, "lfs": {"sha256": sha256, "size": size, "pointerSize": 134}}


def read(body: bytes) -> listing.Listing:
    return listing.read(TINY, body, "the hub")


def test_what_a_hub_lists_is_read_as_its_library_documents_it() -> None:
    body = told(plain("config.json"), large("model.safetensors", 10**9), tags=["x"], config={})
    assert read(body).content == (
        File("config.json", 2, SHA1, False),
        File("model.safetensors", 10**9, SHA256, True),
    )


@pytest.mark.parametrize(
    "path",
    [
        *("../../pwn", "/tmp/pwn", "a/../../b", "..", ".", "", "a//b", "./a", "a/", "x\0y"),
        *("." * 300, "a/" * 600 + "b", "\ud800"),
    ],
)
def test_a_path_that_leads_elsewhere_or_nowhere_is_refused_with_its_name(path: str) -> None:
    with pytest.raises(Malformed, match=r"the hub (lists of lab/tiny|does not answer with)"):
        read(told(plain("config.json"), plain(path)))


@pytest.mark.parametrize("size", [-5, 10**30, 2**50 + 1, "2", 1.5, {}])
def test_a_size_that_no_file_has_is_refused(size: Any) -> None:
    for sibling in (plain("config.json", size), large("config.json", size)):
        with pytest.raises(Malformed, match=r"with -?\d+ bytes|does not answer with a list"):
            read(told(sibling))


@pytest.mark.parametrize("etag", ["../../x", SHA1.upper(), "b" * 39, "b" * 4096])
def test_a_hash_that_is_not_one_is_refused(etag: str) -> None:
    for sibling in (plain("config.json", 2, etag), large("config.json", 2, etag)):
        with pytest.raises(Malformed, match="which is not one"):
            read(told(sibling))


@pytest.mark.parametrize("sha", ["../../../tmp/sha", "main", "a" * 65, "/etc"])
def test_a_commit_that_is_not_one_is_refused(sha: str) -> None:
    with pytest.raises(Malformed, match="a commit of lab/tiny"):
        read(told(plain("config.json"), sha=sha))


def test_what_can_not_be_true_at_once_is_refused() -> None:
    with pytest.raises(Malformed, match="'a' twice"):
        read(told(plain("a"), plain("a", 3)))
    with pytest.raises(Malformed, match="'a' as a file and as a folder"):
        read(told(plain("a"), plain("a/b")))


def test_more_files_than_a_model_has_are_refused() -> None:
    many = [plain(f"f{number}.safetensors") for number in range(listing.MAX_FILES + 1)]
    with pytest.raises(Malformed, match=r"10001 files .* more than 10000"):
        read(told(*many))
    assert len(read(told(*many[1:])).content) == listing.MAX_FILES


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"<html>", b"[" * 100_000, b'{"sha": 1}', b"1" * 9999]
)
def test_what_is_not_a_list_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed, match="does not answer with a list of files"):
        read(body)


def test_names_alone_are_not_a_fault_but_not_enough() -> None:
    for body in (
        told({"rfilename": "config.json"}),
        told(plain("a"), sha=None),
        told(plain("a", None)),
    ):
        with pytest.raises(Unlisted, match="does not list sizes and hashes of lab/tiny"):
            read(body)
    with pytest.raises(Malformed):
        read(told({"rfilename": "../config.json"}))


def test_files_too_large_for_plain_http_are_named_and_left() -> None:
    found = read(told(plain("config.json"), large("model.safetensors", listing.MAX_FILE + 1)))
    assert (found.left, len(found.content)) == (("model.safetensors",), 1)


@given(st.text(max_size=40), st.integers(-10, 2**60))
def test_what_is_taken_stays_within_its_folder(path: str, size: int) -> None:
    if not listing.problem(File(path, size, SHA1, False)):
        inside = Path("/cache/snapshot")
        assert inside in (inside / path).parents
        assert ".." not in PurePosixPath(path).parts
        assert 0 <= size <= listing.MAX_SIZE
