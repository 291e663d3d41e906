"""A job's events as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from threading import Event

from fastapi.sse import format_sse_event
from sqlalchemy.orm import Session, sessionmaker
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from app.db import DATABASE_DOWN
from app.jobs import service
from app.jobs.schemas import JobEventResource

MEDIA_TYPE = "text/event-stream"
_POLL_SECONDS = 0.5
_KEEP_ALIVE_SECONDS = 15
_BATCH = 200

logger = logging.getLogger(__name__)


def stream(
    readers: sessionmaker[Session], project: str, job_id: str, after: int, stopping: Event
) -> StreamingResponse:
    """Sends the events after number `after` as they come, until the job has ended or the server is stopping."""
    return StreamingResponse(
        _lines(readers, project, job_id, after, stopping),
        media_type=MEDIA_TYPE,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _lines(
    readers: sessionmaker[Session], project: str, job_id: str, after: int, stopping: Event
) -> AsyncIterator[bytes]:
    sent_at = time.monotonic()
    while not stopping.is_set():
        try:
            events, ended = await run_in_threadpool(_read, readers, project, job_id, after)
        except DATABASE_DOWN:
            logger.exception("The event stream of %s is cut short; its reader will resume it", job_id)
            return
        for event in events:
            after = event.id
            yield format_sse_event(id=str(event.id), event=event.type, data_str=event.model_dump_json())
        if ended:
            return
        if events:
            sent_at = time.monotonic()
            continue
        if time.monotonic() - sent_at > _KEEP_ALIVE_SECONDS:
            sent_at = time.monotonic()
            yield format_sse_event(comment="keep-alive")
        await asyncio.sleep(_POLL_SECONDS)


def _read(
    readers: sessionmaker[Session], project: str, job_id: str, after: int
) -> tuple[list[JobEventResource], bool]:
    """The next events, and whether they are the last ones."""
    with readers.begin() as session:
        # The job before its events: whoever sees it ended then sees the event that tells of it.
        job = service.get(session, project, job_id)
        events, more = service.events(session, job, after=after, limit=_BATCH)
        return [JobEventResource.of(event) for event in events], job.state.final and not more
