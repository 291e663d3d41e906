"""Which workers there are: what each project may see of them, and when one is lost or forgotten."""

from datetime import timedelta

from fastapi.testclient import TestClient
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from app.db import utcnow
from app.ids import new_id
from app.keys.scopes import Scope
from app.settings import Settings
from app.workers import service
from app.workers.models import Worker
from tests.app.build import make_job
from tests.app.test_scopes import key_with

Sessions = sessionmaker[Session]


def make_worker(sessions: Sessions, job_id: str | None = None, **fields: object) -> str:
    """The id of a worker that has just been heard of."""
    known: dict[str, object] = {
        "id": new_id("worker"),
        "hostname": "gpu-3",
        "pid": 4711,
        "version": "0.1.0",
        "cpus": 16,
        "memory_bytes": 2**37,
        "gpus": "A GPU\nAnother",
        "gpu_memory_bytes": 2**36,
        "started_at": utcnow(),
    }
    known |= fields
    with sessions.begin() as session:
        service.beat(session, Worker(job_id=job_id, **known))
    return str(known["id"])


def test_a_project_sees_every_worker_and_its_own_jobs_alone(anonymous: TestClient, sessions: Sessions) -> None:
    jobs = {project: make_job(sessions, project) for project in ("default", "another")}
    workers = [make_worker(sessions, job_id) for job_id in (None, *jobs.values())]
    for project, own in jobs.items():
        answer = anonymous.get("/v1/workers", headers=key_with(sessions, Scope.ADMIN, project=project))
        found = answer.json()["data"]
        assert [worker["id"] for worker in found] == workers
        at = [own if job == own else None for job in (None, *jobs.values())]
        assert [worker["job_id"] for worker in found] == at
        assert [worker["state"] for worker in found] == ["busy" if job else "online" for job in at]
        assert found[0]["gpus"] == ["A GPU", "Another"]


def test_no_project_can_tell_whether_a_worker_is_at_anothers_job(
    anonymous: TestClient, sessions: Sessions
) -> None:
    headers = key_with(sessions, Scope.ADMIN)
    started_at = utcnow()
    worker_id = make_worker(sessions, started_at=started_at)
    before = anonymous.get("/v1/workers", headers=headers).json()
    make_worker(sessions, make_job(sessions, "another"), id=worker_id, started_at=started_at)
    assert anonymous.get("/v1/workers", headers=headers).json() == before


def test_a_worker_is_lost_and_forgotten(anonymous: TestClient, sessions: Sessions, settings: Settings) -> None:
    headers = key_with(sessions, Scope.ADMIN)
    first, second, third = (make_worker(sessions) for _ in range(3))

    def states() -> list[str]:
        return [worker["state"] for worker in anonymous.get("/v1/workers", headers=headers).json()["data"]]

    def silent_for(worker_id: str, seconds: float) -> None:
        with sessions.begin() as session:
            past = utcnow() - timedelta(seconds=seconds)
            session.execute(update(Worker).where(Worker.id == worker_id).values(last_seen_at=past))

    silent_for(first, settings.lease_seconds + 1)
    silent_for(second, 1800)
    assert states() == ["lost", "lost", "online"]
    silent_for(second, 7200)  # which the application's own sweeper may find as well
    service.sweep(sessions)
    assert states() == ["lost", "online"]
    with sessions.begin() as session:
        service.leave(session, third)
    assert states() == ["lost"]
