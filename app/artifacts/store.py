"""Where published files are kept: a folder, or a store that speaks S3."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from app.artifacts.local import LocalStore
from app.settings import Settings
from eggs_core.s3 import SCHEME


class StoredFile(Protocol):
    """A finished file, which never changes; its name is its path below the location, with forward slashes."""

    @property
    def name(self) -> str: ...
    @property
    def bytes(self) -> int: ...
    @property
    def sha256(self) -> str: ...
    @property
    def media_type(self) -> str: ...


class Store(Protocol):
    """Keeps files by location, a relative path that names the files of one job."""

    def put(self, folder: Path, location: str, files: Sequence[StoredFile], check: Callable[[], None]) -> None:
        """Copies these files of a folder to a location; all of them are there afterwards, as their checksums say.

        It may be repeated, by several at once, and goes on where it was interrupted. What `check` raises, asked
        now and then, stops it. Raises `StoreUnavailable` where the store does not answer.
        """

    def find(self, location: str, file: StoredFile) -> Path | str:
        """The path of a file, or a URL of it that whoever has it may use for some minutes."""

    def read(self, location: str, file: StoredFile, start: int, length: int) -> bytes:
        """The bytes of a file from `start`, fewer than `length` at its end.

        Raises `FileNotFoundError` where it was removed, and `StoreUnavailable` as `put`.
        """

    def remove(self, location: str) -> None:
        """Removes all there is at a location, half-written files too. Raises `StoreUnavailable` as `put`."""


def open_store(settings: Settings) -> Store:
    """The store that the settings name."""
    url = settings.artifact_store_url
    if url is None:
        return LocalStore(settings.artifacts_dir)
    if url.startswith(SCHEME):
        # Imported here: without S3 the API should not load its client.
        from app.artifacts.s3 import S3Store

        return S3Store(url, settings.s3_public_endpoint_url)
    return LocalStore(Path(url2pathname(urlsplit(url).path)))
