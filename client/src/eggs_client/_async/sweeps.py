"""Sweeps: several trials over one model."""

import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Unpack

from eggs_client._async.jobs import AsyncJobs, shown
from eggs_client._async.transport import AsyncTransport, path
from eggs_client.models import SweepResource, SweepSummary
from eggs_client.requests import SweepCreate

if TYPE_CHECKING:
    from eggs_client.progress import ProgressBar


class AsyncSweeps:
    """`/v1/sweeps`. All of it raises `ApiError` or `Unreachable`."""

    def __init__(self, transport: AsyncTransport, jobs: AsyncJobs) -> None:
        self._transport = transport
        self._jobs = jobs

    async def submit(self, *, idempotency_key: str | None = None, **request: Unpack[SweepCreate]) -> SweepResource:
        """The new sweep. As a job, it is one also where it had to be sent again."""
        return await self._transport.submit(SweepResource, path("sweeps"), request, idempotency_key)

    async def get(self, sweep_id: str) -> SweepResource:
        """The sweep with what has come of its trials so far."""
        return await self._transport.get(SweepResource, path("sweeps", sweep_id))

    def list(self, *, limit: int | None = None) -> AsyncIterator[SweepSummary]:
        """The project's sweeps, newest first."""
        return self._transport.pages(SweepSummary, path("sweeps"), limit=limit)

    async def cancel(self, sweep_id: str) -> SweepResource:
        """The sweep after those of its jobs that had not ended were cancelled, or asked to stop."""
        return await self._transport.post(SweepResource, path("sweeps", sweep_id, "cancel"))

    async def wait(
        self, sweep_id: str, *, timeout: float | None = None, progress: "bool | ProgressBar" = False
    ) -> SweepResource:
        """The sweep after all of its jobs have ended, however they did.

        Raises `WaitedTooLong` after `timeout` seconds, to within some seconds. `progress` shows a bar, or moves
        the one it is given.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        jobs = list(dict.fromkeys(trial.job_id for trial in (await self.get(sweep_id)).trials))
        with shown("Sweep", progress) as bar:
            for done, job_id in enumerate(jobs):
                async for event in self._jobs.follow(job_id, 0, deadline):
                    if event is not None and bar is not None:
                        bar.update((done + event.progress) / len(jobs), event.message)
        return await self.get(sweep_id)
