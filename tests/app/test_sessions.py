"""Sessions: what a browser gets for a key, what it opens, how it ends, and what other sites can do with it."""

from datetime import timedelta

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker

from app.db import utcnow
from app.keys import service as keys
from app.keys.models import ApiKey
from app.keys.scopes import Scope
from app.sessions.models import BrowserSession
from app.sessions.service import COOKIE, CSRF_HEADER
from tests.app.conftest import RunningServer
from tests.app.test_jobs_api import code
from tests.app.test_scopes import key_with

Sessions = sessionmaker[Session]
BODY = {"model": "smollm2-135m-instruct"}
SAME_PAGE = {CSRF_HEADER: "1"}


@pytest.fixture
def browser(anonymous: TestClient, sessions: Sessions) -> TestClient:
    """A client that has exchanged a key, and keeps nothing but the cookie."""
    signed_in = anonymous.post("/v1/session", headers=key_with(sessions, *Scope))
    assert signed_in.status_code == 201, signed_in.text
    assert list(anonymous.cookies) == [COOKIE]
    return anonymous


def test_a_key_is_exchanged_for_a_cookie(anonymous: TestClient, sessions: Sessions) -> None:
    headers = key_with(sessions, Scope.JOBS_READ)
    answer = anonymous.post("/v1/session", headers=headers)
    assert answer.status_code == 201
    (cookie,) = answer.headers.get_list("set-cookie")
    name_and_value, *attributes = cookie.split("; ")
    assert name_and_value.startswith(f"{COOKIE}=")
    assert set(attributes) == {"HttpOnly", "Max-Age=43200", "Path=/v1", "SameSite=strict"}
    token = name_and_value.partition("=")[2]
    assert token not in answer.text
    assert anonymous.get("/v1/session").json() == answer.json()
    assert answer.json()["scopes"] == ["jobs:read"]


def test_behind_https_the_cookie_is_sent_over_nothing_else(app: FastAPI, sessions: Sessions) -> None:
    with TestClient(app, base_url="https://eggs.example") as client:
        answer = client.post("/v1/session", headers=key_with(sessions, Scope.JOBS_READ))
        assert "Secure" in answer.headers["set-cookie"].split("; ")


def test_behind_a_proxy_that_ends_tls_neither(server: RunningServer) -> None:
    with server.client() as client:
        answer = client.post("/v1/session", headers={"X-Forwarded-Proto": "https"})
        assert "Secure" in answer.headers["set-cookie"].split("; ")


def test_the_cookie_opens_what_the_key_does(anonymous: TestClient, sessions: Sessions) -> None:
    anonymous.post("/v1/session", headers=key_with(sessions, Scope.JOBS_READ))
    assert anonymous.get("/v1/jobs").status_code == 200
    assert code(anonymous.post("/v1/jobs", json=BODY, headers=SAME_PAGE)) == "scope-missing"
    assert code(anonymous.get("/v1/keys")) == "scope-missing"


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/jobs"), ("DELETE", "/v1/session"), ("PATCH", "/v1/webhooks/whk_x")]
)
def test_another_sites_page_can_change_nothing(browser: TestClient, method: str, path: str) -> None:
    """It can have the browser send the cookie at most (SameSite stops that too), but no header of ours."""
    for headers in ({}, {"Origin": "https://elsewhere.example", "Content-Type": "text/plain"}):
        answer = browser.request(method, path, headers=headers, content=b"{}")
        assert (answer.status_code, code(answer)) == (403, "session-header-missing")
    preflight = browser.options(
        "/v1/jobs",
        headers={
            "Origin": "https://elsewhere.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": CSRF_HEADER,
        },
    )
    assert not any(name.startswith("access-control") for name in preflight.headers)
    assert browser.get("/v1/session").status_code == 200
    assert browser.post("/v1/jobs", json=BODY, headers=SAME_PAGE).status_code == 201


def test_a_key_needs_no_such_header_and_goes_before_the_cookie(browser: TestClient, sessions: Sessions) -> None:
    own = key_with(sessions, Scope.JOBS_WRITE, project="another")
    job = browser.post("/v1/jobs", json=BODY, headers=own)
    assert job.status_code == 201
    assert browser.get(f"/v1/jobs/{job.json()['id']}").status_code == 404, "the session's project is another one"
    assert browser.get("/v1/jobs", headers={"Authorization": "Bearer eggs_no"}).status_code == 401


def test_signing_out_ends_it(browser: TestClient) -> None:
    token = browser.cookies[COOKIE]
    ended = browser.delete("/v1/session", headers=SAME_PAGE)
    assert (ended.status_code, ended.json()["deleted"]) == (200, True)
    assert COOKIE not in browser.cookies
    kept = browser.get("/v1/jobs", headers={"Cookie": f"{COOKIE}={token}"})
    assert (kept.status_code, code(kept)) == (401, "unauthorized")


def test_it_ends_with_its_key(browser: TestClient, sessions: Sessions) -> None:
    key_id = browser.get("/v1/session").json()["key_id"]
    with sessions.begin() as session:
        keys.revoke(session, key_id)
    assert browser.get("/v1/jobs").status_code == 401
    with sessions.begin() as session:
        past = utcnow() - timedelta(seconds=1)
        session.execute(update(ApiKey).values(revoked_at=None, expires_at=past))
    assert browser.get("/v1/jobs").status_code == 401


def test_it_ends_by_itself_and_is_removed(browser: TestClient, sessions: Sessions) -> None:
    with sessions.begin() as session:
        session.execute(update(BrowserSession).values(expires_at=utcnow() - timedelta(seconds=1)))
    assert browser.get("/v1/jobs").status_code == 401
    assert browser.post("/v1/session", headers=key_with(sessions, Scope.JOBS_READ)).status_code == 201
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(BrowserSession)) == 1


def test_a_session_makes_no_other_one(browser: TestClient) -> None:
    answer = browser.post("/v1/session", headers=SAME_PAGE)
    assert (answer.status_code, code(answer)) == (403, "session-needs-key")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_key_alone_has_no_session(client: TestClient, method: str) -> None:
    answer = client.request(method, "/v1/session")
    assert (answer.status_code, code(answer)) == (404, "session-not-found")


@pytest.mark.parametrize("value", [b"", b"x", b"'; --", b"\xff\xfe", b"a" * 5000, b'"\\303\\251"'])
def test_cookies_that_open_nothing(anonymous: TestClient, value: bytes) -> None:
    answer = anonymous.get("/v1/jobs", headers={b"Cookie": COOKIE.encode() + b"=" + value})
    assert (answer.status_code, code(answer)) == (401, "unauthorized")


def test_what_is_stored_does_not_let_anyone_in(browser: TestClient, sessions: Sessions) -> None:
    token = browser.cookies[COOKIE]
    with sessions() as session:
        row = session.execute(select(BrowserSession.__table__)).mappings().one()
    assert not any(token in str(value) for value in row.values())
    for value in (row["id"], row["token_hash"]):
        assert browser.get("/v1/jobs", headers={"Cookie": f"{COOKIE}={value}"}).status_code == 401


def test_coming_and_going_is_noted(browser: TestClient, sessions: Sessions) -> None:
    who = browser.get("/v1/session").json()
    browser.delete("/v1/session", headers=SAME_PAGE)
    entries = browser.get("/v1/audit", headers=key_with(sessions, Scope.ADMIN)).json()["data"]
    assert [(e["action"], e["subject"], e["key_id"]) for e in entries if e["subject"] == who["id"]] == [
        ("session.ended", who["id"], who["key_id"]),
        ("session.created", who["id"], who["key_id"]),
    ]


def test_the_document_knows_both_ways_in(app: FastAPI) -> None:
    document = app.openapi()
    schemes = document["components"]["securitySchemes"]
    assert schemes["ApiKey"]["scheme"] == "bearer"
    assert (schemes["Session"]["in"], schemes["Session"]["name"]) == ("cookie", COOKIE)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if path.startswith("/v1"):
                assert operation["security"] == [{"ApiKey": []}, {"Session": []}], path
