"""The form of an upload (multipart/form-data): its fields, and its file as it arrives. Pure."""

from collections.abc import Iterator

import multipart

from nebula.http.bad_form import no_form
from nebula.http.errors import ApiError
from nebula.openai.forms import BadForm, boundary_of, name_of

FILE = "file"
_FIELD = 4096
_PARTS = 16


class FileForm:
    """A form with one file: feed its bytes, and take those of the file."""

    def __init__(self, content_type: str) -> None:
        """Raise ApiError 400, 415."""
        try:
            boundary = boundary_of(content_type)
        except BadForm as error:
            raise no_form(error) from error
        # In Latin-1 any bytes of a file's name are text.
        self._parser = multipart.PushMultipartParser(
            boundary, header_charset="latin-1", max_segment_count=_PARTS
        )
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._name = ""
        self._parts = 0
        self._value = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Read further bytes, and yield those of the file. Raise ApiError 400, 413."""
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
        except BadForm as error:
            raise no_form(error) from error

    def close(self) -> None:
        """Check that all of the form was there, with a file. Raise ApiError 400."""
        try:
            self._parser.close()
        except multipart.MultipartError as error:
            raise _bad("the form ends before its last boundary: a part is missing") from error
        if self.filename is None:
            raise _bad("file is required", FILE)

    def _begin(self, segment: multipart.MultipartSegment) -> None:
        self._parts += 1
        self._name, self._value = name_of(segment, self._parts), bytearray()
        if self._name in self.fields or (self._name == FILE and self.filename is not None):
            raise _bad(f"{self._name} may occur once", self._name)
        if self._name == FILE:
            if segment.filename is None:
                raise _bad("file must be a file: its part has no filename", FILE)
            self.filename = segment.filename.encode("latin-1").decode("utf-8", "replace")

    def _add(self, data: bytes) -> None:
        self._value += data
        if len(self._value) > _FIELD:
            text = f"{self._name} has more than {_FIELD} bytes, and is not a file"
            raise BadForm(text, param=self._name, status=413)

    def _end_of_part(self) -> None:
        if self._name == FILE:
            return
        try:
            self.fields[self._name] = self._value.decode()
        except UnicodeDecodeError:
            raise _bad(f"{self._name} is not text in UTF-8", self._name) from None


def _bad(text: str, param: str | None = None) -> ApiError:
    return ApiError(400, text, param=param, code="bad_form")
