"""A job's events as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial

from anyio import to_thread
from fastapi.sse import format_sse_event
from sqlalchemy.orm import Session, sessionmaker
from starlette.responses import StreamingResponse

from app.db import DATABASE_DOWN
from app.jobs import service
from app.jobs.schemas import JobEventResource
from app.jobs.watch import Watch
from app.problems import Problem

MEDIA_TYPE = "text/event-stream"
_KEEP_ALIVE_SECONDS = 15
_BATCH = 200

logger = logging.getLogger(__name__)


def stream(
    readers: sessionmaker[Session],
    watch: Watch,
    authenticate: Callable[[], object],
    project: str,
    job_id: str,
    after: int,
) -> StreamingResponse:
    """Sends the events after number `after` as they come, until the job has ended or the server is stopping, or
    `authenticate` raises a `Problem`: the reader's key, session or link is over."""
    return StreamingResponse(
        _lines(readers, watch, authenticate, project, job_id, after),
        media_type=MEDIA_TYPE,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _lines(
    readers: sessionmaker[Session],
    watch: Watch,
    authenticate: Callable[[], object],
    project: str,
    job_id: str,
    after: int,
) -> AsyncIterator[bytes]:
    with watch.follow(job_id, after) as follower:
        follower.news.set()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_KEEP_ALIVE_SECONDS):
                    await follower.news.wait()
            if watch.stopped:
                return
            news = follower.news.is_set()
            follower.news.clear()
            try:
                await to_thread.run_sync(authenticate, limiter=watch.threads)
                if not news:
                    yield format_sse_event(comment="keep-alive")
                    continue
                read = partial(_read, readers, project, job_id, follower.after)
                events, more, ended = await to_thread.run_sync(read, limiter=watch.threads)
            except Problem:
                return
            except DATABASE_DOWN:
                logger.exception("The event stream of %s is cut short; its reader will resume it", job_id)
                return
            for event in events:
                follower.after = event.id
                yield format_sse_event(id=str(event.id), event=event.type, data_str=event.model_dump_json())
            if more:
                follower.news.set()
            elif ended:
                return


def _read(
    readers: sessionmaker[Session], project: str, job_id: str, after: int
) -> tuple[list[JobEventResource], bool, bool]:
    """The next events, whether there are more, and whether the job has ended."""
    with readers.begin() as session:
        job = service.get(session, project, job_id)
        found, more = service.events(session, job, after=after, limit=_BATCH)
        events = [JobEventResource.of(event) for event in found]
        # It may have ended between the two, and nothing follows that would bring the reader here again.
        return events, more, job.state.final or any(event.state.final for event in events)
