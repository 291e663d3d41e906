"""Whether a file is what its name says. Reads it piece by piece, and needs no library of those that use it."""

import codecs
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.files.models import FileType
from app.problems import Problem
from eggs_core.errors import BrokenCheckpoint
from eggs_core.model_folder import CONFIG, INDEX, MAX_SETTINGS_BYTES, WEIGHTS
from eggs_core.safetensors_header import read_header

MAX_LINE_BYTES = 8 << 20
# Less than `eggs_core.model_folder` has: these the API parses itself, and the largest models are not uploaded.
MAX_HEADER_BYTES = 4 << 20
MAX_INDEX_BYTES = 16 << 20
# Of all files together: each takes hundreds of bytes once it is parsed. The most known are in 60 layers of 384
# experts, of three matrices with three tensors each: 210,000.
MOST_TENSORS = 250_000
_PIECE = 1 << 20
_MAGIC = b"PAR1"


@dataclass(frozen=True, slots=True)
class Kind:
    """What the ending of a name stands for."""

    suffix: str
    type: FileType
    media_type: str


KINDS = (
    Kind(".txt", FileType.TEXT, "text/plain"),
    Kind(".jsonl", FileType.JSONL, "application/jsonl"),
    Kind(".parquet", FileType.PARQUET, "application/vnd.apache.parquet"),
    Kind(".tar", FileType.MODEL, "application/x-tar"),
    Kind(".tar.gz", FileType.MODEL, "application/gzip"),
    Kind(".tgz", FileType.MODEL, "application/gzip"),
)


def invalid_file(detail: str) -> Problem:
    """The file is not what it should be."""
    return Problem("invalid-file", "The file is not what its name says", 422, detail)


def kind_of(name: str) -> Kind:
    """What a file of this name should hold. Raises a 422 `Problem`."""
    for kind in KINDS:
        if name.lower().endswith(kind.suffix):
            return kind
    endings = ", ".join(kind.suffix for kind in KINDS)
    raise invalid_file(f"{name!r} does not end as a file that is used here does. Its name may end in {endings}.")


def check_text(file: Path, type: FileType) -> None:
    """Raises a 422 `Problem` where the file is no text of this type."""
    if not file.stat().st_size:
        raise invalid_file("The file is empty. Send one with some text.")
    match type:
        case FileType.JSONL:
            _check_jsonl(file)
        case FileType.PARQUET:
            _check_parquet(file)
        case _:
            _check_utf8(file)


def check_model(folder: Path) -> None:
    """Raises a 422 `Problem` where the folder is no model with a config and whole safetensors files."""
    _json_object(folder / CONFIG, MAX_SETTINGS_BYTES, "Pack the folder that a model was saved to.")
    files = sorted(folder.glob(WEIGHTS))
    tensors = 0
    for file in files:
        tensors += _check_safetensors(file)
        if tensors > MOST_TENSORS:
            raise invalid_file(
                f"The model's safetensors files hold more than {MOST_TENSORS} tensors, which no known model has. "
                "Check that they are all its own."
            )
    if not tensors:
        raise invalid_file("The model's safetensors files hold no tensor. Save it again.")
    if (folder / INDEX).exists():
        weight_map = _json_object(folder / INDEX, MAX_INDEX_BYTES, "Save the model again.").get("weight_map")
        names = {file.name for file in files}
        if not isinstance(weight_map, dict):
            raise invalid_file(f"{INDEX} has no weight_map. Save the model again.")
        for name in weight_map.values():
            if not isinstance(name, str) or name not in names:
                raise invalid_file(f"{INDEX} names {str(name)[:256]!r}, which the archive lacks. Pack all shards.")


def _check_utf8(file: Path) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with file.open("rb") as stream:
        try:
            while piece := stream.read(_PIECE):
                decoder.decode(piece)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise invalid_file("The text is not UTF-8. Save it as UTF-8 and send it again.") from error


def _check_jsonl(file: Path) -> None:
    records = 0
    with file.open("rb") as stream:
        for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES + 1), b""), 1):
            if len(line) > MAX_LINE_BYTES:
                raise invalid_file(f"Line {number} has more than {MAX_LINE_BYTES} bytes. Split its text.")
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode())
            except (ValueError, RecursionError) as error:
                raise invalid_file(f"Line {number} is not JSON in UTF-8. Write one JSON object a line.") from error
            if not isinstance(record, dict):
                raise invalid_file(f"Line {number} is no JSON object. Write one a line, with the text in a field.")
            records += 1
    if not records:
        raise invalid_file("The file has no line with a JSON object.")


def _check_parquet(file: Path) -> None:
    size = file.stat().st_size
    with file.open("rb") as stream:
        whole = size > 3 * len(_MAGIC) and stream.read(len(_MAGIC)) == _MAGIC
        if whole:
            stream.seek(-2 * len(_MAGIC), os.SEEK_END)
            footer = int.from_bytes(stream.read(len(_MAGIC)), "little")
            whole = stream.read() == _MAGIC and 0 < footer <= size - 3 * len(_MAGIC)
    if not whole:
        raise invalid_file("The file is no Parquet file, or not all of one. Check that it is whole.")


def _check_safetensors(file: Path) -> int:
    """The number of tensors in a safetensors file. Raises a 422 `Problem` where its header does not fit it."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise _broken(file, f"its header claims {length} bytes")

        def read(start: int, count: int) -> bytes:
            stream.seek(start)
            return stream.read(count)

        try:
            tensors = read_header(read, file.name).values()
        except BrokenCheckpoint as error:
            raise _broken(file, "its header cannot be read, or does not fit its tensors") from error
    at = 8 + length
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, tensor.nbytes)):
        if tensor.start != at or tensor.nbytes < 0:
            raise _broken(file, "its tensors overlap or leave gaps")
        at += tensor.nbytes
    if at != size:
        raise _broken(file, "its tensors do not fill it")
    return len(tensors)


def _broken(file: Path, why: str) -> Problem:
    return invalid_file(f"{file.name[:256]!r} is no whole safetensors file: {why}. Save the model again.")


def _json_object(file: Path, most: int, advice: str) -> dict[str, Any]:
    if not file.is_file():
        raise invalid_file(f"The archive has no {file.name} beside the weights. {advice}")
    if file.stat().st_size > most:
        raise invalid_file(f"{file.name} has more than {most} bytes. {advice}")
    try:
        value = json.loads(file.read_bytes().decode())
    except (ValueError, RecursionError) as error:
        raise invalid_file(f"{file.name} is not JSON. {advice}") from error
    if not isinstance(value, dict):
        raise invalid_file(f"{file.name} is no JSON object. {advice}")
    return value
