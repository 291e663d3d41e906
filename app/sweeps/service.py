"""Rules on sweeps. Nothing here commits: the request does."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from app.audit import service as audit
from app.db import utcnow
from app.idempotency import once
from app.ids import is_id, new_id
from app.jobs import service as jobs
from app.jobs.schemas import JobCreate
from app.keys.service import Principal
from app.problems import Problem
from app.settings import Settings
from app.sweeps import repository
from app.sweeps.models import Sweep
from app.sweeps.plan import plan
from app.sweeps.schemas import SweepCreate, SweepSummary

_NAME_LENGTH = 128


def submit(
    session: Session, settings: Settings, principal: Principal, body: SweepCreate, idempotency_key: str | None
) -> tuple[Sweep, bool]:
    """The new sweep, or the one that the same request with the same idempotency key made: then also True.

    All of its jobs are queued, or none. Raises what `jobs.check_references` and `jobs.take_places` do.
    """

    def make() -> str:
        planned = plan(list(body.runs()), share=body.share_calibration)
        for job in planned:  # which refer to what all of their trials do
            jobs.check_references(session, settings, principal.project, job.spec)
        jobs.take_places(session, settings, principal, len(planned))
        sweep_id = new_id("sweep")
        trials: list[dict[str, Any]] = [{"change": change.given, "label": change.label} for change in body.trials]
        for job in planned:
            own = trials[job.trials[0]]
            request = job.spec.model_dump() | {
                "name": f"{body.name or 'Sweep'}: {own['label']}"[:_NAME_LENGTH],
                "metadata": body.metadata,
                "priority": body.priority,
            }
            made = jobs.create(
                session,
                project=principal.project,
                key_id=principal.key_id,
                body=JobCreate.model_validate(request),
                sweep_id=sweep_id,
            )
            for place, trial in enumerate(job.trials):
                # The job's own method is in place 0, and those it compares follow.
                trials[trial] |= {"job_id": made.id, "place": place}
        repository.add(
            session,
            Sweep(
                id=sweep_id,
                project=principal.project,
                key_id=principal.key_id,
                name=body.name,
                metadata_=body.metadata,
                model=body.model,
                trials=trials,
                created_at=utcnow(),
            ),
        )
        audit.note(session, principal.project, principal.key_id, audit.Action.SWEEP_SUBMITTED, sweep_id)
        return sweep_id

    sweep_id, replayed = once(session, principal.project, idempotency_key, body, make)
    return get(session, principal.project, sweep_id), replayed


def get(session: Session, project: str, sweep_id: str) -> Sweep:
    """The project's sweep. Raises a 404 `Problem`, also where it is another project's."""
    sweep = repository.get_in_project(session, project, sweep_id) if is_id("sweep", sweep_id) else None
    if sweep is None:
        raise Problem(
            "sweep-not-found",
            "No such sweep",
            404,
            "This key's project has no sweep with that id. GET /v1/sweeps lists those it has.",
        )
    return sweep


def page(session: Session, project: str, *, limit: int, after: str | None) -> tuple[Sequence[SweepSummary], bool]:
    """Up to `limit` sweeps, newest first, and whether there are more."""
    found = repository.page(session, project, limit=limit + 1, after=after)
    states = repository.states(session, [sweep.id for sweep in found])
    summaries = [SweepSummary(**SweepSummary.fields(sweep, states[sweep.id])) for sweep in found[:limit]]
    return summaries, len(found) > limit


def cancel(session: Session, principal: Principal, sweep_id: str) -> Sweep:
    """Cancels the jobs that have not ended. Raises a 409 `Problem` where there is none."""
    sweep = get(session, principal.project, sweep_id)
    waiting = repository.open_jobs(session, sweep.id)
    if not waiting:
        raise Problem(
            "sweep-already-finished",
            "The sweep has no job left to cancel",
            409,
            f"All of its jobs have ended, or were asked to stop. GET /v1/sweeps/{sweep.id} has how they stand.",
        )
    for job_id in waiting:
        jobs.cancel(session, principal.project, job_id, principal.key_id)
    return sweep
