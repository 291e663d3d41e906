"""Published files in a folder."""

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from eggs_core.errors import StoreUnavailable

if TYPE_CHECKING:
    from app.artifacts.store import StoredFile

# What a file system says that cannot give a file a second name: another disk, none of its features, too many.
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
_INCOMING = ".incoming-"


class LocalStore:
    """The `Store` of a folder: each location a folder below it. On the disk of the work no file is copied."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, folder: Path, location: str, files: Sequence["StoredFile"], check: Callable[[], None]) -> None:
        """As `Store` says. The location appears in one step."""
        target = self.root / location
        _remove_incoming(target.parent)  # of attempts before this one
        if target.is_dir():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent, prefix=_INCOMING) as incoming:
            whole = Path(incoming) / "whole"
            for file in files:
                check()
                copy = whole / file.name
                copy.parent.mkdir(parents=True, exist_ok=True)
                _link_or_copy(folder / file.name, copy)
            try:
                whole.rename(target)
            except OSError:
                if not target.is_dir():  # otherwise another one was first
                    raise

    def find(self, location: str, file: "StoredFile") -> Path:
        """As `Store` says."""
        return self.root / location / file.name

    def read(self, location: str, file: "StoredFile", start: int, length: int) -> bytes:
        """As `Store` says."""
        with self.find(location, file).open("rb") as stream:
            stream.seek(start)
            return stream.read(length)

    def remove(self, location: str) -> None:
        """As `Store` says."""
        target = self.root / location
        shutil.rmtree(target, ignore_errors=True)
        if os.path.lexists(target):
            raise StoreUnavailable(f"{target} cannot be removed. See to whom it belongs, and to its disk.")
        _remove_incoming(target.parent)
        with suppress(OSError):  # another one has removed the folder, or it is not empty
            target.parent.rmdir()


def _remove_incoming(folder: Path) -> None:
    for remnant in folder.glob(f"{_INCOMING}*"):
        shutil.rmtree(remnant, ignore_errors=True)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copyfile(source, target)
