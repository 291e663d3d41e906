"""Figures for Prometheus, on a port of their own: they count the jobs of all projects, so they are not for users.

Requests are counted as they come; jobs are counted in the database when Prometheus asks, so that every replica of
the API tells the same and nothing is lost when one starts again.
"""

import logging
from collections.abc import Iterator

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_fastapi_instrumentator import Instrumentator
from sqlalchemy.orm import Session, sessionmaker

from app.db import DATABASE_DOWN, utcnow
from app.jobs import repository
from app.jobs.models import JobState
from app.problems import TYPE_PREFIX

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
        jobs = GaugeMetricFamily("eggs_jobs", "Jobs by state.", labels=["state"])
        failures = GaugeMetricFamily("eggs_failed_jobs", "Failed jobs by problem.", labels=["problem"])
        wait = GaugeMetricFamily("eggs_oldest_queued_seconds", "Age of the oldest job that waits, or 0.")
        try:
            with self._readers.begin() as session:
                by_state = repository.count_by_state(session)
                by_problem = repository.count_by_problem(session)
                oldest = repository.oldest_queued(session)
        except DATABASE_DOWN:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        for state in JobState:
            jobs.add_metric([state], by_state.get(state, 0))
        for problem, count in by_problem.items():
            failures.add_metric([problem.removeprefix(TYPE_PREFIX)], count)
        wait.add_metric([], max(0.0, (utcnow() - oldest).total_seconds()) if oldest else 0)
        yield from (up, jobs, failures, wait)


def install(app: FastAPI, readers: sessionmaker[Session]) -> CollectorRegistry:
    """Counts the requests of an application, and returns the registry of all its figures."""
    registry = CollectorRegistry()
    Instrumentator(registry=registry).instrument(app, metric_namespace="eggs")
    registry.register(JobCollector(readers))
    return registry


def serve(registry: CollectorRegistry, host: str, port: int) -> None:
    """Answers Prometheus at /metrics of this port, until the process ends."""
    start_http_server(port, host, registry)
    logger.info("Metrics are at http://%s:%s/metrics", host, port)
