"""Takes a model out of a tar archive that a stranger made: the files a model is made of, and nothing else."""

import gzip
import os
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from app.files.content import invalid_file
from app.files.incoming import check_disk, no_space
from app.files.room import too_large
from eggs_core.model_folder import WEIGHTS, is_model_file, most_bytes
from eggs_core.sources import PICKLE_SUFFIXES, only_pickled

MAX_MEMBERS = 2048
# Extraction reads in smaller pieces; only a header that a stranger gave a size of its own asks for more at once.
_MAX_READ = 1 << 16


class _Bounded:
    """A file that is read forward, in small pieces, and to a limit: what else an archive asks for is refused."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file = file
        self._most = most

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_READ:
            raise invalid_file("The archive has a header that is too large or damaged. Make it with `tar -cf`.")
        self._check(self.tell() + size)
        return self._file.read(size)

    def seek(self, position: int) -> int:
        if position < self.tell():
            raise invalid_file("The archive has a header that points backwards. Make it with `tar -cf`.")
        self._check(position)
        return self._file.seek(position)

    def _check(self, position: int) -> None:
        if position > self._most:
            raise too_large(self._most)


def unpack(archive: Path, folder: Path, most: int, reserve: int) -> None:
    """Makes `folder` the model that the archive holds at its top, or in the one folder there.

    Raises a 422 `Problem` where a member is not a plain file or folder within the archive, or where there are too
    many ones; a 413 one where they have more than `most` bytes; a 507 one where the disk would have fewer than
    `reserve` bytes left; and `UnsafeCheckpoint` where weights are only pickled.
    """
    scratch = folder.with_name(f"{folder.name}.unpacking")
    scratch.mkdir()
    try:
        pickled = _extract(archive, scratch, most, reserve)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, RecursionError) as error:
        raise invalid_file(
            "The archive is damaged or no tar archive. Make it with `tar -cf` or `tar -czf`."
        ) from error
    below = sorted(path for path in scratch.iterdir() if path.is_dir())
    places = [path for path in (scratch, *below) if any(path.glob(WEIGHTS))]
    if not places and pickled:
        raise only_pickled("The archive")
    if not places:
        raise invalid_file("The archive holds no safetensors file. Pack the folder that a model was saved to.")
    if len(places) > 1 and places[0] != scratch:
        raise invalid_file("The archive holds more than one model. Send each by itself.")
    if places[0] == scratch:
        for folder_below in below:
            shutil.rmtree(folder_below)
    places[0].rename(folder)


def _extract(archive: Path, folder: Path, most: int, reserve: int) -> bool:
    """Writes a model's files below `folder`. Returns whether there are pickles."""
    pickled = False
    # tarfile reads ahead a little after the last member.
    with _opened(archive) as file, tarfile.open(fileobj=cast(BinaryIO, _Bounded(file, most)), mode="r:") as tar:
        files: set[PurePosixPath] = set()
        folders: set[PurePosixPath] = set()
        for count, member in enumerate(tar, 1):
            if count > MAX_MEMBERS:
                raise invalid_file(
                    f"The archive has more than {MAX_MEMBERS} members. Pack the model's files alone."
                )
            path = _path(member)
            if member.isdir():
                continue
            if path in files:
                raise invalid_file(f"The archive holds {str(path)[:256]!r} twice. Pack it anew.")
            files.add(path)
            folders.add(path.parent)
            if path in folders or path.parent in files:
                raise invalid_file(
                    f"The archive has a file where {str(path)[:256]!r} needs a folder. Pack it anew."
                )
            pickled = pickled or path.suffix in PICKLE_SUFFIXES
            if len(path.parts) > 2 or not is_model_file(path.name):
                continue
            if not path.name.isprintable():
                raise invalid_file(f"{path.name[:256]!r} has characters that do not print. Rename the file.")
            if (limit := most_bytes(path.name)) is not None and member.size > limit:
                raise invalid_file(
                    f"{str(path)[:256]!r} has {member.size} bytes, and {limit} are the most for such a file. "
                    "Check that it is the model's own."
                )
            member.mode = 0o644
            member.name = str(path)
            check_disk(folder, min(member.size, most), reserve)  # what claims to be more is refused as it is read
            with no_space():
                tar.extract(member, folder, set_attrs=False, filter="data")
    return pickled


def _opened(archive: Path) -> BinaryIO:
    with archive.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(archive)) if zipped else archive.open("rb")


def _path(member: tarfile.TarInfo) -> PurePosixPath:
    """Where the member is to lie. Raises a 422 `Problem` for all but plain files and folders in the archive."""
    path = PurePosixPath(member.name)
    shown = repr(member.name[:256])
    if path.is_absolute() or ".." in path.parts or "\0" in member.name:
        raise invalid_file(f"The archive's member {shown} lies outside of it. Pack the folder itself.")
    if not (member.isdir() or (member.isreg() and not member.issparse())):
        raise invalid_file(f"The archive's member {shown} is a link or a device. Pack plain files: `tar -h`.")
    if member.size < 0:
        raise invalid_file(f"The archive's member {shown} has a negative size. Pack it anew.")
    if any(len(os.fsencode(part)) > 255 for part in path.parts):
        raise invalid_file(f"The archive's member {shown} has too long a name. Pack it anew.")
    return path
