"""OpenAI's files: /v1/files. Their content is in NATS' object store, and passes in parts."""

import time
from collections.abc import AsyncIterator
from typing import Any

from litestar import Request, delete, get, post
from litestar.response import Stream
from msgspec import Struct

from nebula.actors.gateway.actor import Gateway
from nebula.http import paging
from nebula.http.bodies import body_parts
from nebula.http.errors import ApiError, unavailable
from nebula.http.files.form import FileForm
from nebula.http.principals import required
from nebula.store.connection import Unavailable
from nebula.store.files import (
    LARGEST,
    LONGEST_LIFE,
    FileFacts,
    Files,
    StoredFile,
    TooLarge,
    Upload,
)

PURPOSES = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")
_FORM = 64 * 1024
"""Bytes that a form may have beside its file."""

_SHORTEST_LIFE = 3600
_NAME = 512


class FileView(Struct, frozen=True, kw_only=True):
    """A file in OpenAI's form."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    expires_at: int
    object: str = "file"
    status: str = "processed"
    status_details: str | None = None


def view(file: StoredFile) -> FileView:
    """Return a file as clients see it."""
    facts = file.facts
    return FileView(
        id=file.id,
        bytes=file.size,
        created_at=facts.created,
        filename=facts.filename,
        purpose=facts.purpose,
        expires_at=facts.expires,
    )


async def find(files: Files, identity: str, whose: str, param: str = "id") -> StoredFile:
    """Return an owner's file; `param` names its id. Raise ApiError 404, 503."""
    try:
        file = await files.find(identity)
    except Unavailable as error:
        raise unavailable(str(error)) from error
    if file is None or file.facts.owner != whose:
        raise ApiError(404, f"No such File object: {identity[:80]}", param=param, code="not_found")
    return file


def _owner(request: Request[Any, Any, Any]) -> str:
    return required(request.scope, "infer").owner


@post("/v1/files", status_code=200, request_max_body_size=None)
async def create_file(request: Request[Any, Any, Any], gateway: Gateway, files: Files) -> FileView:
    """Store a file: a form with `purpose`, `file`, and perhaps `expires_after`."""
    if not gateway.able:
        raise unavailable("NATS can't be reached")
    headers = dict(request.scope["headers"])
    form = FileForm(headers.get(b"content-type", b"").decode("latin-1"))
    upload = None
    try:
        async for part in body_parts(request.receive, headers, LARGEST + _FORM):
            for data in form.feed(part):
                upload = upload or await files.upload()
                await upload.write(data)
        form.close()
        facts = _facts(form, _owner(request))
        upload = upload or await files.upload()
        if not upload.size:
            raise ApiError(400, "the file is empty", param="file", code="invalid_file")
        return view(await upload.finish(facts))
    except TooLarge as error:
        await _abandon(upload)
        raise ApiError(413, str(error), param="file", code="file_too_large") from error
    except Unavailable as error:
        await _abandon(upload)
        raise unavailable(f"the file is not stored: {error}") from error
    except BaseException:
        await _abandon(upload)
        raise


async def _abandon(upload: Upload | None) -> None:
    if upload is not None:
        await upload.abandon()


def _facts(form: FileForm, whose: str) -> FileFacts:
    if "purpose" not in form.fields:
        raise ApiError(400, "purpose is required", param="purpose")
    purpose = form.fields["purpose"]
    if purpose not in PURPOSES:
        there = ", ".join(PURPOSES)
        raise ApiError(400, f"purpose: {purpose!r} is none of {there}", param="purpose")
    now = int(time.time())
    life = lifetime(
        form.fields.get("expires_after[anchor]"), form.fields.get("expires_after[seconds]")
    )
    name = (form.filename or "")[:_NAME] or "file"
    return FileFacts(owner=whose, filename=name, purpose=purpose, created=now, expires=now + life)


def lifetime(anchor: object, seconds: object, param: str = "expires_after") -> int:
    """Return the seconds that a file is kept, from a request's fields. Raise ApiError 400."""
    if anchor is None and seconds is None:
        return LONGEST_LIFE
    if anchor != "created_at":
        raise ApiError(400, f"{param}: its anchor must be created_at", param=param)
    text = str(seconds)
    if not (text.isascii() and text.isdigit() and len(text) < 9):
        raise ApiError(400, f"{param}: seconds must be a whole number", param=param)
    if not _SHORTEST_LIFE <= int(text) <= LONGEST_LIFE:
        said = f"{param}: seconds must be from {_SHORTEST_LIFE} to {LONGEST_LIFE}"
        raise ApiError(400, said, param=param)
    return int(text)


@get("/v1/files")
async def list_files(request: Request[Any, Any, Any], files: Files) -> dict[str, Any]:
    """List the caller's files: `purpose`, `after`, `limit` and `order` choose."""
    try:
        owned = await files.owned(_owner(request))
    except Unavailable as error:
        raise unavailable(str(error)) from error
    query = dict(request.query_params)
    purpose = query.get("purpose")
    shown = [view(file) for file in owned if purpose in (None, file.facts.purpose)]
    return paging.page(shown, query, most=10_000, usual=10_000)


@get("/v1/files/{file:str}")
async def show_file(file: str, request: Request[Any, Any, Any], files: Files) -> FileView:
    """Show one file."""
    return view(await find(files, file, _owner(request)))


@get("/v1/files/{file:str}/content")
async def show_content(file: str, request: Request[Any, Any, Any], files: Files) -> Stream:
    """Return a file's content."""
    found = await find(files, file, _owner(request))
    return Stream(
        _content(files, found),
        media_type="application/octet-stream",
        headers={"content-length": str(found.size)},
    )


async def _content(files: Files, file: StoredFile) -> AsyncIterator[bytes]:
    async for _, chunk in files.content(file):
        yield chunk


@delete("/v1/files/{file:str}", status_code=200)
async def remove_file(
    file: str, request: Request[Any, Any, Any], gateway: Gateway, files: Files
) -> dict[str, Any]:
    """Remove a file, unless a batch needs it."""
    found = await find(files, file, _owner(request))
    for batch in gateway.projection.state.batches.values():
        if batch.request.input == file and not batch.over:
            text = f"the file is the input of batch {batch.id}, which is not over: cancel it first"
            raise ApiError(409, text, param="id", code="in_use")
    try:
        await files.remove(found)
    except Unavailable as error:
        raise unavailable(str(error)) from error
    return {"id": file, "object": "file", "deleted": True}
