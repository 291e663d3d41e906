"""How large a model is: from the headers of its files, or from the report of a job that has pruned it."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from app.files.content import MOST_TENSORS
from eggs_core.errors import BrokenCheckpoint
from eggs_core.model_folder import ModelFolder
from eggs_core.packing_config import mask_bytes
from eggs_core.pattern import NMPattern, check_fit
from eggs_core.report import Report
from eggs_core.safetensors_header import Read, StoredTensor, read_header

# Of larger ones, which no known model has, the parsing would take more memory than the API should.
MAX_HEADER_BYTES = 4 << 20
_WEIGHT = ".weight"
_BLOCK = re.compile(r"\.(\d+)\.")
_BYTES = {"F32": 4, "float32": 4, "F16": 2, "float16": 2, "BF16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight matrix inside a block that may be pruned: its layer's name, (C_out, C_in), and bytes an element."""

    name: str
    shape: tuple[int, int]
    itemsize: int

    def saved_by_packing(self, pattern: NMPattern) -> int:
        """Bytes that its packed form (docs/packed-format.md) has fewer than its dense one.

        Raises `PatternDoesNotFit`, as a job would."""
        check_fit(self.shape, pattern, 0, self.name)
        rows, columns = self.shape
        packed = columns // pattern.m * pattern.n * self.itemsize + mask_bytes(columns, pattern.m)
        return rows * (columns * self.itemsize - packed)


@dataclass(frozen=True, slots=True)
class ModelSize:
    """A model's parameters, the bytes of its tensors, and its matrices.

    `least_bytes` are those that are in memory together in any case: what lies outside the blocks, and the largest
    block; None where only a report is known. `hidden` is the width of its hidden states, `itemsize` bytes each.
    """

    parameters: int
    nbytes: int
    matrices: Sequence[Matrix]
    least_bytes: int | None = None
    hidden: int | None = None
    itemsize: int = 2

    def packed_bytes(self, pattern: NMPattern, ignore: Iterable[str]) -> int:
        """Bytes of the tensors once every layer that no shell pattern of `ignore` matches is packed.

        Raises `PatternDoesNotFit`, naming a layer."""
        patterns = tuple(ignore)
        layers = (m for m in self.matrices if not any(fnmatchcase(m.name, each) for each in patterns))
        return self.nbytes - sum(layer.saved_by_packing(pattern) for layer in layers)


def of_folder(folder: ModelFolder) -> ModelSize:
    """The size of a model in safetensors. Raises an `EggsError` where its files cannot be read."""
    tensors: dict[str, StoredTensor] = {}
    for name, file in folder.weights().items():
        tensors |= read_header(_reader(file), name, MAX_HEADER_BYTES)
        if len(tensors) > MOST_TENSORS:
            raise BrokenCheckpoint(f"The model has more than {MOST_TENSORS} tensors, which are not counted here.")
    matrices = []
    blocks: dict[str, int] = {}
    outside = 0
    for name, tensor in tensors.items():
        if (place := _BLOCK.search(name)) is None:
            outside += tensor.nbytes
            continue
        block = name[: place.end()]
        blocks[block] = blocks.get(block, 0) + tensor.nbytes
        if name.endswith(_WEIGHT) and len(tensor.shape) == 2 and tensor.dtype in _BYTES:
            shape = (tensor.shape[0], tensor.shape[1])
            matrices.append(Matrix(name.removesuffix(_WEIGHT), shape, _BYTES[tensor.dtype]))
    widths = [matrix.shape[1] for matrix in matrices]
    return ModelSize(
        parameters=sum(math.prod(tensor.shape) for tensor in tensors.values()),
        nbytes=sum(tensor.nbytes for tensor in tensors.values()),
        matrices=matrices,
        least_bytes=outside + max(blocks.values(), default=0),
        hidden=min(widths, default=None),
        itemsize=max((matrix.itemsize for matrix in matrices), default=2),
    )


def of_report(report: Report) -> ModelSize:
    """The size of the model that a report is of."""
    itemsize = _BYTES[report.model.dtype]
    # Experts that a model fuses into one parameter have a number for a name, and are not packed.
    layers = [layer for layer in report.layers if not layer.name.rpartition(".")[2].isdigit()]
    return ModelSize(
        parameters=report.model.parameters,
        nbytes=report.bytes.dense_checkpoint,
        matrices=[Matrix(layer.name, layer.shape, itemsize) for layer in layers],
    )


def _reader(file: Path) -> Read:
    def read(start: int, length: int) -> bytes:
        with file.open("rb") as stream:
            stream.seek(start)
            return stream.read(length)

    return read
