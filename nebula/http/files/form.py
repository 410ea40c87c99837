"""The form of an upload (multipart/form-data): its fields, and its file as it arrives. Pure."""

from collections.abc import Iterator

import multipart

from nebula.http.errors import ApiError

FILE = "file"
_FIELD = 4096
_PARTS = 16


def boundary(content_type: str) -> str:
    """Return the boundary that a Content-Type names. Raise ApiError 415."""
    kind, options = multipart.parse_options_header(content_type)
    if kind != "multipart/form-data" or not options.get("boundary"):
        text = "this path takes a form: Content-Type must be multipart/form-data; boundary=…"
        raise ApiError(415, text, code="unsupported_media_type")
    return str(options["boundary"])


class FileForm:
    """A form with one file: feed its bytes, and take those of the file."""

    def __init__(self, content_type: str) -> None:
        """Raise ApiError 415."""
        self._parser = multipart.PushMultipartParser(
            boundary(content_type), header_charset="latin-1", max_segment_count=_PARTS
        )
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._name = ""
        self._value = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Read further bytes, and yield those of the file. Raise ApiError 400."""
        if not data:
            return  # to the parser it means the end
        try:
            for event in self._parser.parse(data):
                if isinstance(event, multipart.MultipartSegment):
                    self._begin(event)
                elif event is None:
                    self._end_of_part()
                elif self._name == FILE:
                    yield bytes(event)
                else:
                    self._add(bytes(event))
        except multipart.MultipartError as error:
            raise _bad(f"the form can't be read: {error}") from error

    def close(self) -> None:
        """Check that all of the form was there, with a file. Raise ApiError 400."""
        try:
            self._parser.close()
        except multipart.MultipartError as error:
            raise _bad("the form ends before its last boundary: a part is missing") from error
        if self.filename is None:
            raise _bad("the form has no file", FILE)

    def _begin(self, segment: multipart.MultipartSegment) -> None:
        self._name, self._value = segment.name or "", bytearray()
        if self._name in self.fields or (self._name == FILE and self.filename is not None):
            raise _bad(f"{self._name} may occur once", self._name)
        if self._name == FILE:
            if segment.filename is None:
                raise _bad("file must be a file: its part has no filename", FILE)
            self.filename = segment.filename.encode("latin-1").decode("utf-8", "replace")

    def _add(self, data: bytes) -> None:
        self._value += data
        if len(self._value) > _FIELD:
            raise _bad(f"{self._name} has more than {_FIELD} bytes", self._name)

    def _end_of_part(self) -> None:
        if self._name == FILE:
            return
        try:
            self.fields[self._name] = self._value.decode()
        except UnicodeDecodeError:
            raise _bad(f"{self._name} is not text in UTF-8", self._name) from None


def _bad(text: str, param: str | None = None) -> ApiError:
    return ApiError(400, text, param=param, code="bad_form")
