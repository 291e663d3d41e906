"""Files on this side: where a download goes, and whether it is the right one."""

import hashlib
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from eggs_client.errors import OutputExists, UnsafeName

PARTIAL = ".part"
"""What is added to the name of a file that has not come whole."""


def place(folder: Path, name: str) -> Path:
    """Where a file of this name goes. A service must not choose where on this machine that is.

    Raises `UnsafeName`.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or any(c in name for c in "\\:\x00"):
        raise UnsafeName(name)
    return folder / path


def check_free(folder: Path, names: Collection[str]) -> None:
    """Raises `OutputExists` where the folder has files besides those of these names, whole or in part."""
    for file in folder.rglob("*"):
        name = file.relative_to(folder).as_posix()
        if not file.is_dir() and name not in names and name.removesuffix(PARTIAL) not in names:
            raise OutputExists(file)


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_whole(path: Path, checksum: str) -> bool:
    """Whether the file is there and is the one with this checksum."""
    return path.is_file() and sha256(path) == checksum


def size(path: Path) -> int:
    """How many bytes of it there are."""
    return path.stat().st_size if path.exists() else 0
