"""Rules on estimates: sizes from the model itself, memory and time from jobs that have run here.

Only the project's own jobs are looked at, the last ones. What they do not tell is left out, with the reason.
"""

from contextlib import suppress
from statistics import median

from pydantic import ValidationError
from sqlalchemy.orm import Session

from app import s3_sources
from app.estimates.model import ModelSize, of_folder, of_report
from app.estimates.schemas import Estimate, MemoryEstimate, SizeEstimate, TimeEstimate
from app.files.layout import uploads
from app.jobs import repository
from app.jobs import service as jobs
from app.jobs.schemas import JobCreate
from app.settings import Settings
from eggs_core.errors import EggsError, PatternDoesNotFit
from eggs_core.model_folder import ModelFolder
from eggs_core.report import Report
from eggs_core.sources import resolve_model
from eggs_core.spec import OutputFormat, PruneSpec

_LOOKED_AT = 5
_NOT_AT_HAND = "Known once a job of this model has succeeded here: a worker fetches or converts it first."


def estimate(session: Session, settings: Settings, project: str, body: JobCreate) -> Estimate:
    """What the job would take and leave. Raises what its submission would for a model or text it cannot have."""
    jobs.check_references(session, settings, project, body)
    same = _reports(session, project, body, of_model=True, by_method=False)
    own = _reports(session, project, body, of_model=True, by_method=True)
    others = [] if own else _reports(session, project, body, of_model=False, by_method=True)
    size, basis = _size(settings, body, same)
    return Estimate(
        sizes=_sizes(size, basis, body), memory=_memory(size, body, own), time=_time(size, body, own, others)
    )


def _reports(session: Session, project: str, spec: PruneSpec, **wanted: bool) -> list[Report]:
    found = []
    for job in repository.reports(session, project, spec, limit=_LOOKED_AT, **wanted):
        with suppress(ValidationError):  # another version of the service has written it
            found.append(Report.model_validate(job.report))
    return found


def _size(settings: Settings, body: JobCreate, same: list[Report]) -> tuple[ModelSize | None, str]:
    """The model's size, and how it is known, or why it is not."""
    if not s3_sources.is_s3(body.model):
        model = resolve_model(
            body.model, settings.model_roots, allow_hub=settings.allow_hub, uploads=uploads(settings, body.spec)
        )
        if model.path is not None and model.path.is_dir():
            try:
                return of_folder(ModelFolder(model.path, model.within)), "From the tensors in the model's files."
            except EggsError as error:
                return None, str(error)
    if same:
        return of_report(same[0]), "From a job of this model."
    return None, _NOT_AT_HAND


def _sizes(size: ModelSize | None, basis: str, body: JobCreate) -> SizeEstimate:
    if size is None:
        return SizeEstimate(parameters=None, dense_bytes=None, packed_bytes=None, output_bytes=None, basis=basis)
    dense = size.nbytes
    try:
        packed = size.packed_bytes(body.pattern, body.left_dense)
    except PatternDoesNotFit as error:
        return SizeEstimate(
            parameters=size.parameters, dense_bytes=dense, packed_bytes=None, output_bytes=None, basis=str(error)
        )
    left = {OutputFormat.DENSE: dense, OutputFormat.PACKED: packed, OutputFormat.BOTH: dense + packed}
    return SizeEstimate(
        parameters=size.parameters,
        dense_bytes=dense,
        packed_bytes=packed,
        output_bytes=left[body.output.format],
        basis=basis,
    )


def _memory(size: ModelSize | None, body: JobCreate, own: list[Report]) -> MemoryEstimate:
    windows = _windows(body)
    peaks = [r.bytes.peak_resident for r in own if _windows(r.spec) == windows]
    if peaks:
        jobs_ = "What a job" if len(peaks) == 1 else f"The most that {len(peaks)} jobs"
        basis = f"{jobs_} of this model took with {body.label} and as much calibration."
        return MemoryEstimate(bytes=max(peaks), at_least=False, basis=basis)
    if size is None or size.least_bytes is None or size.hidden is None:
        why = f"Of the last jobs of this model that succeeded with {body.label} none had as much calibration."
        if not own:
            why = f"No job of this model with {body.label} has succeeded here."
        return MemoryEstimate(bytes=None, at_least=False, basis=why)
    return MemoryEstimate(
        bytes=size.least_bytes + windows * size.hidden * size.itemsize,
        at_least=True,
        basis="The largest block, what lies outside the blocks, and the hidden states of the calibration windows. "
        "Statistics of the layers and the libraries come on top.",
    )


def _time(size: ModelSize | None, body: JobCreate, own: list[Report], others: list[Report]) -> TimeEstimate:
    known = own or (others if size is not None else [])
    if not known:
        why = f"No job with {body.label} has succeeded here."
        if others:
            why = (
                f"Jobs of other models have succeeded with {body.label}; they tell once this one's size is known."
            )
        return TimeEstimate(seconds=None, low=None, high=None, basis=why)
    tokens = _windows(body) * body.seeds
    seconds = []
    for report in known:
        share = tokens / (_windows(report.spec) * report.spec.seeds)
        if not own and size is not None:
            share *= size.parameters / report.model.parameters
        seconds.append(report.seconds["total"] * share)
    of = "this model" if own else "other models"
    jobs_ = "a job" if len(known) == 1 else f"{len(known)} jobs"
    by = "tokens of calibration" if own else "parameters and tokens of calibration"
    return TimeEstimate(
        seconds=round(median(seconds), 1),
        low=round(min(seconds), 1),
        high=round(max(seconds), 1),
        basis=f"From {jobs_} of {of} with {body.label}, in proportion to {by}.",
    )


def _windows(spec: PruneSpec) -> int:
    """Tokens of calibration."""
    return spec.calibration.samples * spec.calibration.sequence_length
