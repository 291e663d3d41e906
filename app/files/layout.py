"""Where uploaded files lie: each in a folder by its id, with the file as it came and, of a model, its parts.

A worker finds them by their ids alone: that a job may use a file was settled when the job was submitted, and until
the job has ended the file is not deleted.
"""

from collections.abc import Iterable
from pathlib import Path

from app.ids import is_id
from app.settings import Settings
from eggs_core.spec import PruneSpec

CONTENT = "content"
MODEL = "model"
LOCK = ".lock"


def is_upload(reference: str) -> bool:
    """Whether a reference to a model or text is the id of an uploaded file."""
    return is_id("file", reference)


def texts(spec: PruneSpec) -> Iterable[str]:
    """The references to texts."""
    return (spec.calibration.source, *(spec.evaluation.sources if spec.evaluation is not None else ()))


def used(spec: PruneSpec) -> set[str]:
    """The ids of the uploaded files that a job uses."""
    return set(filter(is_upload, (spec.model, *texts(spec))))


def content(folder: Path, suffix: str) -> Path:
    """The file as it came, in the folder that is its own."""
    return folder / f"{CONTENT}{suffix}"


def uploads(settings: Settings, spec: PruneSpec) -> dict[str, Path]:
    """What `eggs_core` reads for each uploaded file that a job uses: a model's folder, or a text."""
    found = {}
    for file_id in used(spec):
        folder = settings.files_dir / file_id
        for path in (folder / MODEL, *folder.glob(f"{CONTENT}.*")):
            if path.exists():
                found[file_id] = path
                break
    return found
