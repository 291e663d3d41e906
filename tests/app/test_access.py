"""Keys: nothing under /v1 without one, and what is stored does not let anyone in."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from app.db import utcnow
from app.keys import service
from app.keys.models import ApiKey
from app.server import prepare_database
from app.settings import Settings
from tests.app.build import make_key
from tests.app.test_jobs_api import code

Sessions = sessionmaker[Session]


def test_nothing_under_v1_without_a_key(app: FastAPI, anonymous: TestClient) -> None:
    operations = [(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods]
    protected = [(method, path) for method, path in operations if path.startswith("/v1")]
    assert len(protected) >= 10
    unknown = [
        ("GET", "/v1"),
        ("GET", "/v1/"),
        ("GET", "/v1/nowhere"),
        ("DELETE", "/v1/jobs"),
        ("GET", "/v1/docs"),
    ]
    for method, path in protected + unknown:
        response = anonymous.request(method, path, follow_redirects=False)
        assert (response.status_code, code(response)) == (401, "unauthorized"), path
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert "eggs keys create" in response.json()["detail"]


def test_probes_need_no_key(app: FastAPI, anonymous: TestClient) -> None:
    assert {path for path in app.openapi()["paths"] if not path.startswith("/v1/")} == {"/healthz", "/readyz"}
    assert anonymous.get("/healthz").json() == {"status": "ok"}


def test_what_does_not_open(anonymous: TestClient, sessions: Sessions) -> None:
    key_id, token = make_key(sessions)
    other = make_key(sessions)[1]
    mixed = f"{token.rpartition('_')[0]}_{other.rpartition('_')[2]}"
    for value in (
        token,
        f"Basic {token}",
        "Bearer",
        "Bearer ",
        "Bearer eggs_",
        f"Bearer {token}0",
        f"Bearer {token[:-1]}",
        f"Bearer {token.upper()}",
        f"Bearer {key_id}",
        f"Bearer {mixed}",
        "Bearer eggs_\xe9_x",
    ):
        response = anonymous.get("/v1/jobs", headers={b"Authorization": value.encode("latin-1")})
        assert (response.status_code, code(response)) == (401, "unauthorized"), value
    for value in (f"Bearer {token}", f"bearer  {token} "):
        assert anonymous.get("/v1/jobs", headers={"Authorization": value}).status_code == 200, value


def test_a_revoked_key_opens_nothing(client: TestClient, sessions: Sessions) -> None:
    assert client.get("/v1/jobs").status_code == 200
    with sessions.begin() as session:
        (key,) = service.all_keys(session)
        service.revoke(session, key.id)
        first = key.revoked_at
        service.revoke(session, key.id)
        assert key.revoked_at == first
    assert client.get("/v1/jobs").status_code == 401
    with pytest.raises(service.NoSuchKey), sessions.begin() as session:
        service.revoke(session, "key_unknown")


def test_the_key_itself_is_stored_nowhere(sessions: Sessions) -> None:
    _, token = make_key(sessions)
    with sessions() as session:
        row = session.execute(select(ApiKey.__table__)).mappings().one()
    assert not any(token.rpartition("_")[2] in str(value) for value in row.values())


def test_the_first_key_is_made_once(sessions: Sessions) -> None:
    with sessions.begin() as session:
        first = service.create_first(session)
        assert first is not None
        assert service.create_first(session) is None
        assert service.authenticate(session, first) is not None


def test_of_several_that_start_at_once_one_makes_the_first_key(sessions: Sessions, settings: Settings) -> None:
    together = Barrier(4)

    def prepare(_: int) -> str | None:
        together.wait()
        return prepare_database(settings)

    with ThreadPoolExecutor(4) as pool:
        assert sum(key is not None for key in pool.map(prepare, range(4))) == 1


def test_use_is_noted_at_most_once_a_minute(client: TestClient, sessions: Sessions) -> None:
    key_id, token = make_key(sessions)

    def used_at() -> object:
        assert client.get("/v1/jobs", headers={"Authorization": f"Bearer {token}"}).status_code == 200
        with sessions() as session:
            return session.execute(select(ApiKey.last_used_at).where(ApiKey.id == key_id)).scalar_one()

    first = used_at()
    assert first is not None
    assert used_at() == first
    earlier = utcnow() - timedelta(minutes=2)
    with sessions.begin() as session:
        session.execute(update(ApiKey).values(last_used_at=earlier))
    again = used_at()
    assert again not in (first, earlier)
