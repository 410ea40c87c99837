"""Finds the requests in the bytes of a connection, with llhttp (httptools) and within bounds.

It adds what llhttp does not do: it ignores an offer to switch protocols, drops the fields of a
trailer section, and refuses what llhttp accepts too generously (`heads.py`).
"""

from typing import Protocol

import httptools

from nebula.http import root_path
from nebula.http.errors import ApiError
from nebula.http.server import heads
from nebula.http.server.chunks import Sizes
from nebula.http.server.heads import FIELDS, FIELDS_LIMIT, URL_LIMIT, Fields, Head, Objection
from nebula.http.server.repeated_heads import RepeatedHead, repeated


class Reader(Protocol):
    """Is notified of what has arrived. If it raises an exception, the request is refused."""

    def begin(self, method: bytes, head: Head, fields: Fields, *, persists: bool) -> None:
        """A request's head is complete; `persists`: others may follow. Raise ApiError."""

    def whole(self, head: Head, fields: Fields, body: bytes) -> bool:
        """A POST whose head came before has come; return whether it is answered by now.

        If not, it is told again by the other calls.
        """

    def switch(self, head: Head, fields: Fields) -> bool:
        """A request offers a WebSocket; return whether all further bytes are one. Raise ApiError.

        If not, the offer is passed over.
        """

    def raw(self, data: bytes) -> None:
        """Bytes of a WebSocket have arrived."""

    def body(self, part: bytes) -> None:
        """A part of its body has arrived. Raise ApiError."""

    def promise(self, size: int) -> None:
        """The sizes of its chunks show that its body has at least this number of bytes."""

    def end(self) -> None:
        """It is complete."""

    def refuse(self, error: ApiError) -> None:
        """The arriving request is refused, and all further bytes are ignored."""

    def over(self) -> None:
        """Bytes after the last request are ignored."""


class Parsing:
    """Splits a connection's bytes into requests.

    `arriving`: a request has begun and is not complete. `last`: no other request may follow it.
    `root`: a prefix that paths may have, which no path of the application begins with.
    `switched`: what arrives is a WebSocket from now on.
    """

    def __init__(self, reader: Reader, root: str = "") -> None:
        self.arriving = False
        self.in_head = False
        self.last = False
        self.switched = False
        self.kept = 0
        self._reader = reader
        self._root = root
        self._parser = self._new_parser()
        self._target = b""
        self._fields: Fields = []
        self._size = 0
        self._small = False
        self._new = False
        self._silent = 0
        self._body_came = False
        self._offered: tuple[bytes, str] | None = None
        self._stopped = False
        self._sizes: Sizes | None = None
        self._ended = False
        self._end_of_read = b""
        self._accepted: tuple[bytes, Head, Fields] | None = None
        self._again: RepeatedHead | None = None

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # RFC 9110 2.5: a higher minor version is read as the highest that is known.
        parser.set_dangerous_leniencies(lenient_version=True, lenient_spaces_after_chunk_size=True)
        return parser

    @property
    def heads_only(self) -> bool:
        """Whether the arriving or last request asks for an answer without content."""
        return bool(self._target) and self._parser.get_method() == b"HEAD"

    @property
    def fields(self) -> Fields:
        """The fields of an incomplete head that have arrived."""
        return self._fields if self.in_head else []

    @property
    def path(self) -> str:
        """The path of an incomplete head as it was sent, which may not be valid; "" for none."""
        raw = self._target.partition(b"?")[0] if self.in_head else b""
        return root_path.without(self._root, raw).decode("latin-1")

    def stop(self) -> None:
        """Ignore all further bytes, and drop what has arrived."""
        self._stopped = True
        self.kept = 0
        self._parser = None  # type: ignore[assignment]

    def feed(self, data: bytes) -> None:
        """Split bytes, and notify the reader of what they are."""
        if self.switched:
            self._reader.raw(data)
            return
        again = self._again
        if again is not None and not self.arriving and not self.last:
            body = again.body_in(data)
            if body:
                self._repeat(again, body)
                return
        self._again = self._accepted = None
        rest: bytes | memoryview | None = data
        self._small = not self.arriving and len(data) <= FIELDS_LIMIT
        began, in_body, self._ended = self.arriving, self._sizes is not None, False
        before = self._end_of_read if began else b""  # a head that is parsed again loses this
        while rest is not None:
            rest = self._feed(rest)
        if self.arriving and not self._stopped:
            self._count(len(data))
            if self.in_head:
                self._end_of_read = (self._end_of_read + data[-3:])[-3:]
            elif self._sizes is not None:
                self._promise(self._sizes, data, before, began=began, in_body=in_body)
        elif self._accepted is not None and not (began or self.last or self._stopped):
            self._again = repeated(data, *self._accepted)

    def _repeat(self, again: RepeatedHead, body: bytes) -> None:
        """Notify the reader of a whole request whose head came before."""
        if self._reader.whole(again.head, again.fields, body):
            return
        self.arriving = True
        try:
            self._reader.begin(b"POST", again.head, again.fields, persists=True)
            self._reader.body(body)
        except ApiError as error:
            self._reader.refuse(error)
            return
        self.arriving = False
        self._reader.end()

    def _promise(
        self, sizes: Sizes, data: bytes, before: bytes, *, began: bool, in_body: bool
    ) -> None:
        """Notify the reader of a body's least length, from the sizes of its arrived chunks.

        If another request ended in the same read, it is unknown, because llhttp reports no
        positions.
        """
        start = 0
        if self._ended:
            self._sizes = None
            return
        if not in_body:
            empty = 0 if began else len(data) - len(data.lstrip(b"\r\n"))
            found = (before + data).find(b"\r\n\r\n", empty)
            start = found + 4 - len(before)
        sizes.feed(data, start)
        if sizes.promised:
            self._reader.promise(sizes.promised)

    def _feed(self, data: bytes | memoryview) -> memoryview | None:
        """Parse bytes, and return those that remain after an offer to switch protocols."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = memoryview(data)[int(upgrade.args[0]) :]
            if self.switched:
                self.arriving = self.in_head = False
                self.kept = 0
                if rest:
                    self._reader.raw(bytes(rest))
                return None
        except httptools.HttpParserError as error:
            self._broken(error, bytes(data))
            return None
        else:
            return None
        method, version = self._offered or (b"", "")
        self._parser = self._new_parser()
        self._feed(heads.without_upgrade(method, self._target, version, self._fields))
        return None if self._stopped else rest

    def _broken(self, error: httptools.HttpParserError, data: bytes) -> None:
        """Notify the reader of an error of the parser or of one of its callbacks."""
        cause = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else None
        if self.last and (isinstance(cause, _Enough) or not self.arriving):
            self._reader.over()  # RFC 9112 9.6
        elif isinstance(cause, ApiError):
            self._reader.refuse(cause)
        elif cause is not None:
            raise cause
        else:
            self._reader.refuse(_refusal(heads.unparsed(str(error), data)))

    def _count(self, size: int) -> None:
        """Bound what the parser stores of an incomplete request.

        The read in which it began is not counted: some of its bytes may belong to another request.
        """
        if self.in_head:
            self.kept += 0 if self._new else size
            self._new = False
            too_large = heads.size(self._fields) > FIELDS_LIMIT
            if too_large or self.kept > URL_LIMIT + FIELDS_LIMIT:
                self._reader.refuse(_too_many())
            return
        self._silent = 0 if self._body_came else self._silent + size
        self._body_came = False
        if self._silent > FIELDS_LIMIT:
            self._reader.refuse(_too_many())

    # httptools

    def on_message_begin(self) -> None:
        """Note that a request begins."""
        if self.last:
            raise _Enough
        self._target = self._end_of_read = b""
        self._fields = []
        self._sizes = None
        self.arriving = self.in_head = self._new = True

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        self._target += url
        if len(self._target) > URL_LIMIT:
            text = f"the URL is longer than {URL_LIMIT} bytes"
            raise ApiError(414, text, code="url_too_long")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field line; those of a trailer section are counted and dropped."""
        if self.in_head:
            fields = self._fields
            if len(fields) == FIELDS:
                raise _too_many()
            fields.append((name.lower(), value.rstrip(b" \t")))
            return
        self._size += heads.size([(name, value)])
        if self._size > FIELDS_LIMIT:
            raise _too_many()

    def on_headers_complete(self) -> None:
        """Notify the reader of a request, or refuse it."""
        parser = self._parser
        self._size = 0 if self._small else heads.size(self._fields)
        if self._size > FIELDS_LIMIT:
            raise _too_many()
        method, version = parser.get_method(), parser.get_http_version()
        if parser.should_upgrade():
            if method == b"CONNECT":
                raise _refusal(heads.unknown_method(method))
            self._offered = (method, version)
            self.switched = self._switches(method, version)
            return
        head = heads.read(method, self._target, version, self._fields, self._root)
        if isinstance(head, Objection):
            raise _refusal(head)
        persists = parser.should_keep_alive()
        if not persists:
            self.last = True
        self.in_head = False
        self.kept = self._silent = 0
        self._sizes = None
        if head.length is None:
            self._sizes, self._size = Sizes(), heads.size(self._fields)
        fields = self._fields
        if head.authority is not None:
            # RFC 9112 3.2.2: the target's own host stands for whatever Host says.
            fields = _with(fields, b"host", head.authority)
        if head.content_codings:
            fields = _with(fields, b"content-encoding", head.content_codings)
        self._accepted = (method, head, fields)
        self._reader.begin(method, head, fields, persists=persists)

    def _switches(self, method: bytes, version: str) -> bool:
        """Return whether the reader takes an offer of a WebSocket (RFC 6455, 4.2.1)."""
        if method != b"GET" or version != "1.1" or not heads.offers_websocket(self._fields):
            return False
        head = heads.read(method, self._target, version, self._fields, self._root)
        if isinstance(head, Objection) or head.length != 0:
            return False  # it is parsed again, and refused for that
        fields = self._fields
        if head.authority is not None:
            fields = _with(fields, b"host", head.authority)
        return self._reader.switch(head, fields)

    def on_body(self, body: bytes) -> None:
        """Notify the reader of a part of the body."""
        self._body_came = True
        self._reader.body(body)

    def on_message_complete(self) -> None:
        """Notify the reader of a request's end."""
        if self.in_head:
            return  # it is parsed again, without the offer to switch protocols
        self.arriving = False
        self._ended = True
        self._sizes = None
        self._reader.end()


def _with(fields: Fields, name: bytes, value: bytes) -> Fields:
    """Return fields in which one value replaces all those of this name."""
    return [(name, value), *(field for field in fields if field[0] != name)]


class _Enough(Exception):
    """Bytes after the last request of a connection are ignored."""


def _refusal(objection: Objection) -> ApiError:
    return ApiError(objection.status, objection.text, code=objection.code)


def _too_many() -> ApiError:
    text = f"a request has at most {FIELDS} header fields, which take {FIELDS_LIMIT} bytes at most"
    return ApiError(431, text, code="headers_too_large")
