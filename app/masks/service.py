"""Rules on masks: they are read, a window at a time, from where the job's packed checkpoint is kept."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session, sessionmaker

from app.artifacts import service as artifacts
from app.artifacts.models import Artifact
from app.artifacts.store import Store
from app.jobs import service as jobs
from app.jobs.models import Job
from app.masks.picture import Window, draw
from app.problems import Problem
from eggs_core.errors import BrokenPack
from eggs_core.model_folder import CONFIG, INDEX
from eggs_core.packing_config import MASK, PackingConfig
from eggs_core.pattern import NMPattern
from eggs_core.safetensors_header import read_header

# Where packed checkpoints are, in this order: beside a dense one, or alone.
_FOLDERS = ("packed/", "")


@dataclass(frozen=True, slots=True)
class _Place:
    """The tensor of a mask, the file that holds it, and the pattern it keeps."""

    tensor: str
    file: Artifact
    pattern: NMPattern


@dataclass(frozen=True, slots=True)
class _Pruned:
    """A job that succeeded, with what the database has of it."""

    job: Job
    layers: Sequence[dict[str, Any]]
    files: Mapping[str, Artifact]


def of_job(
    readers: sessionmaker[Session], store: Store, project: str, job_id: str
) -> tuple[Job, list[dict[str, Any]]]:
    """A job that succeeded, and those layers of its report whose masks can be had.

    None of those that were left in dense form only, where a zero may be a weight that is kept; nor of experts that
    a model fuses into one parameter. Raises a 404 or 409 `Problem` as the report, or 410 where files were removed.
    """
    pruned = _pruned(readers, project, job_id)
    places = _places(store, pruned)
    return pruned.job, [layer for layer in pruned.layers if _find(places, layer["name"]) is not None]


def picture(
    readers: sessionmaker[Session], store: Store, project: str, job_id: str, layer: str, window: Window
) -> bytes:
    """A window of a layer's mask as a PNG, cut where it leaves the mask.

    Raises as `of_job` does, a 404 `Problem` where there is no such mask, and 422 for a window beside it.
    """
    pruned = _pruned(readers, project, job_id)
    shapes = {each["name"]: each["shape"] for each in pruned.layers}
    place = _find(_places(store, pruned), layer) if layer in shapes else None
    if place is None:
        raise Problem(
            "mask-not-found",
            "The job has no such mask",
            404,
            f"GET /v1/jobs/{job_id}/masks lists those it has: of layers that were left in packed form.",
        )
    rows, columns = shapes[layer]
    if window.row >= rows or window.column >= columns:
        raise Problem(
            "window-outside",
            "The window lies beside the mask",
            422,
            f"{layer} has {rows} rows and {columns} columns, which count from 0.",
        )

    def read(start: int, length: int) -> bytes:
        return artifacts.read(store, pruned.job, place.file, start, length)

    stored = read_header(read, place.file.name)[place.tensor]
    return draw(
        lambda start, length: read(stored.start + start, length),
        (rows, columns),
        place.pattern,
        window.within((rows, columns)),
    )


def _pruned(readers: sessionmaker[Session], project: str, job_id: str) -> _Pruned:
    # The connection is back before the store is asked, which may take long to answer.
    with readers() as session:
        job, report = jobs.succeeded(session, project, job_id)
        return _Pruned(job, report["layers"], {file.name: file for file in artifacts.of_job(session, job)})


def _places(store: Store, pruned: _Pruned) -> Mapping[str, _Place]:
    """Where masks are, by their layers' names in the checkpoint, and by those without their first part."""

    def content(name: str) -> Any:
        file = pruned.files[name]
        return json.loads(artifacts.read(store, pruned.job, file, 0, file.bytes))

    found: dict[str, _Place] = {}
    for folder in _FOLDERS:
        if not {folder + INDEX, folder + CONFIG} <= pruned.files.keys():
            continue
        try:
            packing = PackingConfig.read(content(folder + CONFIG).get("quantization_config", {}))
        except BrokenPack:  # dense, or packed by another version
            continue
        for tensor, name in content(folder + INDEX)["weight_map"].items():
            if tensor.endswith(MASK):
                layer = tensor.removesuffix(MASK)
                found[layer] = place = _Place(tensor, pruned.files[folder + name], packing.pattern)
                found.setdefault(_without_prefix(layer), place)
        break
    return found


def _find(places: Mapping[str, _Place], layer: str) -> _Place | None:
    # Checkpoints of a bare base model lack the prefix that the model's own names have, or the other way round.
    return places.get(layer) or places.get(_without_prefix(layer))


def _without_prefix(name: str) -> str:
    return name.partition(".")[2]
