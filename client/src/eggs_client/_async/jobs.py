"""Jobs, and what belongs to them."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import httpx
from httpx_sse import EventSource, SSEError
from pydantic import PrivateAttr

from eggs_client._async.transport import AsyncTransport, path, understood
from eggs_client.errors import ApiError, JobCancelled, JobFailed, NoFiles, WaitedTooLong
from eggs_client.local_files import check_free, place
from eggs_client.models import (
    ArtifactResource,
    JobEventResource,
    JobResource,
    JobState,
    Report,
)
from eggs_client.requests import JobCreate
from eggs_client.waiting import async_sleep

if TYPE_CHECKING:
    from eggs_client.progress import ProgressBar

ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class AsyncJob(JobResource):
    """A job as it stood when it was asked for, and what can be done with it."""

    _jobs: "AsyncJobs" = PrivateAttr()

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state in ENDED

    async def refresh(self) -> "AsyncJob":
        """The job as it stands now."""
        return await self._jobs.get(self.id)

    async def cancel(self) -> "AsyncJob":
        """See `AsyncJobs.cancel`."""
        return await self._jobs.cancel(self.id)

    def events(self, *, after: int = 0) -> AsyncIterator[JobEventResource]:
        """See `AsyncJobs.events`."""
        return self._jobs.events(self.id, after=after)

    async def wait(
        self,
        *,
        timeout: float | None = None,
        progress: "bool | ProgressBar" = False,
    ) -> "AsyncJob":
        """See `AsyncJobs.wait`."""
        return await self._jobs.wait(self.id, timeout=timeout, progress=progress)

    async def report(self) -> Report:
        """See `AsyncJobs.report`."""
        return await self._jobs.report(self.id)

    async def artifacts(self) -> Sequence[ArtifactResource]:
        """See `AsyncJobs.artifacts`."""
        return await self._jobs.artifacts(self.id)

    async def download(self, folder: str | Path, *, progress: "bool | ProgressBar" = False) -> Sequence[Path]:
        """See `AsyncJobs.download`."""
        return await self._jobs.download(self.id, folder, progress=progress)


class AsyncJobs:
    """`/v1/jobs`. All of it raises `ApiError` or `Unreachable`."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def submit(self, *, idempotency_key: str | None = None, **request: Unpack[JobCreate]) -> AsyncJob:
        """The new job. Tried again after a lost connection, it is still one job.

        With an `idempotency_key` of your own it is one job even if your program is started again.
        """
        return self._own(await self._transport.submit(AsyncJob, path("jobs"), request, idempotency_key))

    async def get(self, job_id: str) -> AsyncJob:
        """The job as it stands."""
        return self._own(await self._transport.get(AsyncJob, path("jobs", job_id)))

    async def list(self, *, state: str | None = None, limit: int | None = None) -> AsyncIterator[AsyncJob]:
        """The project's jobs, newest first."""
        async for job in self._transport.pages(AsyncJob, path("jobs"), limit=limit, state=state):
            yield self._own(job)

    async def cancel(self, job_id: str) -> AsyncJob:
        """The job after it was cancelled, or asked to stop."""
        return self._own(await self._transport.post(AsyncJob, path("jobs", job_id, "cancel")))

    async def report(self, job_id: str) -> Report:
        """The report of a job that succeeded. Raises `Conflict` before."""
        return await self._transport.get(Report, path("jobs", job_id, "report"))

    async def artifacts(self, job_id: str) -> Sequence[ArtifactResource]:
        """The files of a job; none before it has succeeded."""
        return [
            artifact
            async for artifact in self._transport.pages(ArtifactResource, path("jobs", job_id, "artifacts"))
        ]

    async def events(self, job_id: str, *, after: int = 0) -> AsyncIterator[JobEventResource]:
        """The events after number `after` as they come, until the job ends.

        A stream that breaks off is resumed where it was.
        """
        async for event in self.follow(job_id, after, None):
            if event is not None:
                yield event

    async def wait(
        self,
        job_id: str,
        *,
        timeout: float | None = None,
        progress: "bool | ProgressBar" = False,
    ) -> AsyncJob:
        """The job after it has succeeded; raises `JobFailed` or `JobCancelled` where it does not.

        Raises `WaitedTooLong` after `timeout` seconds, to within some seconds. `progress` shows a bar, or moves
        the one it is given.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with shown("Job", progress) as bar:
            async for event in self.follow(job_id, 0, deadline):
                if event is not None and bar is not None:
                    bar.update(event.progress, event.message)
        job = await self.get(job_id)
        if job.state == JobState.FAILED:
            raise JobFailed(job.error or {})
        if job.state == JobState.CANCELLED:
            raise JobCancelled
        return job

    async def download(
        self, job_id: str, folder: str | Path, *, progress: "bool | ProgressBar" = False
    ) -> Sequence[Path]:
        """Downloads a job's files into a folder and verifies each; run again, it goes on where it broke off.

        The folder may hold nothing else. Raises `NoFiles`, `OutputExists`, `Damaged` or `UnsafeName`.
        """
        artifacts = await self.artifacts(job_id)
        if not artifacts:
            raise NoFiles((await self.get(job_id)).state)
        check_free(Path(folder), {artifact.name for artifact in artifacts})
        total = sum(artifact.bytes for artifact in artifacts) or 1
        done = 0
        paths = []
        with shown("Download", progress) as bar:
            for artifact in artifacts:

                def show(there: int, name: str = artifact.name, before: int = done) -> None:
                    if bar is not None:
                        bar.update((before + there) / total, name)

                paths.append(await self.download_artifact(artifact, folder, on_bytes=show))
                done += artifact.bytes
        return paths

    async def download_artifact(
        self,
        artifact: ArtifactResource,
        folder: str | Path,
        *,
        on_bytes: Callable[[int], None] = lambda count: None,
    ) -> Path:
        """Downloads one file, as `download` does all of them.

        `on_bytes` is called with the bytes of it that are there, each time there are more.
        """
        return await self._transport.download(
            artifact.url,
            place(Path(folder), artifact.name),
            total=artifact.bytes,
            checksum=artifact.sha256,
            on_bytes=on_bytes,
        )

    async def follow(
        self, job_id: str, after: int, deadline: float | None
    ) -> AsyncIterator[JobEventResource | None]:
        """The events, and None for each sign of life between them.

        Raises `WaitedTooLong` after the deadline, in seconds of `time.monotonic`.
        """
        ended = False
        patience = self._transport.patience()
        while not ended:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
            try:
                url = path("jobs", job_id, "events")
                async with self._transport.stream(url, headers, timeout=self._silence(deadline)) as response:
                    async for message in EventSource(response).aiter_sse():
                        patience.renew()
                        _check_time(deadline)
                        if not message.data:
                            yield None  # a keep-alive comment: httpx-sse makes an empty message of it
                            continue
                        event = understood(JobEventResource, response, message.data)
                        after, ended = event.id, event.state in ENDED
                        yield event
                # The service ends a stream with the job, or because it stops.
                ended = ended or await self._nothing_follows(job_id, after)
                if not ended:
                    raise httpx.RemoteProtocolError("The stream has ended before the job.")
            except (httpx.TransportError, SSEError, ApiError) as error:
                _check_time(deadline)
                if isinstance(error, SSEError):
                    error = httpx.RemoteProtocolError(str(error))
                await async_sleep(patience.pause(error, repeatable=True))

    async def _nothing_follows(self, job_id: str, after: int) -> bool:
        """Whether the job has ended, and has no event after this one."""
        if not (await self.get(job_id)).ended:
            return False
        url = path("jobs", job_id, "events")
        left = self._transport.pages(JobEventResource, url, after=str(after), limit=1)
        return not [event async for event in left]

    def _silence(self, deadline: float | None) -> httpx.Timeout | None:
        """How long the stream may be silent, where that is less than usual."""
        if deadline is None:
            return None
        left = max(deadline - time.monotonic(), 0.1)
        usual = self._transport.http.timeout.read
        return self._transport.patient(left if usual is None else min(usual, left))

    def _own(self, job: AsyncJob) -> AsyncJob:
        job._jobs = self
        return job


def shown(title: str, progress: "bool | ProgressBar") -> Any:
    """A context with the bar, if there is to be one."""
    if progress is False:
        return nullcontext()
    if progress is not True:
        return progress
    from eggs_client.progress import ProgressBar

    return ProgressBar(title)


def _check_time(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() > deadline:
        raise WaitedTooLong
