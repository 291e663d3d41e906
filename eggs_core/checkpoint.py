"""Checkpoints as folders of safetensors shards: read tensor by tensor, written shard by shard."""

import hashlib
import json
import math
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from eggs_core.checksums import sha256
from eggs_core.errors import BrokenCheckpoint
from eggs_core.model_folder import CONFIG, INDEX, ModelFolder
from eggs_core.safetensors_header import LENGTH_BYTES, header_length

# How safetensors says it, which has no error of its own for it.
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


class Checkpoint:
    """A folder of safetensors files; `names` are theirs where it is not left to the folder to tell.

    Raises `BrokenCheckpoint` where it cannot be read, or `ModelNotAllowed` where it may not; and whatever reads of
    it later, where a file is not the one any more that it was.
    """

    def __init__(self, folder: Path | ModelFolder, names: Collection[str] | None = None) -> None:
        self.files = folder if isinstance(folder, ModelFolder) else ModelFolder(folder)
        self.folder = self.files.path
        self.file_of: dict[str, Path] = {}
        self.state_of: dict[Path, tuple[int, int]] = {}
        """Size and time of the last change of each file."""
        names = self.files.weights() if names is None else names
        if not names:
            raise BrokenCheckpoint(
                f"There is no safetensors file in {self.folder}. Save or upload the model there."
            )
        for name in names:
            file = self.folder / name
            try:
                self.state_of[file] = _state(file)
                _check_header(file)
                with safe_open(file, framework="pt") as tensors:
                    found = dict.fromkeys(tensors.keys(), file)
            except (SafetensorError, OSError) as error:
                raise BrokenCheckpoint(
                    f"{file.name} is not a readable safetensors file. Save or upload it again."
                ) from error
            for twice in sorted(found.keys() & self.file_of.keys()):
                raise BrokenCheckpoint(
                    f"{twice[:128]!r} is both in {self.file_of[twice].name} and in {file.name}. Leave those of "
                    "one checkpoint alone in the folder."
                )
            self.file_of |= found
        if not self.file_of:
            raise BrokenCheckpoint("The checkpoint holds no tensor. Save or upload it again.")

    def check_unchanged(self, files: Iterable[Path]) -> None:
        """Raises `BrokenCheckpoint` unless these of its files are as they were when it was opened."""
        for file in files:
            try:
                unchanged = _state(file) == self.state_of[file]
            except OSError:
                unchanged = False
            if not unchanged:
                raise BrokenCheckpoint(
                    f"{file.name} was changed or removed after the model was opened. Try again with a folder into "
                    "which nothing writes meanwhile."
                )

    @contextmanager
    def private(self) -> Iterator[Path]:
        """`ModelFolder.private` with links to the weights, and a shard index of its own: transformers fails where
        there is none, or one without metadata, and may take up a file that the folder's index does not name."""
        self.check_unchanged(self.state_of)
        with self.files.private() as folder:
            for file in set(self.file_of.values()):
                (folder / file.name).symlink_to(file.resolve())
            _write_index(folder, {name: file.name for name, file in self.file_of.items()}, {})
            yield folder

    def read(self, names: Collection[str]) -> dict[str, Tensor]:
        """The named tensors, on the CPU, in the dtype they are stored in.

        Raises `BrokenCheckpoint` for a dtype or a shape that torch does not have.
        """
        tensors: dict[str, Tensor] = {}
        files = sorted({self.file_of[name] for name in names})
        self.check_unchanged(files)
        for file in files:
            with safe_open(file, framework="pt") as shard:
                for name in shard.keys():  # noqa: SIM118 - a handle, not a dict
                    if name in names and self.file_of[name] == file:
                        try:
                            tensors[name] = shard.get_tensor(name)
                        except (SafetensorError, TypeError) as error:
                            raise BrokenCheckpoint(
                                f"{name[:128]!r} in {file.name} is of a type or shape that cannot be read. Save "
                                "the model again in BF16, F16 or F32."
                            ) from error
        return tensors

    def elements_by_dtype(self) -> dict[str, int]:
        """Number of elements stored in each dtype, under the names that safetensors gives them ("BF16")."""
        sizes: dict[str, int] = {}
        for file in set(self.file_of.values()):
            with safe_open(file, framework="pt") as shard:
                for name in shard.keys():  # noqa: SIM118
                    tensor = shard.get_slice(name)
                    sizes[tensor.get_dtype()] = sizes.get(tensor.get_dtype(), 0) + math.prod(tensor.get_shape())
        return sizes

    def nbytes(self) -> int:
        """Bytes of the weight files on disk."""
        return sum(size for size, _ in self.state_of.values())

    def fingerprint(self) -> str:
        """sha256 over the names and contents of config.json and the weight files."""
        self.check_unchanged(self.state_of)
        digest = hashlib.sha256()
        for file in [self.folder / CONFIG, *sorted(set(self.file_of.values()))]:
            digest.update(f"{file.name}\0{sha256(file)}\n".encode())
        return digest.hexdigest()


class CheckpointWriter:
    """Writes a checkpoint of a known number of shards; each shard is complete once its name appears."""

    def __init__(self, folder: Path, shards: int) -> None:
        self.folder = folder
        self._shards = shards
        self._weight_map: dict[str, str] = {}
        self._total_size = 0

    def path(self, shard: int) -> Path:
        """The file of shard number `shard`, counted from 0."""
        return self.folder / f"model-{shard + 1:05d}-of-{self._shards:05d}.safetensors"

    def write(self, shard: int, tensors: Mapping[str, Tensor]) -> Path:
        """Writes shard number `shard`, and returns its file."""
        file = self.path(shard)
        partial = self.folder / f".{file.name}.partial"
        save(tensors, partial)
        partial.rename(file)
        self._count(file, tensors)
        return file

    def adopt(self, shard: int) -> None:
        """Takes up a shard that an earlier writer has written."""
        self._count(self.path(shard), load_file(self.path(shard)))

    def _count(self, file: Path, tensors: Mapping[str, Tensor]) -> None:
        self._weight_map.update(dict.fromkeys(tensors, file.name))
        self._total_size += sum(tensor.nbytes for tensor in tensors.values())

    def finish(self) -> None:
        """Writes the shard index."""
        _write_index(self.folder, self._weight_map, {"total_size": self._total_size})


def _write_index(folder: Path, weight_map: Mapping[str, str], metadata: Mapping[str, int]) -> None:
    index = {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _state(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def _check_header(file: Path) -> None:
    """Raises `BrokenCheckpoint` for a header that would take too much memory to parse."""
    with file.open("rb") as stream:
        header_length(stream.read(LENGTH_BYTES), file.name)


def save(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Writes one safetensors file. Raises `OSError` where the system does not let it, as on a full disk."""
    file.touch()
    mode = file.stat().st_mode  # that of every new file here: safetensors keeps its own from all other users
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, {"format": "pt"})
    except SafetensorError as error:
        if (found := _OS_ERROR.search(str(error))) is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1]))) from error
    file.chmod(mode)
