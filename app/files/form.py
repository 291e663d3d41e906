"""Reads a multipart form as it comes: the file's bytes go on at once, and what is small is kept."""

from collections.abc import Callable

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.problems import Problem

_FILE = "file"
_FIELDS = ("sha256",)
_MAX_FIELD_BYTES = 1024


def invalid_form(detail: str) -> Problem:
    """The form cannot be read."""
    return Problem("invalid-upload", "The upload is not valid", 422, detail)


class UploadForm:
    """One file and a few fields. `write` gets the file's bytes. Raises a 415 or 422 `Problem`."""

    def __init__(self, content_type: str, write: Callable[[bytes], None]) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise Problem(
                "unsupported-media-type",
                "Files come as multipart/form-data",
                415,
                'Send the file in a form, as `curl -F "file=@notes.txt"` does.',
            )
        self.filename: str | None = None
        self.fields: dict[str, str] = {}
        self.ended = False
        self._write = write
        self._part = ""
        self._header = b""
        self._value = b""
        self._disposition = b""
        self._field = b""
        try:
            self._parser = MultipartParser(
                options[b"boundary"],
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise invalid_form(f"The form cannot be read: {error}.") from error

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the request's body."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise invalid_form(f"The form cannot be read: {error}.") from error

    def finish(self) -> str:
        """The file's name. Raises a 422 `Problem` where the body ended early or holds no file."""
        if not self.ended:
            raise invalid_form("The body ends before the form does. Send it again.")
        if self.filename is None:
            raise invalid_form('The form holds no file. Send one as `curl -F "file=@notes.txt"` does.')
        return self.filename

    def _on_part_begin(self) -> None:
        self._disposition = self._field = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        try:
            self._part = options.get(b"name", b"").decode()
            filename = options[b"filename"].decode() if b"filename" in options else None
        except UnicodeDecodeError as error:
            raise invalid_form("The names in the form are not UTF-8.") from error
        if self._part == _FILE:
            if self.filename is not None:
                raise invalid_form("The form holds two files. Send each by itself.")
            if not filename:
                raise invalid_form("The file has no name. Send it as `filename`; its ending says what it holds.")
            self.filename = filename
        elif self._part not in _FIELDS:
            raise invalid_form(f"There is no field {self._part[:64]!r}. Send `file` and, if you like, `sha256`.")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part == _FILE:
            self._write(data[start:end])
            return
        self._field += data[start:end]
        if len(self._field) > _MAX_FIELD_BYTES:
            raise invalid_form(f"{self._part} is longer than {_MAX_FIELD_BYTES} bytes.")

    def _on_part_end(self) -> None:
        if self._part != _FILE:
            self.fields[self._part] = self._field.decode(errors="replace").strip()

    def _on_end(self) -> None:
        self.ended = True
