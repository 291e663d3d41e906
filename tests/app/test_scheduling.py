"""Whose turn it is: keys take turns, priorities order a key's own jobs, and limits hold."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker

from app.jobs import leases, service
from app.jobs.schemas import JobCreate
from app.main import create_app
from app.settings import Settings
from tests.app.build import make_key
from tests.app.conftest import RunningServer

Sessions = sessionmaker[Session]
BODY = {"model": "smollm2-135m-instruct"}


def submit(sessions: Sessions, key_id: str, count: int = 1, priority: int = 0) -> list[str]:
    body = JobCreate.model_validate({"model": "smollm2-135m-instruct", "priority": priority})
    with sessions.begin() as session:
        return [service.create(session, project="default", key_id=key_id, body=body).id for _ in range(count)]


def take(sessions: Sessions, most_running: int | None = None, lease_seconds: float = 60) -> str | None:
    """Claims the job whose turn it is."""
    with sessions.begin() as session:
        job_id = leases.next_job(session, most_running=most_running)
        if job_id is not None:
            assert leases.claim(session, job_id, lease_seconds, max_attempts=3, most_running=most_running)
        return job_id


def finish(sessions: Sessions, job_id: str) -> None:
    with sessions.begin() as session:
        service.cancel(session, "default", job_id)
        lease = leases.Lease(job_id, service.get(session, "default", job_id).lease_token or "", 1, None)  # type: ignore[arg-type]
        leases.confirm_cancelled(session, lease)


def test_a_thousand_jobs_of_one_key_do_not_starve_another(sessions: Sessions) -> None:
    (busy, _), (modest, _) = make_key(sessions), make_key(sessions)
    many = submit(sessions, busy, count=1000)
    first = take(sessions)
    assert first == many[0]
    finish(sessions, many[0])
    (one,) = submit(sessions, modest)
    assert take(sessions) == one, "it was served longest ago: never"
    assert take(sessions) == many[1]


def test_keys_take_turns(sessions: Sessions) -> None:
    keys = [make_key(sessions)[0] for _ in range(3)]
    jobs = [submit(sessions, key, count=3) for key in keys]
    taken = []
    for _ in range(9):
        job_id = take(sessions)
        assert job_id is not None
        taken.append(job_id)
        finish(sessions, job_id)
    assert taken == [jobs[key][turn] for turn in range(3) for key in range(3)]


def test_the_key_with_the_fewest_running_jobs_comes_first(sessions: Sessions) -> None:
    (busy, _), (modest, _) = make_key(sessions), make_key(sessions)
    of_busy, of_modest = submit(sessions, busy, count=3), submit(sessions, modest, count=3)
    assert [take(sessions) for _ in range(2)] == [of_busy[0], of_modest[0]]
    finish(sessions, of_modest[0])
    assert take(sessions) == of_modest[1], "although it was served last"


def test_priorities_order_the_jobs_of_one_key_and_of_no_other(sessions: Sessions) -> None:
    (one, _), (other, _) = make_key(sessions), make_key(sessions)
    (low,) = submit(sessions, one, priority=-5)
    (middle,) = submit(sessions, one)
    (high,) = submit(sessions, one, priority=5)
    (others,) = submit(sessions, other, priority=-100)
    assert [take(sessions) for _ in range(5)] == [high, others, middle, low, None]


def test_a_key_with_as_many_running_jobs_as_it_may_have_waits(sessions: Sessions) -> None:
    key, _ = make_key(sessions)
    jobs = submit(sessions, key, count=3)
    assert [take(sessions, most_running=2) for _ in range(3)] == [jobs[0], jobs[1], None]
    finish(sessions, jobs[0])
    assert take(sessions, most_running=2) == jobs[2]


def test_what_a_lost_worker_left_does_not_wait_for_the_limit(sessions: Sessions) -> None:
    key, _ = make_key(sessions)
    (lost, waiting) = submit(sessions, key, count=2)
    assert take(sessions, most_running=1, lease_seconds=-1) == lost
    assert take(sessions, most_running=1) == lost
    assert take(sessions, most_running=1) is None
    finish(sessions, lost)
    assert take(sessions, most_running=1) == waiting


@pytest.mark.parametrize(("own", "installation"), [(None, 3), (3, None), (3, 4), (4, 3)])
def test_workers_at_once_start_no_more_jobs_of_a_key_than_may_run(
    own: int | None, installation: int | None, sessions: Sessions
) -> None:
    key, _ = make_key(sessions) if own is None else make_key(sessions, running_jobs=own)
    lost, *jobs = submit(sessions, key, count=16)
    assert take(sessions, lease_seconds=-1) == lost
    start = Barrier(len(jobs))

    def claim(job_id: str) -> bool:
        with sessions.begin() as session:
            lease = leases.claim(session, job_id, 60, max_attempts=3, most_running=installation)
            return lease is not None

    def worker(job_id: str) -> bool:
        start.wait()
        return claim(job_id)

    with ThreadPoolExecutor(len(jobs)) as pool:
        started = list(pool.map(worker, jobs))
    assert sum(started) == 2, "as many as may run, with the one that was lost"
    assert claim(lost), "it counts already"
    finish(sessions, lost)
    waiting = [job_id for job_id, taken in zip(jobs, started, strict=True) if not taken]
    assert [claim(job_id) for job_id in waiting[:2]] == [True, False]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_more_waiting_jobs_than_a_key_may_have_are_refused(sessions: Sessions, settings: Settings) -> None:
    settings.max_queued_per_key = 2
    (_, token), (_, others) = make_key(sessions), make_key(sessions)
    headers = {"Authorization": f"Bearer {token}"}
    with TestClient(create_app(settings), headers=headers) as client:
        made = [client.post("/v1/jobs", json=BODY, headers={"Idempotency-Key": str(i)}) for i in range(2)]
        assert [answer.status_code for answer in made] == [201, 201]
        refused = client.post("/v1/jobs", json=BODY)
        assert refused.status_code == 429
        problem = refused.json()
        assert (problem["type"], problem["limit"]) == ("urn:eggs:problem:too-many-queued-jobs", 2)
        assert refused.headers["Retry-After"]
        again = client.post("/v1/jobs", json=BODY, headers={"Idempotency-Key": "1"})
        assert (again.status_code, again.json()["id"]) == (201, made[1].json()["id"]), "nothing new"
        assert client.post("/v1/jobs", json=BODY, headers={"Authorization": f"Bearer {others}"}).status_code == 201
        assert client.post(f"/v1/jobs/{made[0].json()['id']}/cancel").status_code == 200
        assert client.post("/v1/jobs", json=BODY).status_code == 201


@pytest.mark.parametrize(
    ("path", "body", "jobs"),
    [("/v1/jobs", BODY, 1), ("/v1/sweeps", {**BODY, "trials": [{"pattern": "2:4"}, {"pattern": "4:8"}]}, 2)],
)
def test_requests_at_once_make_no_more_jobs_than_may_wait(
    path: str, body: dict[str, Any], jobs: int, server: RunningServer, settings: Settings
) -> None:
    settings.max_queued_per_key = 7
    together = Barrier(20)

    def post(_: int) -> httpx.Response:
        with server.client() as client:
            client.get("/healthz").raise_for_status()  # connects
            together.wait(20)
            return client.post(path, json=body)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(post, range(20)))
    assert Counter(answer.status_code for answer in answers) == {201: 7 // jobs, 429: 20 - 7 // jobs}
    with server.client() as client:
        assert len(client.get("/v1/jobs").json()["data"]) == 7 // jobs * jobs
