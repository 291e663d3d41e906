"""Every query on sweeps and their jobs."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import func, select
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
    """The jobs of a sweep that have not ended, nor were asked to."""
    query = select(Job.id).where(
        Job.sweep_id == sweep_id,
        Job.state.in_([state for state in JobState if not state.final]),
        Job.cancel_requested_at.is_(None),
    )
    return session.scalars(query).all()
