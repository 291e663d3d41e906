"""More requests at a time than there are connections and threads."""

import asyncio

import httpx
from sqlalchemy.orm import Session, sessionmaker

from tests.app.build import make_job
from tests.app.conftest import RunningServer

REQUESTS = 400


async def ask(server: RunningServer, path: str) -> list[int]:
    headers = {"Authorization": f"Bearer {server.key}"}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, headers=headers, limits=limits, timeout=60) as api:
        answers = await asyncio.gather(*(api.get(path) for _ in range(REQUESTS)))
    return [answer.status_code for answer in answers]


def test_all_of_them_are_answered(server: RunningServer, sessions: sessionmaker[Session]) -> None:
    job_id = make_job(sessions)
    assert asyncio.run(ask(server, f"/v1/jobs/{job_id}")) == [200] * REQUESTS
