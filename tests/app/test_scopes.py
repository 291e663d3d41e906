"""What a key may do, for how long, and what is known of it; and that projects know nothing of each other."""

from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker

from app.db import utcnow
from app.keys import service
from app.keys.scopes import DEFAULT_SCOPES, Scope
from tests.app.build import make_job
from tests.app.test_jobs_api import code

Sessions = sessionmaker[Session]
BODY = {"model": "smollm2-135m-instruct"}
NO_EXPIRY = (
    "2020-01-01T00:00:00Z",
    "0001-01-01T00:00:00+12:00",
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-12:00",
)


def key_with(sessions: Sessions, *scopes: Scope, project: str = "default", **options: Any) -> dict[str, str]:
    """The headers of a new key."""
    with sessions.begin() as session:
        _, token = service.create(session, name="test", project=project, scopes=scopes, **options)
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("scope", Scope)
def test_a_key_opens_what_its_scope_says(scope: Scope, anonymous: TestClient, sessions: Sessions) -> None:
    headers = key_with(sessions, scope)
    job_id = make_job(sessions)
    needed = {
        ("GET", "/v1/jobs"): Scope.JOBS_READ,
        ("GET", f"/v1/jobs/{job_id}"): Scope.JOBS_READ,
        ("GET", f"/v1/jobs/{job_id}/events"): Scope.JOBS_READ,
        ("HEAD", f"/v1/jobs/{job_id}/artifacts/a"): Scope.JOBS_READ,
        ("GET", "/v1/methods"): Scope.JOBS_READ,
        ("POST", "/v1/jobs"): Scope.JOBS_WRITE,
        ("POST", f"/v1/jobs/{job_id}/cancel"): Scope.JOBS_WRITE,
        ("GET", "/v1/sweeps"): Scope.JOBS_READ,
        ("POST", "/v1/sweeps"): Scope.JOBS_WRITE,
        ("POST", "/v1/estimates"): Scope.JOBS_WRITE,
        ("GET", f"/v1/jobs/{job_id}/shares"): Scope.JOBS_READ,
        ("DELETE", f"/v1/jobs/{job_id}/shares/share_unknown"): Scope.JOBS_WRITE,
        ("GET", "/v1/workers"): Scope.ADMIN,
        ("GET", "/v1/files"): Scope.JOBS_READ,
        ("HEAD", "/v1/files/file_unknown/content"): Scope.JOBS_READ,
        ("POST", "/v1/files"): Scope.JOBS_WRITE,
        ("DELETE", "/v1/files/file_unknown"): Scope.JOBS_WRITE,
        ("GET", "/v1/keys"): Scope.ADMIN,
        ("POST", "/v1/keys"): Scope.ADMIN,
        ("POST", "/v1/keys/key_unknown/revoke"): Scope.ADMIN,
        ("GET", "/v1/audit"): Scope.ADMIN,
        ("GET", "/v1/webhooks"): Scope.ADMIN,
        ("POST", "/v1/webhooks"): Scope.ADMIN,
        ("PATCH", "/v1/webhooks/whk_unknown"): Scope.ADMIN,
        ("POST", "/v1/webhooks/whk_unknown/secret"): Scope.ADMIN,
        ("GET", "/v1/webhooks/whk_unknown/deliveries"): Scope.ADMIN,
    }
    for (method, path), wanted in needed.items():
        response = anonymous.request(
            method, path, headers=headers, json=BODY if method in ("POST", "PATCH") else None
        )
        if wanted is scope:
            assert response.status_code not in (401, 403), path
        else:
            assert response.status_code == 403, path
            if method != "HEAD":
                assert (code(response), response.json()["scope"]) == ("scope-missing", wanted)


@pytest.mark.parametrize("scope", DEFAULT_SCOPES)
def test_a_link_takes_a_key_that_reads_and_writes(scope: Scope, anonymous: TestClient, sessions: Sessions) -> None:
    path = f"/v1/jobs/{make_job(sessions)}/shares"
    response = anonymous.post(path, json={}, headers=key_with(sessions, scope))
    assert (response.status_code, code(response)) == (403, "scope-missing")
    assert anonymous.post(path, json={}, headers=key_with(sessions, *DEFAULT_SCOPES)).status_code == 201


def test_a_key_that_has_expired_opens_nothing(anonymous: TestClient, sessions: Sessions) -> None:
    soon = key_with(sessions, Scope.JOBS_READ, expires_at=utcnow() + timedelta(minutes=1))
    past = key_with(sessions, Scope.JOBS_READ, expires_at=utcnow() - timedelta(seconds=1))
    assert anonymous.get("/v1/jobs", headers=soon).status_code == 200
    response = anonymous.get("/v1/jobs", headers=past)
    assert (response.status_code, code(response)) == (401, "unauthorized")
    assert "expired" in response.json()["detail"]


def test_keys_are_made_listed_and_ended(anonymous: TestClient, sessions: Sessions) -> None:
    admin = key_with(sessions, Scope.ADMIN)
    made = anonymous.post("/v1/keys", headers=admin, json={"name": "ci", "scopes": ["jobs:read"]})
    assert made.status_code == 201
    key = made.json()
    own = {"Authorization": f"Bearer {key['token']}"}
    assert anonymous.get("/v1/jobs", headers=own).status_code == 200
    assert anonymous.post("/v1/jobs", headers=own, json=BODY).status_code == 403

    listed = anonymous.get("/v1/keys", headers=admin).json()["data"]
    assert [entry["name"] for entry in listed] == ["test", "ci"]
    assert all(entry["last_used_at"] for entry in listed)
    assert key["token"].rpartition("_")[2] not in anonymous.get("/v1/keys", headers=admin).text

    ended = anonymous.post(f"/v1/keys/{key['id']}/revoke", headers=admin)
    assert (ended.status_code, ended.json()["revoked_at"] is not None) == (200, True)
    assert anonymous.get("/v1/jobs", headers=own).status_code == 401
    assert anonymous.post(f"/v1/keys/{key['id']}/revoke", headers=admin).json() == ended.json()
    assert code(anonymous.post("/v1/keys/%00/revoke", headers=admin)) == "key-not-found"


@pytest.mark.parametrize(
    "body",
    [
        {"scopes": []},
        {"scopes": ["jobs:delete"]},
        {"expires_at": "2030-01-01T00:00:00"},
        *({"expires_at": moment} for moment in NO_EXPIRY),
        {"name": "x" * 129},
        {"name": "nul \0"},
        {"project": "another"},
    ],
)
def test_keys_that_cannot_be_made(body: dict[str, Any], anonymous: TestClient, sessions: Sessions) -> None:
    response = anonymous.post("/v1/keys", headers=key_with(sessions, Scope.ADMIN), json=body)
    assert (response.status_code, code(response)) == (422, "invalid-request")


def test_everything_that_was_done_is_noted_once(anonymous: TestClient, sessions: Sessions) -> None:
    headers = key_with(sessions, *Scope)
    job_id = anonymous.post("/v1/jobs", headers=headers | {"Idempotency-Key": "1"}, json=BODY).json()["id"]
    anonymous.post("/v1/jobs", headers=headers | {"Idempotency-Key": "1"}, json=BODY)  # again: nothing is done
    file_id = anonymous.post("/v1/files", headers=headers, files={"file": ("a.txt", b"A")}).json()["id"]
    anonymous.post("/v1/files", headers=headers, files={"file": ("a.txt", b"")})  # refused: nothing is done
    anonymous.delete(f"/v1/files/{file_id}", headers=headers)
    anonymous.post("/v1/jobs", headers=headers, json={"model": "/nowhere"})  # refused: nothing is done
    anonymous.post(f"/v1/jobs/{job_id}/cancel", headers=headers)
    anonymous.post(f"/v1/jobs/{job_id}/cancel", headers=headers)  # refused
    made = anonymous.post("/v1/keys", headers=headers, json={}).json()["id"]
    anonymous.post(f"/v1/keys/{made}/revoke", headers=headers)
    entries = anonymous.get("/v1/audit", headers=headers, params={"limit": 6}).json()
    key_id = next(e["key_id"] for e in entries["data"])
    assert [(e["action"], e["subject"], e["key_id"]) for e in entries["data"]] == [
        ("key.revoked", made, key_id),
        ("key.created", made, key_id),
        ("job.cancelled", job_id, key_id),
        ("file.deleted", file_id, key_id),
        ("file.uploaded", file_id, key_id),
        ("job.submitted", job_id, key_id),
    ]
    assert entries["has_more"]
    rest = anonymous.get("/v1/audit", headers=headers, params={"after": entries["last_id"]}).json()
    assert [(e["action"], e["subject"], e["key_id"]) for e in rest["data"]] == [("key.created", key_id, None)]


def test_a_foreign_key_finds_nothing_anywhere(app: FastAPI, anonymous: TestClient, sessions: Sessions) -> None:
    """Every operation of the API, with the ids of another project, answers as if there were no such thing."""
    own = key_with(sessions, *Scope)
    job_id = anonymous.post("/v1/jobs", headers=own, json=BODY).json()["id"]
    made = anonymous.post("/v1/keys", headers=own, json={}).json()["id"]
    trials = {**BODY, "trials": [{"method": "ria"}, {"method": "wanda"}]}
    sweep_id = anonymous.post("/v1/sweeps", headers=own, json=trials).json()["id"]
    file_id = anonymous.post("/v1/files", headers=own, files={"file": ("a.txt", b"A text.")}).json()["id"]
    webhook_id = anonymous.post("/v1/webhooks", headers=own, json={"url": "https://93.184.215.14/"}).json()["id"]
    message_id = anonymous.post(f"/v1/webhooks/{webhook_id}/ping", headers=own).json()["id"]
    known = {"job_id": job_id, "key_id": made, "file_id": file_id, "name": "model.safetensors", "layer": "q_proj"}
    known |= {"webhook_id": webhook_id, "delivery_id": message_id, "sweep_id": sweep_id}
    known["share_id"] = anonymous.post(f"/v1/jobs/{job_id}/shares", headers=own, json={}).json()["id"]
    foreign = key_with(sessions, *Scope, project="another")
    walked = 0
    for path, operations in app.openapi()["paths"].items():
        for method in operations:
            if "{" not in path:
                continue
            walked += 1
            response = anonymous.request(method, path.format(**known), headers=foreign, json={})
            unknown = {name: f"{value[:-1]}{'0' if value[-1] != '0' else '1'}" for name, value in known.items()}
            nothing = anonymous.request(method, path.format(**unknown), headers=foreign, json={})
            assert response.status_code == 404, (method, path)
            assert response.json() == nothing.json(), "it tells that there is such a thing"
    assert walked >= 10
    for path in ("/v1/jobs", "/v1/sweeps", "/v1/audit", "/v1/files", "/v1/keys", "/v1/webhooks"):
        listed = anonymous.get(path, headers=foreign).json()["data"]
        assert not set(known.values()) & {
            value for entry in listed for value in entry.values() if isinstance(value, str)
        }
    assert anonymous.get(f"/v1/jobs?after={job_id}", headers=foreign).json()["data"] == []
    assert anonymous.get(f"/v1/jobs/{job_id}", headers=own).json()["state"] == "queued"
