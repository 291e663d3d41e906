"""Webhooks as their owners see them: made, changed, looked at, and refused where they lead inside."""

import json
import re
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from ipaddress import ip_address
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from app.keys.scopes import Scope
from app.problems import Problem
from app.secrets import Secrets
from app.settings import Settings
from app.webhooks import service
from app.webhooks.addresses import is_public
from app.webhooks.models import WebhookDelivery, WebhookEndpoint
from app.webhooks.schemas import WebhookCreate
from tests.app.build import make_job, make_webhook, principal_of
from tests.app.test_jobs_api import code
from tests.app.test_scopes import key_with

Sessions = sessionmaker[Session]

# An address, so that no test asks for a name outside.
URL = "https://93.184.215.14/hooks"
STATES = ["job.queued", "job.running", "job.succeeded", "job.failed", "job.cancelled"]


@pytest.fixture
def admin(anonymous: TestClient, sessions: Sessions) -> TestClient:
    """A client with a key that may do everything in the project `default`."""
    anonymous.headers.update(key_with(sessions, *Scope))
    return anonymous


def make(admin: TestClient, **body: Any) -> dict[str, Any]:
    response = admin.post("/v1/webhooks", json={"url": URL} | body)
    assert response.status_code == 201, response.text
    return dict(response.json())


def test_a_webhook_from_its_making_to_its_end(admin: TestClient) -> None:
    response = admin.post("/v1/webhooks", json={"url": URL})
    made = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == f"/v1/webhooks/{made['id']}"
    assert (made["url"], made["events"], made["description"], made["enabled"]) == (URL, STATES, "", True)
    secret = made.pop("secret")
    assert secret.startswith("whsec_")
    assert admin.get(f"/v1/webhooks/{made['id']}").json() == made

    events = ["sweep.completed", "job.failed", "job.progress"]
    changes = {"url": f"{URL}/2", "events": events, "description": "d", "enabled": False}
    changed = admin.patch(f"/v1/webhooks/{made['id']}", json=changes).json()
    assert changed == made | changes | {"events": ["job.progress", "job.failed", "sweep.completed"]}
    assert admin.patch(f"/v1/webhooks/{made['id']}", json={}).json() == changed
    assert admin.get("/v1/webhooks").json()["data"] == [changed]
    assert secret not in admin.get("/v1/webhooks").text

    assert admin.delete(f"/v1/webhooks/{made['id']}").json()["deleted"] is True
    for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/ping"), ("POST", "/secret")):
        gone = admin.request(method, f"/v1/webhooks/{made['id']}{path}", json={})
        assert (gone.status_code, code(gone)) == (404, "webhook-not-found")


def test_secrets_are_shown_once_and_stored_encrypted(admin: TestClient, sessions: Sessions) -> None:
    made = make(admin)
    rotated = admin.post(f"/v1/webhooks/{made['id']}/secret").json()
    assert rotated["secret"] != made["secret"]
    with sessions() as session:
        row = session.execute(select(WebhookEndpoint.__table__)).mappings().one()
    for secret in (made["secret"], rotated["secret"]):
        assert not any(secret.removeprefix("whsec_") in str(value) for value in row.values())
    assert "secret" not in admin.get(f"/v1/webhooks/{made['id']}").json()


def test_webhooks_come_in_pages(admin: TestClient) -> None:
    ids = [make(admin)["id"] for _ in range(3)]
    first = admin.get("/v1/webhooks", params={"limit": 2}).json()
    assert ([w["id"] for w in first["data"]], first["has_more"]) == ([ids[2], ids[1]], True)
    rest = admin.get("/v1/webhooks", params={"after": first["last_id"]}).json()
    assert ([w["id"] for w in rest["data"]], rest["has_more"]) == ([ids[0]], False)


def test_a_project_has_so_many_and_no_more(admin: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MOST_PER_PROJECT", 2)
    make(admin)
    made = make(admin)
    refused = admin.post("/v1/webhooks", json={"url": URL})
    assert (refused.status_code, code(refused), refused.json()["limit"]) == (409, "too-many-webhooks", 2)
    admin.delete(f"/v1/webhooks/{made['id']}")
    make(admin)


def test_two_who_ask_at_once_do_not_make_one_too_many(
    settings: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MOST_PER_PROJECT", 1)
    secrets, principal = Secrets(settings), principal_of(sessions)
    body = WebhookCreate.model_validate({"url": URL})

    def make_another() -> None:
        with sessions.begin() as session, pytest.raises(Problem, match="may have 1"):
            service.create(session, secrets, principal, body)

    with ThreadPoolExecutor(1) as pool:
        with sessions.begin() as session:
            service.create(session, secrets, principal, body)
            another = pool.submit(make_another)
            wait([another], timeout=1)  # it waits for this transaction
        another.result()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"url": "ftp://93.184.215.14/"},
        {"url": "/hooks"},
        {"url": "https://"},
        {"url": "file:///etc/passwd"},
        {"url": "https://user:password@93.184.215.14/"},
        {"url": "https://user@93.184.215.14/"},
        {"url": "http://93.184.215.14:99999/"},
        {"url": f"{URL}/{'x' * 2048}"},
        {"url": URL, "events": []},
        {"url": URL, "events": ["job.*"]},
        {"url": URL, "description": "x" * 257},
        {"url": URL, "description": "nul \0"},
        {"url": URL, "secret": "whsec_mine"},
    ],
)
def test_what_no_webhook_is(body: dict[str, Any], admin: TestClient) -> None:
    response = admin.post("/v1/webhooks", json=body)
    assert (response.status_code, code(response)) == (422, "invalid-request")
    assert "password" not in response.text.replace("user name or password", "")


INSIDE = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "0",
    "0.0.0.0",
    "localhost",
    "localhost.",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "100.100.100.200",
    "169.254.169.254",
    "168.63.129.16",
    "224.0.0.1",
    "255.255.255.255",
    "192.0.2.1",
    "192.0.0.192",
    "192.88.99.1",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:a9fe:a9fe]",
    "[::127.0.0.1]",
    "[fe80::1]",
    "[fec0::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[ff02::1]",
    "[2001:db8::1]",
    "[2002:7f00:1::]",
    "[64:ff9b::7f00:1]",
    "[2001:0:5ef5:79fb:0:0:80ff:fffe]",
    "a.name.that.nobody.has.invalid",
    "a" * 70 + ".example",
]


@pytest.mark.parametrize("host", INSIDE)
def test_addresses_inside_are_refused(host: str, admin: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    url = make(admin)["url"]
    for response in (
        admin.post("/v1/webhooks", json={"url": f"http://{host}:8000/x"}),
        admin.patch(
            f"/v1/webhooks/{admin.get('/v1/webhooks').json()['last_id']}", json={"url": f"https://{host}"}
        ),
    ):
        assert (response.status_code, code(response)) == (422, "webhook-address-refused")
    assert [webhook["url"] for webhook in admin.get("/v1/webhooks").json()["data"]] == [url]


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::"]
)
def test_addresses_in_the_internet_are_not(address: str) -> None:
    assert is_public(ip_address(address))


def test_a_name_with_one_private_address_is_refused(admin: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(host: str, port: int, **_: Any) -> Sequence[Any]:
        assert host == "hooks.example"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in ("93.184.215.14", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    response = admin.post("/v1/webhooks", json={"url": "https://hooks.example/"})
    assert code(response) == "webhook-address-refused"
    assert "10.0.0.1" not in response.text


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_operator_may_allow_addresses_inside(settings: Settings, admin: TestClient) -> None:
    settings.webhook_allow_private = True
    assert make(admin, url="http://127.0.0.1:8000/")["url"] == "http://127.0.0.1:8000/"


def test_the_log_by_state_and_in_pages(admin: TestClient, settings: Settings, sessions: Sessions) -> None:
    webhook_id, _ = make_webhook(sessions, settings, URL, events=["job.queued"])
    make_webhook(sessions, settings, URL, project="another")
    jobs = [make_job(sessions) for _ in range(3)]
    with sessions.begin() as session:
        session.execute(update(WebhookDelivery).where(WebhookDelivery.job_id == jobs[0]).values(state="failed"))
    path = f"/v1/webhooks/{webhook_id}/deliveries"
    first = admin.get(path, params={"limit": 2}).json()
    rest = admin.get(path, params={"after": first["last_id"]}).json()
    assert [d["job_id"] for d in first["data"] + rest["data"]] == jobs[::-1]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    (failed,) = admin.get(path, params={"state": "failed"}).json()["data"]
    assert (failed["job_id"], failed["type"], failed["event_id"]) == (jobs[0], "job.queued", 1)


def test_nothing_is_sent_to_one_that_is_disabled(
    admin: TestClient, settings: Settings, sessions: Sessions
) -> None:
    webhook_id, _ = make_webhook(sessions, settings, URL)
    make_job(sessions)
    admin.patch(f"/v1/webhooks/{webhook_id}", json={"enabled": False})
    make_job(sessions)
    (delivery,) = admin.get(f"/v1/webhooks/{webhook_id}/deliveries").json()["data"]
    assert (delivery["state"], delivery["last_error"]) == ("failed", "The webhook was disabled.")
    for path in ("ping", f"deliveries/{delivery['id']}/redeliver"):
        response = admin.post(f"/v1/webhooks/{webhook_id}/{path}")
        assert (response.status_code, code(response)) == (409, "webhook-disabled")
    admin.patch(f"/v1/webhooks/{webhook_id}", json={"enabled": True})
    again = admin.post(f"/v1/webhooks/{webhook_id}/deliveries/{delivery['id']}/redeliver")
    assert (again.status_code, again.json()["state"], again.json()["id"]) == (202, "pending", delivery["id"])


def test_what_was_not_sent_to_this_webhook_is_not_there(
    admin: TestClient, settings: Settings, sessions: Sessions
) -> None:
    one, other = (make_webhook(sessions, settings, URL)[0] for _ in range(2))
    delivery = admin.post(f"/v1/webhooks/{other}/ping").json()
    assert (delivery["type"], delivery["job_id"], delivery["webhook_id"]) == ("webhook.ping", None, other)
    for delivery_id in (delivery["id"], "msg_unknown"):
        response = admin.post(f"/v1/webhooks/{one}/deliveries/{delivery_id}/redeliver")
        assert (response.status_code, code(response)) == (404, "delivery-not-found")


def test_everything_that_was_done_is_noted(admin: TestClient) -> None:
    webhook_id = make(admin)["id"]
    path = f"/v1/webhooks/{webhook_id}"
    admin.patch(path, json={"description": "d"})
    admin.post(f"{path}/secret")
    message_id = admin.post(f"{path}/ping").json()["id"]
    admin.post(f"{path}/deliveries/{message_id}/redeliver")
    admin.delete(path)
    entries = admin.get("/v1/audit", params={"limit": 6}).json()["data"]
    assert [(entry["action"], entry["subject"]) for entry in entries] == [
        ("webhook.deleted", webhook_id),
        ("webhook.redelivered", message_id),
        ("webhook.pinged", webhook_id),
        ("webhook.secret_rotated", webhook_id),
        ("webhook.updated", webhook_id),
        ("webhook.created", webhook_id),
    ]


def test_the_document_says_what_is_sent(admin: TestClient) -> None:
    document = admin.get("/openapi.json").json()
    assert set(document["webhooks"]) == {"job-event", "sweep-completed", "ping"}
    assert json.dumps(document["components"]["schemas"]["JobEventPayload"]["examples"])
    text = json.dumps(document)
    assert set(re.findall(r'"#/components/schemas/(\w+)"', text)) <= set(document["components"]["schemas"])
