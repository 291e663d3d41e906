"""Calibration and evaluation text, from its source to windows of token ids."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet
import torch
from torch import Tensor

from eggs_core.errors import NotEnoughText, TextNotFound
from eggs_core.hub import dataset_file
from eggs_core.sources import NO_UPLOADS, check_text_source, resolve_text_file
from eggs_core.spec import CalibrationSpec, TextSpec

Part = Literal["calibration", "evaluation"]

# A large data set is read until it gives this many times the tokens asked for; the draw is made from those.
OVERSAMPLING = 16
# Texts are tokenized so much at a time, or what gives about the tokens wanted where that is less.
_BATCH_CHARACTERS = 1 << 22
_CHARACTERS_PER_TOKEN = 4
_BETWEEN_DOCUMENTS = "\n\n"


def token_windows(
    spec: TextSpec,
    part: Part,
    tokenizer: Any,
    *,
    text_roots: Sequence[Path] | None,
    cache_dir: Path,
    allow_hub: bool = True,
    uploads: Mapping[str, Path] = NO_UPLOADS,
) -> Tensor:
    """Windows of token ids, (windows, L) int64.

    For calibration `samples` windows without overlap, drawn by the seed; for evaluation those from the start.
    Where the tokenizer begins every text with a token of its own, each window begins with it.

    Raises `TextNotFound`, and `NotEnoughText` with the tokens there are and the tokens asked for.
    """
    check_text_source(spec.source, text_roots, allow_hub=allow_hub, uploads=uploads)
    samples = spec.samples
    prefix = _prefix(tokenizer)
    length = spec.sequence_length - len(prefix)
    needed = (samples or 1) * length
    limit = None if samples is None else needed * (OVERSAMPLING if part == "calibration" else 1)
    documents = _documents(spec, part, text_roots, cache_dir, uploads)
    ids = _tokenize(documents, tokenizer, limit)
    if len(ids) < needed:
        raise NotEnoughText(
            f"{spec.source} gives {len(ids)} tokens for {part}, and {samples or 1} windows of "
            f"{spec.sequence_length} need {needed}. Give more text, fewer samples or shorter sequences."
        )
    windows = torch.tensor(ids[: len(ids) // length * length], dtype=torch.int64).view(-1, length)
    if isinstance(spec, CalibrationSpec):
        draw = torch.randperm(len(windows), generator=torch.Generator().manual_seed(spec.seed))
        windows = windows[draw[: spec.samples]]
    else:
        windows = windows[:samples]
    return torch.cat([torch.tensor(prefix, dtype=torch.int64).expand(len(windows), -1), windows], dim=1)


def fingerprint(tokens: Tensor) -> str:
    """sha256 over the token ids."""
    return hashlib.sha256(tokens.numpy().tobytes()).hexdigest()


def _prefix(tokenizer: Any) -> list[int]:
    ids = tokenizer("").input_ids
    return ids[:1] if ids and ids[0] == tokenizer.bos_token_id else []


def _tokenize(documents: Iterable[str], tokenizer: Any, limit: int | None) -> list[int]:
    characters = _BATCH_CHARACTERS if limit is None else min(_BATCH_CHARACTERS, _CHARACTERS_PER_TOKEN * limit)
    ids: list[int] = []
    for batch in _batches(documents, characters):
        text = _BETWEEN_DOCUMENTS.join(batch)
        ids += tokenizer(
            _BETWEEN_DOCUMENTS + text if ids else text, add_special_tokens=False, verbose=False
        ).input_ids
        if limit is not None and len(ids) >= limit:
            return ids[:limit]
    return ids


def _batches(documents: Iterable[str], characters: int) -> Iterator[list[str]]:
    """Documents together, until they have so many characters or more."""
    batch: list[str] = []
    gathered = 0
    for document in documents:
        batch.append(document)
        gathered += len(document)
        if gathered >= characters:
            yield batch
            batch, gathered = [], 0
    if batch:
        yield batch


def _documents(
    spec: TextSpec, part: Part, text_roots: Sequence[Path] | None, cache_dir: Path, uploads: Mapping[str, Path]
) -> Iterator[str]:
    if spec.source == "pydocs":
        return _pydocs(part)
    if spec.source.startswith("hub:"):
        path = dataset_file(spec.source, part, cache_dir)
    else:
        path = resolve_text_file(spec.source, text_roots, uploads=uploads)
    return (text for text in _read(path, spec.text_field, spec.source) if text.strip())


def _pydocs(part: Part) -> Iterator[str]:
    """The topics of Python's own help, whole topics for one part or the other: a fifth of the text evaluates."""
    from pydoc_data.topics import topics

    characters = {"calibration": 0, "evaluation": 0}
    for name in sorted(topics):
        behind = "evaluation" if 4 * characters["evaluation"] < characters["calibration"] else "calibration"
        characters[behind] += len(topics[name])
        if behind == part:
            yield topics[name]


def _read(path: Path, field: str, source: str) -> Iterator[str]:
    try:
        match path.suffix:
            case ".parquet":
                yield from map(_as_text, _parquet(path, field))
            case ".jsonl":
                with path.open(encoding="utf-8") as lines:
                    yield from (_as_text(json.loads(line)[field]) for line in lines if line.strip())
            case _:
                with path.open(encoding="utf-8") as stream:
                    # Up to the end of a line, which may be as long as the file.
                    yield from iter(
                        lambda: stream.read(_BATCH_CHARACTERS) + stream.readline(_BATCH_CHARACTERS), ""
                    )
    except KeyError as error:
        raise TextNotFound(
            f"{source} has a record without the field {field!r}. Name its text with text_field."
        ) from error
    except (ValueError, TypeError, RecursionError, pyarrow.ArrowException) as error:
        raise TextNotFound(f"{source} is not a readable {path.suffix} file of texts: {error}") from error
    except OSError as error:  # pyarrow gives one, with the path, for damaged data
        raise TextNotFound(f"{source} cannot be read. Check that the file is whole.") from error


def _as_text(value: Any) -> str:
    if not isinstance(value, str | None):
        raise TypeError(f"its texts are of type {type(value).__name__}")
    text = value or ""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can write half a character, which no tokenizer takes
        raise ValueError(
            f"a text has {text[error.start]!r}, half of a character without its other half"
        ) from error
    return text


def _parquet(path: Path, field: str) -> Iterator[Any]:
    with pyarrow.parquet.ParquetFile(path) as file:
        if field not in file.schema_arrow.names:
            raise KeyError(field)
        for batch in file.iter_batches(columns=[field]):
            yield from batch.column(0).to_pylist()
