"""What happens to jobs, noticed once for all who follow one: a query a turn, however many they are."""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from anyio import CapacityLimiter
from sqlalchemy.orm import Session, sessionmaker
from starlette.concurrency import run_in_threadpool

from app.jobs import repository

_TURN_SECONDS = 0.5
_FOLLOWERS_AT_A_TIME = 4

logger = logging.getLogger(__name__)


class Follower:
    """Somebody who has seen the events of a job up to number `after`. `news` is set where there may be more."""

    def __init__(self, job_id: str, after: int) -> None:
        self.job_id = job_id
        self.after = after
        self.news = asyncio.Event()


class Watch:
    """Looks at the jobs that are followed in this process, as long as one is and until `stop`.

    Followers read in `threads`, so many at a time.
    """

    def __init__(self, readers: sessionmaker[Session]) -> None:
        self.stopped = False
        # What happens wakes all who follow a job: hundreds of them would have the threads that requests share.
        self.threads = CapacityLimiter(_FOLLOWERS_AT_A_TIME)
        self._readers = readers
        self._followers: set[Follower] = set()
        self._turns: asyncio.Task[None] | None = None

    @contextmanager
    def follow(self, job_id: str, after: int) -> Iterator[Follower]:
        """Follows a job from `with` to its end, within a running event loop."""
        follower = Follower(job_id, after)
        self._followers.add(follower)
        if self._turns is None or self._turns.done():
            self._turns = asyncio.create_task(self._look())
        try:
            yield follower
        finally:
            self._followers.discard(follower)

    def stop(self) -> None:
        """Wakes all who follow a job, for them to end; within the running event loop."""
        self.stopped = True
        for follower in self._followers:
            follower.news.set()

    async def _look(self) -> None:
        while self._followers:
            await asyncio.sleep(_TURN_SECONDS)
            last: Mapping[str, int] = {}
            try:
                last = await run_in_threadpool(self._read, {follower.job_id for follower in self._followers})
            except Exception:
                logger.warning("Jobs cannot be looked at; who follows one looks by itself", exc_info=True)
            for follower in self._followers:
                if last.get(follower.job_id, follower.after + 1) > follower.after:
                    follower.news.set()

    def _read(self, job_ids: set[str]) -> Mapping[str, int]:
        with self._readers.begin() as session:
            return repository.last_sequences(session, job_ids)
