"""An upload on its way to the disk. Whatever ends it, what is not published is removed."""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from app.files import layout
from app.files.room import Room
from app.ids import new_id
from app.problems import STATUS_OF_ERROR, Problem
from app.settings import Settings
from eggs_core.errors import NoSpace


class Incoming:
    """A folder that only this upload knows of, with the file in it. `room`: what there is for it.

    The folder is locked meanwhile, and the system lets go of the lock with the process: a folder that is neither
    locked nor in the database is what a crash has left (`app.files.service.sweep`).
    """

    def __init__(self, settings: Settings, room: Room) -> None:
        self.id = new_id("file")
        self.folder = settings.files_dir / f".{self.id}"
        self.bytes = 0
        self._settings = settings
        self.room = room
        self._digest = hashlib.sha256()
        self._kept = False
        self.folder.mkdir(parents=True)
        self._lock = lock(self.folder)
        self._file = self.path.open("wb")

    @property
    def path(self) -> Path:
        """The file, whose type is not known yet."""
        return self.folder / layout.CONTENT

    @property
    def sha256(self) -> str:
        """Of what has come."""
        return self._digest.hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # what is buffered may not fit on the disk
            self._file.close()
        if self._lock is not None:
            os.close(self._lock)
        if not self._kept:
            shutil.rmtree(self.folder, ignore_errors=True)

    def write(self, data: bytes) -> None:
        """Takes more of the file. Raises a 413 `Problem` for too much of it, and a 507 one for a full disk."""
        self.room.check_file(self.bytes + len(data))
        check_disk(self.folder, len(data), self._settings.disk_reserve_bytes)
        self.bytes += len(data)
        self._digest.update(data)
        with no_space():
            self._file.write(data)

    def complete(self) -> None:
        """All of it has come: puts it on the disk."""
        with no_space():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def publish(self, suffix: str) -> None:
        """Moves it where workers look for it."""
        self.path.rename(layout.content(self.folder, suffix))
        published = self._settings.files_dir / self.id
        self.folder.rename(published)
        self.folder = published

    def keep(self) -> None:
        """Nothing of it is to be removed any more."""
        self._kept = True


@contextmanager
def no_space() -> Iterator[None]:
    """Raises a 507 `Problem` for a disk that is full."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full() from error
        raise


def check_disk(folder: Path, size: int, reserve: int) -> None:
    """Raises a 507 `Problem` where the folder's disk has no room for `size` bytes and `reserve` ones beside."""
    if shutil.disk_usage(folder).free < reserve + size:
        raise disk_full()


def disk_full() -> Problem:
    """The disk has no room for it."""
    return Problem(
        NoSpace.code,
        NoSpace.title,
        STATUS_OF_ERROR[NoSpace.code],
        "The service's disk is full. Delete files, or ask the operator for room.",
        headers={"Connection": "close"},
    )


def lock(folder: Path) -> int | None:
    """Locks a folder until the descriptor is closed; None where another has it, or has removed it.

    By a file in it: on NFS other machines hear only of locks on files, and only of those opened for writing. Close
    it before the folder is removed, as NFS keeps files that are open.
    """
    try:
        descriptor = os.open(folder / layout.LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
