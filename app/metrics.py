"""Figures for Prometheus, on a port of their own: they count the jobs of all projects, so they are not for users.

Requests are counted as they come; jobs are counted in the database when Prometheus asks, so that every replica of
the API tells the same and nothing is lost when one starts again.
"""

import logging
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_fastapi_instrumentator import Instrumentator
from sqlalchemy.orm import Session, sessionmaker

from app.db import DATABASE_DOWN, utcnow
from app.jobs import repository
from app.jobs.models import JobState
from app.jobs.repository import Durations
from app.problems import TYPE_PREFIX

_BOUNDS = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0)
_RECENTLY = timedelta(minutes=5)
# Told where there are none, too: an alert on how many come sees no rise in a figure that begins with the first.
_NOT_OF_USERS = ("internal-error", "worker-lost")

logger = logging.getLogger(__name__)


class JobCollector(Collector):
    """Counts of jobs, asked of the database."""

    def __init__(self, readers: sessionmaker[Session]) -> None:
        self._readers = readers

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that registration asks no database."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The figures of this moment; without the database only that it is away."""
        up = GaugeMetricFamily("eggs_database_up", "Whether the database answers.")
        try:
            with self._readers.begin() as session:
                figures = list(_figures(session, utcnow()))
        except DATABASE_DOWN:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield from (up, *figures)


def _figures(session: Session, now: datetime) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("eggs_jobs", "Jobs by state.", labels=["state"])
    by_state = repository.count_by_state(session)
    for state in JobState:
        jobs.add_metric([state], by_state.get(state, 0))
    yield jobs

    failures = GaugeMetricFamily("eggs_failed_jobs", "Failed jobs by problem.", labels=["problem"])
    by_problem = {f"{TYPE_PREFIX}{code}": 0 for code in _NOT_OF_USERS} | repository.count_by_problem(session)
    for problem, count in by_problem.items():
        failures.add_metric([problem.removeprefix(TYPE_PREFIX)], count)
    yield failures

    oldest = repository.oldest_queued(session)
    yield _age("eggs_oldest_queued_seconds", "Age of the oldest job that waits, or 0.", oldest, now)
    longest = repository.longest_running(session)
    yield _age(
        "eggs_longest_running_seconds", "How long the job has run that has run longest, or 0.", longest, now
    )

    queued = HistogramMetricFamily("eggs_job_queued_seconds", "Time from a job's submission to its first worker.")
    _add_durations(queued, [], repository.count_by_wait(session, _BOUNDS))
    yield queued

    running = HistogramMetricFamily(
        "eggs_job_running_seconds", "Time from a job's first worker to its end, by that end.", labels=["state"]
    )
    ended = repository.count_by_run(session, _BOUNDS)
    for state in filter(lambda state: state.final, JobState):
        _add_durations(running, [state], [found for found in ended if found.state is state])
    yield running

    blocks = repository.count_pruned_blocks(session, now - _RECENTLY)
    yield GaugeMetricFamily(
        "eggs_blocks_per_second",
        "Blocks pruned in the last five minutes, per second.",
        blocks / _RECENTLY.total_seconds(),
    )


def _age(name: str, documentation: str, since: datetime | None, now: datetime) -> Metric:
    return GaugeMetricFamily(name, documentation, max(0.0, (now - since).total_seconds()) if since else 0)


def _add_durations(family: HistogramMetricFamily, labels: list[str], found: Sequence[Durations]) -> None:
    upto = {
        bound: sum(each.jobs for each in found if each.bound is not None and each.bound <= bound)
        for bound in _BOUNDS
    }
    buckets = [(str(bound), float(jobs)) for bound, jobs in upto.items()]
    buckets.append(("+Inf", sum(each.jobs for each in found)))
    family.add_metric(labels, buckets, sum(each.seconds for each in found))


def install(app: FastAPI, readers: sessionmaker[Session]) -> CollectorRegistry:
    """Counts the requests of an application, and returns the registry of all its figures."""
    registry = CollectorRegistry()
    Instrumentator(registry=registry).instrument(app, metric_namespace="eggs")
    registry.register(JobCollector(readers))
    return registry


def of_processes(folder: Path, readers: sessionmaker[Session]) -> CollectorRegistry:
    """A registry with the requests that processes count in a folder, and the jobs.

    The processes have that folder in `PROMETHEUS_MULTIPROC_DIR`, from their start.
    """
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    registry.register(JobCollector(readers))
    return registry


def serve(registry: CollectorRegistry, host: str, port: int) -> None:
    """Answers Prometheus at /metrics of this port, until the process ends."""
    start_http_server(port, host, registry)
    logger.info("Metrics are at http://%s:%s/metrics", host, port)
