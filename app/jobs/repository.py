"""Every query on jobs and their events."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, case, delete, func, literal, or_, select, tuple_, union, update
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased, undefer

from app import db
from app.db import SecondsBetween, TextUnder
from app.jobs.models import Job, JobEvent, JobEventType, JobSort, JobState, JobTracking
from app.keys.models import ApiKey
from eggs_core.spec import Effort, Method, PruneSpec


class Durations(NamedTuple):
    """Jobs in a state that took up to `bound` seconds and longer than the bound before; None: than every bound."""

    state: JobState
    bound: float | None
    jobs: int
    seconds: float


def lease_lost(now: datetime) -> ColumnElement[bool]:
    """Running, but its worker has not been heard of for the length of a lease."""
    return and_(Job.state == JobState.RUNNING, Job.lease_expires_at < now)


def leased(token: str) -> ColumnElement[bool]:
    """Running, and the lease of this token is the current one."""
    return and_(Job.state == JobState.RUNNING, Job.lease_token == token)


def without_worker(now: datetime) -> ColumnElement[bool]:
    """Queued, or lost by its worker."""
    return or_(Job.state == JobState.QUEUED, lease_lost(now))


def claimable(now: datetime) -> ColumnElement[bool]:
    """Free for a worker to take."""
    return and_(without_worker(now), or_(Job.retry_at.is_(None), Job.retry_at <= now))


def startable(now: datetime, most_running: int | None) -> ColumnElement[bool]:
    """Free for a worker to take, and its key has room for one more that runs; see `next_claimable`.

    Holds until another job starts, so the key must be locked where one is to be started by it.
    """
    other = aliased(Job)
    running = select(func.count()).where(other.key_id == Job.key_id, other.state == JobState.RUNNING)
    room = select(ApiKey.id).where(
        ApiKey.id == Job.key_id, _has_room(running.correlate(Job).scalar_subquery(), most_running)
    )
    return and_(claimable(now), or_(lease_lost(now), room.exists()))


def at_least(progress: float) -> ColumnElement[float]:
    """The progress, or what it already was: it never falls."""
    return case((Job.progress < progress, progress), else_=Job.progress)


def workers_lost() -> ColumnElement[int]:
    """How many workers a job has cost once another one takes it: one more where it is running."""
    return case((Job.state == JobState.RUNNING, Job.workers_lost + 1), else_=Job.workers_lost)


def cancel_moment(now: datetime) -> ColumnElement[datetime]:
    """When the cancellation was asked for: earlier, or now."""
    return func.coalesce(Job.cancel_requested_at, now)


def add(session: Session, job: Job) -> Job:
    """Stores a new job."""
    session.add(job)
    session.flush()
    return job


def advance(
    session: Session,
    job_id: str,
    condition: ColumnElement[bool],
    *,
    event: JobEventType,
    message: str,
    data: dict[str, Any] | None = None,
    **values: Any,
) -> tuple[Job, JobEvent] | None:
    """Changes a job and writes the event that tells of it, if the condition holds: None, and nothing done, if not.

    One UPDATE decides and allocates the event's sequence number, so that of several callers one wins and
    numbers have neither gaps nor doubles.
    """
    job = session.scalars(
        update(Job)
        .where(Job.id == job_id, condition)
        .values(last_sequence=Job.last_sequence + 1, **values)
        .returning(Job),
        execution_options={"synchronize_session": False, "populate_existing": True},
    ).one_or_none()
    if job is None:
        return None
    told = JobEvent(
        job_id=job.id,
        sequence=job.last_sequence,
        type=event,
        state=job.state,
        progress=job.progress,
        stage=job.stage,
        message=message,
        data=data or {},
        created_at=db.now(session),
    )
    session.add(told)
    session.flush()
    return job, told


def extend_lease(session: Session, job_id: str, token: str, expires_at: datetime) -> Job | None:
    """Moves the end of a lease; None if it is no longer the current one."""
    return session.scalars(
        update(Job).where(Job.id == job_id, leased(token)).values(lease_expires_at=expires_at).returning(Job),
        execution_options={"synchronize_session": False, "populate_existing": True},
    ).one_or_none()


def leased_job(session: Session, job_id: str, token: str) -> Job | None:
    """The job, if the lease of this token is the current one."""
    return session.scalars(select(Job).where(Job.id == job_id, leased(token))).one_or_none()


def get(session: Session, job_id: str, *, with_report: bool = False) -> Job | None:
    """The job as the database has it now."""
    options = [undefer(Job.report)] if with_report else []
    return session.get(Job, job_id, options=options, populate_existing=True)


def get_in_project(session: Session, project: str, job_id: str, *, with_report: bool = False) -> Job | None:
    """The job, if it is this project's."""
    query = select(Job).where(Job.id == job_id, Job.project == project)
    if with_report:
        query = query.options(undefer(Job.report))
    return session.scalars(query).one_or_none()


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs of a project are wanted; what is None or empty is not asked for."""

    state: JobState | None = None
    model: str | None = None
    method: Method | None = None
    sweep: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    text: str | None = None
    """In the name, the model or the id, whatever its case. Like `metadata` it is looked for job by job."""

    def conditions(self) -> list[ColumnElement[bool]]:
        """What the jobs have to meet."""
        found: list[ColumnElement[bool]] = []
        if self.state is not None:
            found.append(Job.state == self.state)
        if self.model is not None:
            found.append(Job.model == self.model)
        if self.method is not None:
            found.append(Job.method == self.method.value)
        if self.sweep is not None:
            found.append(Job.sweep_id == self.sweep)
        for key, value in self.metadata.items():
            found.append(TextUnder(Job.metadata_, literal(key)) == value)
        if self.text is not None:
            columns = (Job.name, Job.model, Job.id)
            found.append(or_(*(column.icontains(self.text, autoescape=True) for column in columns)))
        return found


# Ids sort by creation, and come last in every order, so that it is one of all jobs.
_SORTED_BY: dict[str, ColumnElement[Any] | InstrumentedAttribute[Any] | None] = {
    "created_at": None,
    "name": func.coalesce(Job.name, Job.id),
    "model": Job.model,
    "method": Job.method,
    "state": Job.state,
}


def page(
    session: Session, project: str, *, limit: int, after: str | None, wanted: Filter, sort: JobSort
) -> Sequence[Job]:
    """Up to `limit` jobs of a project in an order, beginning after the job `after`."""
    column = _SORTED_BY[sort.removeprefix("-")]
    order: list[Any] = [Job.id] if column is None else [column, Job.id]
    down = sort.startswith("-")
    query = select(Job).where(Job.project == project, *wanted.conditions())
    query = query.order_by(*(part.desc() if down else part.asc() for part in order)).limit(limit)
    if after is not None:
        here = tuple_(*order)
        there = select(*order).where(Job.id == after, Job.project == project).scalar_subquery()
        if column is None:
            query = query.where(Job.id < after if down else Job.id > after)
        else:
            query = query.where(here < there if down else here > there)
    return session.scalars(query).all()


def reports(
    session: Session, project: str, spec: PruneSpec, *, limit: int, of_model: bool, by_method: bool
) -> Sequence[Job]:
    """The project's last jobs that succeeded, with their reports, the newest first: those of the model in its
    revision that `spec` asks for, those by its method with its effort, or those that are both."""
    query = select(Job).where(Job.project == project, Job.report.is_not(None)).options(undefer(Job.report))
    if of_model:
        revision = Job.spec["revision"].as_string()
        query = query.where(Job.model == spec.model, revision.is_not_distinct_from(spec.revision))
    if by_method:
        query = query.where(Job.method == spec.method.value)
        if spec.effective_effort is not None:
            made = func.coalesce(Job.spec["effort"].as_string(), Effort.BALANCED.value)
            query = query.where(made == spec.effective_effort.value)
    return session.scalars(query.order_by(Job.id.desc()).limit(limit)).all()


def events(session: Session, job_id: str, *, after: int, limit: int) -> Sequence[JobEvent]:
    """Up to `limit` events of a job with a sequence number above `after`, in order."""
    return session.scalars(
        select(JobEvent)
        .where(JobEvent.job_id == job_id, JobEvent.sequence > after)
        .order_by(JobEvent.sequence)
        .limit(limit)
    ).all()


def last_sequences(session: Session, job_ids: Collection[str]) -> dict[str, int]:
    """The number of the last event of each job that is there."""
    query = select(Job.id, Job.last_sequence).where(Job.id.in_(job_ids))
    return {row[0]: row[1] for row in session.execute(query)}


def claimable_ids(session: Session, now: datetime, *, queued_before: datetime, limit: int) -> Sequence[str]:
    """Jobs a worker could take, the oldest first, without those queued only now."""
    return session.scalars(
        select(Job.id).where(claimable(now), Job.created_at <= queued_before).order_by(Job.id).limit(limit)
    ).all()


def next_claimable(
    session: Session, now: datetime, *, most_running: int | None, passed: Collection[str]
) -> str | None:
    """The job whose turn it is, of those a worker could take that are not `passed` over.

    Keys take turns: first comes the one with the fewest running jobs, then the one that was served longest ago.
    Of its jobs the one with the highest priority comes first, then the oldest. A key with `most_running` jobs,
    or as many as its own limit allows, waits; what its lost workers left does not.
    """
    busy = (
        select(Job.key_id, func.count().label("jobs"))
        .where(Job.state == JobState.RUNNING)
        .group_by(Job.key_id)
        .subquery()
    )
    running = func.coalesce(busy.c.jobs, 0)
    may_run = _has_room(running, most_running)
    query = (
        select(Job.id)
        .join(ApiKey, ApiKey.id == Job.key_id)
        .outerjoin(busy, busy.c.key_id == Job.key_id)
        .where(claimable(now), Job.id.not_in(passed), or_(lease_lost(now), may_run))
        .order_by(running, ApiKey.served_at.is_not(None), ApiKey.served_at, Job.priority.desc(), Job.id)
        .limit(1)
    )
    return session.scalars(query).one_or_none()


def _has_room(running: ColumnElement[int], most_running: int | None) -> ColumnElement[bool]:
    """Whether an `ApiKey` with so many running jobs may have one more."""
    within_own = or_(ApiKey.max_running_jobs.is_(None), running < ApiKey.max_running_jobs)
    return within_own if most_running is None else and_(within_own, running < most_running)


def key_of(session: Session, job_id: str) -> str | None:
    """The id of the key that a job belongs to; None if there is no such job."""
    return session.scalars(select(Job.key_id).where(Job.id == job_id)).one_or_none()


def note_tracked(session: Session, job_id: str) -> None:
    """Says that trackers follow a job, if it is not said yet."""
    session.merge(JobTracking(job_id=job_id))
    session.flush()


def forget_tracked(session: Session, job_id: str) -> bool:
    """Says that trackers are to hear no more of a job; False if they were not. One DELETE decides."""
    gone = delete(JobTracking).where(JobTracking.job_id == job_id).returning(JobTracking.job_id)
    return session.execute(gone, execution_options={"synchronize_session": False}).first() is not None


def tracked(session: Session, *, ended_before: datetime, limit: int) -> Sequence[str]:
    """Jobs of whose end trackers are to hear, and that ended before this moment, the oldest first."""
    return session.scalars(
        select(Job.id)
        .join(JobTracking, JobTracking.job_id == Job.id)
        .where(Job.state.in_([state for state in JobState if state.final]), Job.finished_at < ended_before)
        .order_by(Job.id)
        .limit(limit)
    ).all()


def count_unended(session: Session, key_id: str) -> Counter[JobState]:
    """How many jobs of a key wait, and how many run."""
    query = (
        select(Job.state, func.count())
        .where(Job.key_id == key_id, Job.state.in_((JobState.QUEUED, JobState.RUNNING)))
        .group_by(Job.state)
    )
    return Counter({row[0]: row[1] for row in session.execute(query)})


def count_by_state(session: Session) -> dict[JobState, int]:
    """How many jobs are in each state that has some."""
    query = select(Job.state, func.count()).group_by(Job.state)
    return {row[0]: row[1] for row in session.execute(query)}


def count_by_problem(session: Session) -> dict[str, int]:
    """How many jobs failed with each type of problem."""
    problem = Job.error["type"].as_string()
    query = select(problem, func.count()).where(Job.state == JobState.FAILED).group_by(problem)
    return {row[0]: row[1] for row in session.execute(query)}


def oldest_queued(session: Session) -> datetime | None:
    """When the job was made that has waited longest."""
    return session.scalars(select(func.min(Job.created_at)).where(Job.state == JobState.QUEUED)).one()


def longest_running(session: Session) -> datetime | None:
    """When the job was started that has run longest."""
    return session.scalars(select(func.min(Job.started_at)).where(Job.state == JobState.RUNNING)).one()


def count_by_wait(session: Session, bounds: Sequence[float]) -> list[Durations]:
    """Jobs by the time from their submission to their first worker."""
    return _count_by_duration(session, Job.created_at, Job.started_at, bounds)


def count_by_run(session: Session, bounds: Sequence[float]) -> list[Durations]:
    """Jobs by the time from their first worker to their end."""
    return _count_by_duration(session, Job.started_at, Job.finished_at, bounds)


def _count_by_duration(
    session: Session,
    begin: InstrumentedAttribute[datetime] | InstrumentedAttribute[datetime | None],
    end: InstrumentedAttribute[datetime | None],
    bounds: Sequence[float],
) -> list[Durations]:
    seconds = SecondsBetween(begin, end)
    bound = case(*((seconds <= bound, bound) for bound in bounds)).label("bound")
    query = (
        select(Job.state, bound, func.count(), func.sum(seconds))
        .where(begin.is_not(None), end.is_not(None))
        .group_by(Job.state, "bound")
    )
    return [Durations(*row) for row in session.execute(query)]


def count_pruned_blocks(session: Session, since: datetime) -> int:
    """Blocks that were pruned since then, by jobs that run or have ended since."""
    active = union(
        select(Job.id).where(Job.state == JobState.RUNNING), select(Job.id).where(Job.finished_at > since)
    )
    query = (
        select(func.count())
        .select_from(JobEvent)
        .where(
            JobEvent.job_id.in_(active),
            JobEvent.created_at > since,
            JobEvent.type == JobEventType.PROGRESS,
            JobEvent.stage == "prune",
        )
    )
    return session.scalars(query).one()


def count_startable(session: Session, now: datetime, most_running: int | None) -> int:
    """How many jobs workers could take now, if there were enough of them; see `startable`."""
    query = (
        select(
            ApiKey.max_running_jobs,
            func.count(case((and_(claimable(now), Job.state == JobState.QUEUED), 1))),
            func.count(case((and_(claimable(now), lease_lost(now)), 1))),
            func.count(case((Job.state == JobState.RUNNING, 1))),
        )
        .join(ApiKey, ApiKey.id == Job.key_id)
        .where(Job.state.in_((JobState.QUEUED, JobState.RUNNING)))
        .group_by(ApiKey.id)
    )
    count = 0
    for own_limit, waiting, lost, running in session.execute(query):
        limits = [limit for limit in (own_limit, most_running) if limit is not None]
        places = max(0, min(limits) - running) if limits else waiting
        count += min(waiting, places) + lost
    return count
