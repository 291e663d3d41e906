"""Links to one job: what they open, that they open nothing else, and how they end."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from app.db import utcnow
from app.examples import REPORT
from app.jobs import leases
from app.keys import service as keys
from app.keys.scopes import Scope
from app.settings import Settings
from app.shares.models import ShareLink
from app.shares.service import COOKIE
from tests.app.build import make_job
from tests.app.test_artifacts_api import CONTENT, SHA256
from tests.app.test_jobs_api import code
from tests.app.test_leases import must_claim
from tests.app.test_scopes import NO_EXPIRY, key_with

Sessions = sessionmaker[Session]
READABLE = ("", "/events", "/report", "/lineage", "/artifacts", "/artifacts/model.safetensors", "/masks")


@dataclass(frozen=True)
class Shared:
    job_id: str
    owner: dict[str, str]
    link: dict[str, Any]

    @property
    def path(self) -> str:
        return f"/v1/jobs/{self.job_id}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.link['token']}"}


@pytest.fixture
def shared(anonymous: TestClient, settings: Settings, sessions: Sessions) -> Shared:
    """A job that has succeeded, and a link to it."""
    job_id = make_job(sessions)
    (settings.artifacts_dir / "place").mkdir(parents=True)
    (settings.artifacts_dir / "place" / "model.safetensors").write_bytes(CONTENT)
    lease = must_claim(sessions, job_id)
    files = [leases.NewArtifact("model.safetensors", len(CONTENT), SHA256)]
    with sessions.begin() as session:
        leases.succeed(session, lease, report=REPORT, artifacts=files, artifacts_dir="place")
    owner = key_with(sessions, *Scope)
    made = anonymous.post(f"/v1/jobs/{job_id}/shares", headers=owner, json={})
    assert made.status_code == 201, made.text
    return Shared(job_id, owner, made.json())


def test_a_link_opens_one_job(anonymous: TestClient, shared: Shared) -> None:
    assert shared.link["url"] == f"/shared#{shared.link['token']}"
    for below in READABLE:
        answer = anonymous.get(shared.path + below, headers=shared.headers)
        assert answer.status_code == 200, (below, answer.text)
    assert answer.json()["data"] == []
    assert anonymous.get(shared.path, headers=shared.headers).json()["id"] == shared.job_id
    assert anonymous.head(f"{shared.path}/artifacts/model.safetensors", headers=shared.headers).status_code == 200


def test_a_link_opens_nothing_else(
    app: FastAPI, anonymous: TestClient, shared: Shared, sessions: Sessions
) -> None:
    """Every operation of the API, on that job and on another one of the same project."""
    other = make_job(sessions)
    opened = set()
    for path, operations in app.openapi()["paths"].items():
        for method in operations:
            for job_id in (shared.job_id, other):
                known = defaultdict(
                    lambda: "x", job_id=job_id, name="model.safetensors", share_id=shared.link["id"]
                )
                url = path.format_map(known)
                answer = anonymous.request(method, url, headers=shared.headers, json={})
                if path.startswith("/v1") and answer.status_code != 403:
                    opened.add((method, path, job_id))
                elif path.startswith("/v1"):
                    assert code(answer) == "link-opens-one-job"
    below = {"", "/events", "/report", "/lineage", "/artifacts", "/artifacts/{name}", "/masks", "/masks/{layer}"}
    own = {("get", f"/v1/jobs/{{job_id}}{part}", shared.job_id) for part in below}
    assert opened == own | {("post", "/v1/shared", job_id) for job_id in (shared.job_id, other)}
    for path in (
        f"{shared.path}/",
        f"{shared.path}x",
        f"{shared.path}/events/x",
        f"{shared.path}/shares/artifacts/",
    ):
        assert anonymous.get(path, headers=shared.headers).status_code == 403, path


def test_a_page_gets_a_cookie_for_the_jobs_paths(
    anonymous: TestClient, shared: Shared, sessions: Sessions
) -> None:
    opened = anonymous.post("/v1/shared", headers=shared.headers)
    assert (opened.status_code, opened.json()["job_id"]) == (200, shared.job_id)
    assert "token" not in opened.json()
    (cookie,) = opened.headers.get_list("set-cookie")
    attributes = set(cookie.split("; ")[1:])
    assert {"HttpOnly", f"Path={shared.path}", "SameSite=strict"} < attributes
    assert any(attribute.startswith("expires=") for attribute in attributes)
    for below in READABLE:
        assert anonymous.get(shared.path + below).status_code == 200, below
    for method, path in (("GET", "/v1/jobs"), ("POST", f"{shared.path}/cancel"), ("GET", f"{shared.path}/shares")):
        sent = {"Cookie": f"{COOKIE}={shared.link['token']}", "X-Eggs-Session": "1"}
        assert anonymous.request(method, path, headers=sent).status_code == 401, path


def test_who_is_signed_in_loses_nothing(anonymous: TestClient, shared: Shared, sessions: Sessions) -> None:
    """In the job's own project the session counts, and in another one the link, on what it opens."""
    same_page = {"X-Eggs-Session": "1"}
    anonymous.post("/v1/shared", headers=shared.headers)
    anonymous.post("/v1/session", headers=key_with(sessions, *Scope, project="another"))
    assert anonymous.get(shared.path).status_code == 200
    assert anonymous.get(f"{shared.path}/shares").status_code == 404
    anonymous.delete("/v1/session", headers=same_page)
    anonymous.post("/v1/session", headers=shared.owner)
    assert anonymous.get(f"{shared.path}/shares").status_code == 200
    assert code(anonymous.post(f"{shared.path}/cancel", headers=same_page)) == "job-already-finished"
    anonymous.post(f"/v1/keys/{anonymous.get('/v1/session').json()['key_id']}/revoke", headers=same_page)
    assert anonymous.get(shared.path).status_code == 401, "the link has ended with the key that made it"


@pytest.mark.parametrize("end", ["deleted", "expired", "key"])
def test_a_link_ends(anonymous: TestClient, shared: Shared, sessions: Sessions, end: str) -> None:
    assert anonymous.get(shared.path, headers=shared.headers).status_code == 200
    path = f"{shared.path}/shares"
    if end == "deleted":
        assert anonymous.delete(f"{path}/{shared.link['id']}", headers=shared.owner).json()["deleted"]
        assert code(anonymous.delete(f"{path}/{shared.link['id']}", headers=shared.owner)) == "share-not-found"
        assert code(anonymous.delete(f"{path}/%00", headers=shared.owner)) == "share-not-found"
        assert anonymous.get(path, headers=shared.owner).json()["data"] == []
    elif end == "expired":
        with sessions.begin() as session:
            session.execute(update(ShareLink).values(expires_at=utcnow() - timedelta(seconds=1)))
        anonymous.post(path, headers=shared.owner, json={})
        listed = anonymous.get(path, headers=shared.owner).json()["data"]
        assert shared.link["id"] not in [link["id"] for link in listed], "it was removed when another one was made"
    else:
        with sessions.begin() as session:
            keys.revoke(session, session.scalars(select(ShareLink.key_id)).one())
    for sent in (shared.headers, {"Cookie": f"{COOKIE}={shared.link['token']}"}):
        answer = anonymous.get(shared.path, headers=sent)
        assert (answer.status_code, code(answer)) == (401, "unauthorized")


@pytest.mark.parametrize("moment", NO_EXPIRY)
def test_a_link_ends_some_day_that_is_to_come(anonymous: TestClient, shared: Shared, moment: str) -> None:
    answer = anonymous.post(f"{shared.path}/shares", headers=shared.owner, json={"expires_at": moment})
    assert (answer.status_code, code(answer)) == (422, "invalid-request")


def test_what_is_stored_opens_nothing(anonymous: TestClient, shared: Shared, sessions: Sessions) -> None:
    token = shared.link["token"]
    with sessions() as session:
        row = session.execute(select(ShareLink.__table__)).mappings().one()
    assert not any(token.rpartition("_")[2] in str(value) for value in row.values())
    wrong = (
        row["token_hash"],
        f"{token}0",
        token[:-1],
        "eggs_share_",
        f"eggs_share_{row['token_hash']}",
        f"{token}é",
    )
    for value in wrong:
        sent = {b"Authorization": f"Bearer {value}".encode("latin-1")}
        assert anonymous.get(shared.path, headers=sent).status_code == 401, value


def test_making_and_ending_is_noted(anonymous: TestClient, shared: Shared) -> None:
    anonymous.delete(f"{shared.path}/shares/{shared.link['id']}", headers=shared.owner)
    entries = anonymous.get("/v1/audit", headers=shared.owner).json()["data"]
    assert [(e["action"], e["subject"]) for e in entries[:2]] == [
        ("share.deleted", shared.link["id"]),
        ("share.created", shared.link["id"]),
    ]


def test_a_key_has_no_link(client: TestClient) -> None:
    answer = client.post("/v1/shared")
    assert (answer.status_code, code(answer)) == (404, "share-not-found")
