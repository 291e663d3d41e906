"""Conditional and partial downloads (RFC 9110, sections 13 and 14) on top of Starlette's `FileResponse`."""

import re
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

from app.artifacts.store import StoredFile
from app.problems import Problem


def not_modified(headers: Headers, sha256: str) -> bool:
    """Whether the client says that it has this very file."""
    tags = [tag.strip().removeprefix("W/") for tag in headers.get("if-none-match", "").split(",")]
    return f'"{sha256}"' in tags or tags == ["*"]


class FileDownload(FileResponse):
    """The file or the one range of it that was asked for. Raises a 416 `Problem` for a range beyond its end.

    Starlette answers 400 to a range it cannot read. The standard has such a range ignored, and so do we; several
    ranges at once are answered with the whole file, as it allows.
    """

    def __init__(self, path: Path, file: StoredFile, headers: Headers, name: str | None = None) -> None:
        etag = f'"{file.sha256}"'
        super().__init__(
            path,
            headers={"ETag": etag, "Cache-Control": "private, max-age=31536000, immutable"},
            media_type=file.media_type,
            filename=name or path.name,
        )
        self.partial = headers.get("if-range", etag) == etag and _is_range(headers.get("range", ""), file.bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer."""
        if not self.partial:
            scope = {**scope, "headers": [header for header in scope["headers"] if header[0] != b"range"]}
        await super().__call__(scope, receive, send)


def _is_range(text: str, size: int) -> bool:
    match = re.fullmatch(r"bytes=(?:(\d{1,19})-(\d{0,19})|-(\d{1,19}))", text.strip(), re.ASCII | re.IGNORECASE)
    if match is None:
        return False
    first, last, suffix = match.groups()
    if (int(suffix) == 0 or size == 0) if suffix else int(first) >= size:
        raise Problem(
            "range-not-satisfiable",
            "The range lies beyond the end of the file",
            416,
            f"The file has {size} bytes. Ask for a range within them, or leave the Range header out.",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return bool(suffix or not last or int(first) <= int(last))
