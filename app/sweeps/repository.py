"""Every query on sweeps and their jobs."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, exists, func, select, update
from sqlalchemy.orm import Session

from app.jobs.models import Job, JobState
from app.sweeps.models import Sweep


class JobFigures(NamedTuple):
    """How a job stands, and what its report says where it has one."""

    job_id: str
    state: JobState
    verdict: str | None
    texts: list[dict[str, Any]] | None
    compared: list[dict[str, Any]] | None
    packed_bytes: int | None


def add(session: Session, sweep: Sweep) -> None:
    """Stores a new sweep."""
    session.add(sweep)
    session.flush()


def get_in_project(session: Session, project: str, sweep_id: str) -> Sweep | None:
    """The sweep, if it is this project's."""
    return session.scalars(select(Sweep).where(Sweep.id == sweep_id, Sweep.project == project)).one_or_none()


def page(session: Session, project: str, *, limit: int, after: str | None) -> Sequence[Sweep]:
    """Up to `limit` sweeps of a project, newest first, that are older than `after`."""
    query = select(Sweep).where(Sweep.project == project).order_by(Sweep.id.desc()).limit(limit)
    return session.scalars(query if after is None else query.where(Sweep.id < after)).all()


def states(session: Session, sweep_ids: Collection[str]) -> dict[str, dict[JobState, int]]:
    """For each sweep how many of its jobs are in each state that has some."""
    query = (
        select(Job.sweep_id, Job.state, func.count())
        .where(Job.sweep_id.in_(sweep_ids))
        .group_by(Job.sweep_id, Job.state)
    )
    found: dict[str, dict[JobState, int]] = defaultdict(dict)
    for sweep_id, state, jobs in session.execute(query):
        assert sweep_id is not None
        found[sweep_id][state] = jobs
    return found


def figures(session: Session, sweep_id: str) -> dict[str, JobFigures]:
    """The jobs of a sweep, by their ids."""
    evaluation = Job.report["evaluation"]
    query = select(
        Job.id,
        Job.state,
        Job.verdict,
        evaluation["texts"],
        evaluation["compared"],
        Job.report["bytes"]["packed_checkpoint"],
    ).where(Job.sweep_id == sweep_id)
    return {row[0]: JobFigures(*row) for row in session.execute(query)}


def open_jobs(session: Session, sweep_id: str) -> Sequence[str]:
    """The jobs of a sweep that have not ended, nor were asked to; nobody else ends them meanwhile.

    Who ends a job locks it, and then its sweep. Who ends several has to lock all of them first: else it would have
    the sweep, and wait for a job whose worker waits for the sweep.
    """
    query = select(Job.id).where(Job.sweep_id == sweep_id, _open(), Job.cancel_requested_at.is_(None))
    return session.scalars(query.order_by(Job.id).with_for_update(key_share=True)).all()


def complete(session: Session, sweep_id: str) -> Sweep | None:
    """Stores when the last job of a sweep has ended. None, and nothing done, if one has not, or if it is stored.

    The lock comes first: of two transactions that end the last two jobs neither sees what the other does, so that
    one has to wait for the other's end before it looks.
    """
    session.execute(select(Sweep.id).where(Sweep.id == sweep_id).with_for_update())
    last = select(func.max(Job.finished_at)).where(Job.sweep_id == sweep_id)
    return session.scalars(
        update(Sweep)
        .where(Sweep.id == sweep_id, _completable())
        .values(completed_at=last.scalar_subquery())
        .returning(Sweep),
        execution_options={"synchronize_session": False, "populate_existing": True},
    ).one_or_none()


def overlooked(session: Session) -> Sequence[str]:
    """Sweeps whose jobs have all ended, and whose end is not stored."""
    return session.scalars(select(Sweep.id).where(_completable()).order_by(Sweep.id)).all()


def _open() -> ColumnElement[bool]:
    return Job.state.in_([state for state in JobState if not state.final])


def _completable() -> ColumnElement[bool]:
    return Sweep.completed_at.is_(None) & ~exists().where(Job.sweep_id == Sweep.id, _open())
