"""Webhooks as their receivers see them: real HTTP on loopback, verified with the library that receivers use."""

import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path
from threading import Event, Lock
from typing import Any

import httpx
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from fastapi.testclient import TestClient
from sqlalchemy import event, select, text, update
from sqlalchemy.orm import Session, sessionmaker
from standardwebhooks import WebhookVerificationError

from app.db import make_sessions, utcnow
from app.ids import first_id
from app.jobs import leases
from app.jobs.schemas import JobResource
from app.keys.scopes import Scope
from app.secrets import Secrets
from app.settings import Settings
from app.webhooks import outbox, repository, sender, service, turns
from app.webhooks.courier import THREADS, Couriers
from app.webhooks.models import DeliveryState, WebhookDelivery, WebhookEndpoint
from app.webhooks.schemas import WebhookUpdate
from app.webhooks.sender import Sender
from tests.app.build import make_job, make_webhook, principal_of, read_job
from tests.app.receiver import Receiver, Resolver, never, plain, receiving
from tests.app.test_leases import must_claim, progress
from tests.app.test_scopes import key_with
from tests.app.test_serve import Service
from tests.conftest import free_port, wait_for

Sessions = sessionmaker[Session]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    settings.webhook_allow_private = True
    return settings


@contextmanager
def sending(settings: Settings, sessions: Sessions) -> Iterator[Couriers]:
    """Couriers as they run beside the API."""
    engine = sessions.kw["bind"]
    couriers = Couriers(
        make_sessions(engine, read_only=True),
        sessions,
        Secrets(settings),
        Sender(allow_private=settings.webhook_allow_private),
        interval=0.02,
    )
    couriers.start()
    try:
        yield couriers
    finally:
        couriers.stop()


@pytest.fixture
def couriers(settings: Settings, sessions: Sessions) -> Iterator[Couriers]:
    with sending(settings, sessions) as couriers:
        yield couriers


def log(sessions: Sessions) -> list[WebhookDelivery]:
    """Every message, in the order in which they were written."""
    with sessions() as session:
        return list(session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.id)))


def tried(sessions: Sessions, attempts: int = 1) -> WebhookDelivery:
    """The only message, once it was sent so often."""

    def look() -> WebhookDelivery | None:
        (delivery,) = log(sessions)
        return delivery if delivery.attempts >= attempts else None

    return wait_for(look)


def let_time_pass(sessions: Sessions) -> None:
    """Has the pause before the next attempt, and the leases of couriers that were lost, end now."""
    past = utcnow() - timedelta(seconds=1)
    with sessions.begin() as session:
        pending = WebhookDelivery.state == DeliveryState.PENDING
        session.execute(update(WebhookDelivery).where(pending).values(next_attempt_at=past))
        leased = WebhookEndpoint.lease_token.is_not(None)
        session.execute(update(WebhookEndpoint).where(leased).values(lease_expires_at=past))


def ping(sessions: Sessions, webhook_id: str) -> None:
    with sessions.begin() as session:
        outbox.ping(session, webhook_id)


def waits_for_a_lock(sessions: Sessions) -> bool:
    """Whether somebody waits for what another one has locked, in PostgreSQL."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with make_sessions(sessions.kw["bind"], read_only=True)() as session:
        return bool(session.scalar(text(query)))


def run_job(sessions: Sessions) -> str:
    """A job from its submission to its success."""
    job_id = make_job(sessions, name="Ünïcode", metadata={"team": "研究"})
    lease = must_claim(sessions, job_id)
    progress(sessions, lease, 0.5)
    with sessions.begin() as session:
        report = {"acceptance": {"verdict": "rejected"}}
        leases.succeed(session, lease, report=report, artifacts=[], artifacts_dir="x")
    return job_id


def test_a_job_is_told_of_in_order_and_signed(
    settings: Settings, sessions: Sessions, receiver: Receiver, couriers: Couriers
) -> None:
    _, secret = make_webhook(sessions, settings, f"{receiver.url}?to=me")
    _, other_secret = make_webhook(sessions, settings, receiver.url, project="another")
    job_id = run_job(sessions)
    wait_for(lambda: len(receiver.received) == 3)
    told = [request.verified(secret) for request in receiver.received]
    assert [message["type"] for message in told] == ["job.queued", "job.running", "job.succeeded"]
    assert [message["data"]["id"] for message in told] == [1, 2, 4]
    last = told[-1]
    assert last["timestamp"] == last["data"]["created_at"]
    assert (last["data"]["job_id"], last["data"]["state"], last["data"]["progress"]) == (job_id, "succeeded", 1.0)
    assert last["data"]["job"] == JobResource.of(read_job(sessions, job_id)).model_dump(mode="json")
    assert last["data"]["job"]["verdict"] == "rejected"
    assert told[0]["data"]["job"]["state"] == "queued"

    first = receiver.received[0]
    assert (first.path, first.headers["content-type"]) == ("/hooks?to=me", "application/json")
    assert first.headers["host"] == receiver.url.split("/")[2]
    assert first.headers["user-agent"].startswith("eggs/")
    assert first.id == log(sessions)[0].id
    with pytest.raises(WebhookVerificationError):
        first.verified(other_secret)
    wait_for(lambda: all(delivery.state is DeliveryState.DELIVERED for delivery in log(sessions)))
    assert [(d.attempts, d.last_status, d.last_error, d.next_attempt_at) for d in log(sessions)] == [
        (1, 204, None, None)
    ] * 3


def test_a_message_is_a_cloud_event_too(
    settings: Settings, sessions: Sessions, receiver: Receiver, couriers: Couriers
) -> None:
    webhook_id, _ = make_webhook(sessions, settings, receiver.url)
    job_id = run_job(sessions)
    ping(sessions, webhook_id)
    wait_for(lambda: len(receiver.received) == 4)
    events = [from_http_event(HTTPMessage(request.headers, request.body)) for request in receiver.received]
    assert [(e.get_type(), e.get_source(), e.get_subject()) for e in events] == [
        *((f"job.{state}", "/v1/jobs", job_id) for state in ("queued", "running", "succeeded")),
        ("webhook.ping", f"/v1/webhooks/{webhook_id}", None),
    ]
    assert [e.get_id() for e in events] == [request.id for request in receiver.received]
    data = events[2].get_data()
    assert isinstance(data, dict)
    assert data["data"]["job"]["state"] == "succeeded"


def test_the_receiver_of_the_documentation(
    settings: Settings,
    sessions: Sessions,
    receiver: Receiver,
    couriers: Couriers,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    webhook_id, secret = make_webhook(sessions, settings, receiver.url)
    ping(sessions, webhook_id)
    wait_for(lambda: receiver.received)
    (message,) = receiver.received
    page = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.setenv("WEBHOOK_SECRET", secret)
    names: dict[str, Any] = {}
    exec(example, names)
    client = TestClient(names["app"])
    assert client.post("/hooks/eggs", content=message.body, headers=message.headers).status_code == 204
    assert client.post("/hooks/eggs", content=message.body + b" ", headers=message.headers).status_code == 400
    assert capsys.readouterr().out == f"{message.id} webhook.ping {{'webhook_id': '{webhook_id}'}}\n"


def test_progress_is_told_of_to_those_who_ask(
    settings: Settings, sessions: Sessions, receiver: Receiver, couriers: Couriers
) -> None:
    _, secret = make_webhook(sessions, settings, receiver.url, events=["job.progress"])
    run_job(sessions)
    wait_for(lambda: receiver.received)
    (message,) = (request.verified(secret) for request in receiver.received)
    assert (message["type"], message["data"]["progress"], message["data"]["data"]) == (
        "job.progress",
        0.5,
        {"block": 1},
    )


def test_what_is_rolled_back_is_not_told_of(settings: Settings, sessions: Sessions) -> None:
    make_webhook(sessions, settings, "http://127.0.0.1:1/")
    lease = must_claim(sessions, make_job(sessions))
    with sessions() as session:
        leases.fail(session, lease, {"title": "no"})
        session.rollback()
    assert [delivery.type for delivery in log(sessions)] == ["job.queued", "job.running"]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_job_goes_on_while_its_webhook_is_deleted(settings: Settings, sessions: Sessions) -> None:
    webhook_id, _ = make_webhook(sessions, settings, "http://127.0.0.1:1/")
    principal = principal_of(sessions)
    with ThreadPoolExecutor(1) as pool:
        with sessions.begin() as session:
            service.delete(session, principal, webhook_id)
            job = pool.submit(make_job, sessions)
            wait_for(lambda: waits_for_a_lock(sessions) or job.done())
        assert read_job(sessions, job.result()).state == "queued"
    assert log(sessions) == []


def test_where_nobody_listens_an_event_costs_one_look(sessions: Sessions) -> None:
    lease = must_claim(sessions, make_job(sessions))
    statements: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        statements.append(statement)

    event.listen(sessions.kw["bind"], "before_cursor_execute", note)
    progress(sessions, lease, 0.5)
    assert [statement for statement in statements if "webhook_deliveries" in statement] == []
    assert len([statement for statement in statements if "webhook_endpoints" in statement]) == 1


def test_a_job_ends_whatever_its_error_says(settings: Settings, sessions: Sessions) -> None:
    make_webhook(sessions, settings, "http://127.0.0.1:1/", events=["job.failed"])
    lease = must_claim(sessions, make_job(sessions))
    with sessions.begin() as session:
        leases.fail(session, lease, {"title": "no", "path": "a\udcff\0b"})
    assert "\\udcff" in log(sessions)[0].payload


def test_both_secrets_sign_while_one_takes_over(
    settings: Settings, sessions: Sessions, receiver: Receiver, couriers: Couriers
) -> None:
    webhook_id, old = make_webhook(sessions, settings, receiver.url)
    principal = principal_of(sessions)
    with sessions.begin() as session:
        _, new = service.rotate(session, Secrets(settings), principal, webhook_id)
    ping(sessions, webhook_id)
    wait_for(lambda: receiver.received)
    assert receiver.received[0].verified(old) == receiver.received[0].verified(new)
    with sessions.begin() as session:
        session.execute(update(WebhookEndpoint).values(previous_secret_until=utcnow()))
    ping(sessions, webhook_id)
    wait_for(lambda: len(receiver.received) == 2)
    receiver.received[1].verified(new)
    with pytest.raises(WebhookVerificationError):
        receiver.received[1].verified(old)


def test_what_fails_is_sent_again_under_the_same_id(
    settings: Settings, sessions: Sessions, receiver: Receiver, couriers: Couriers
) -> None:
    statuses = [500, 302, 204]
    receiver.answer = lambda handler, _: plain(handler, statuses[len(receiver.received) - 1])
    webhook_id, secret = make_webhook(sessions, settings, receiver.url)
    ping(sessions, webhook_id)
    for attempt, (status, pause) in enumerate([(500, 5), (302, 300)], 1):
        delivery = tried(sessions, attempt)
        assert (delivery.state, delivery.last_status) == (DeliveryState.PENDING, status)
        assert delivery.next_attempt_at is not None
        assert delivery.last_attempt_at is not None
        waits = (delivery.next_attempt_at - delivery.last_attempt_at).total_seconds()
        assert 0.9 * pause <= waits <= 1.1 * pause + 5
        let_time_pass(sessions)
    delivery = tried(sessions, 3)
    assert (delivery.state, delivery.last_status, delivery.last_error) == (DeliveryState.DELIVERED, 204, None)
    assert {request.id for request in receiver.received} == {delivery.id}
    assert len({str(request.verified(secret)) for request in receiver.received}) == 1


def test_after_a_day_it_is_given_up_until_somebody_asks(
    settings: Settings, sessions: Sessions, receiver: Receiver, couriers: Couriers
) -> None:
    assert timedelta(days=1) < sum(turns.PAUSES, timedelta()) < timedelta(days=1.5)
    receiver.answer = lambda handler, _: plain(handler, 503)
    webhook_id, _ = make_webhook(sessions, settings, receiver.url)
    ping(sessions, webhook_id)
    for attempt in range(1, len(turns.PAUSES) + 1):
        assert tried(sessions, attempt).state is DeliveryState.PENDING
        let_time_pass(sessions)
    failed = tried(sessions, len(turns.PAUSES) + 1)
    assert (failed.state, failed.next_attempt_at, failed.last_error) == (
        DeliveryState.FAILED,
        None,
        "The answer was 503.",
    )
    receiver.answer = lambda handler, _: plain(handler, 204)
    principal = principal_of(sessions)
    with sessions.begin() as session:
        service.redeliver(session, principal, webhook_id, failed.id)
    again = tried(sessions, failed.attempts + 1)
    assert (again.state, again.last_error) == (DeliveryState.DELIVERED, None)
    assert {request.id for request in receiver.received} == {failed.id}
    with sessions.begin() as session:  # what was delivered, too
        service.redeliver(session, principal, webhook_id, failed.id)
    assert tried(sessions, failed.attempts + 2).state is DeliveryState.DELIVERED


def test_who_is_gone_is_told_nothing_more(
    settings: Settings, sessions: Sessions, receiver: Receiver, couriers: Couriers
) -> None:
    receiver.answer = lambda handler, _: plain(handler, 410)
    webhook_id, _ = make_webhook(sessions, settings, receiver.url)
    with sessions.begin() as session:  # one transaction, so that all of them wait when the first is sent
        for _ in range(3):
            outbox.ping(session, webhook_id)
    wait_for(lambda: all(delivery.state is DeliveryState.FAILED for delivery in log(sessions)))
    make_job(sessions)
    assert (len(receiver.received), len(log(sessions))) == (1, 3)
    with sessions() as session:
        webhook = session.get_one(WebhookEndpoint, webhook_id)
    assert (webhook.enabled, webhook.disabled_reason) == (False, "The endpoint answered 410 Gone.")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(
    status: int, settings: Settings, sessions: Sessions, receiver: Receiver, couriers: Couriers
) -> None:
    with receiving() as elsewhere:
        receiver.answer = lambda handler, _: plain(handler, status, {"Location": elsewhere.url})
        webhook_id, _ = make_webhook(sessions, settings, receiver.url)
        ping(sessions, webhook_id)
        delivery = tried(sessions)
        assert (delivery.state, delivery.last_status) == (DeliveryState.PENDING, status)
        assert delivery.last_error == f"The answer was {status}; redirects are not followed."
        assert (len(receiver.received), elsewhere.received) == (1, [])


def test_a_server_that_is_not_there(settings: Settings, sessions: Sessions, couriers: Couriers) -> None:
    webhook_id, _ = make_webhook(sessions, settings, f"http://127.0.0.1:{free_port()}/")
    ping(sessions, webhook_id)
    delivery = tried(sessions)
    assert (delivery.state, delivery.last_status) == (DeliveryState.PENDING, None)
    assert delivery.last_error == "The connection failed: [Errno 111] Connection refused"


def test_a_secret_that_cannot_be_read_is_told_to_its_owner(
    settings: Settings, sessions: Sessions, receiver: Receiver, couriers: Couriers
) -> None:
    webhook_id, _ = make_webhook(sessions, settings, receiver.url)
    with sessions.begin() as session:
        session.execute(update(WebhookEndpoint).values(secret="of another key"))
    ping(sessions, webhook_id)
    delivery = tried(sessions)
    assert (delivery.state, receiver.received) == (DeliveryState.PENDING, [])
    assert delivery.last_error == "The webhook's secret cannot be read. Rotate it."
    principal = principal_of(sessions)
    with sessions.begin() as session:
        _, secret = service.rotate(session, Secrets(settings), principal, webhook_id)
        service.redeliver(session, principal, webhook_id, delivery.id)
    wait_for(lambda: receiver.received)
    receiver.received[0].verified(secret)


def test_a_name_that_leads_inside_later_is_not_followed_there(
    settings: Settings, sessions: Sessions, receiver: Receiver, anonymous: TestClient, resolver: Resolver
) -> None:
    settings.webhook_allow_private = False
    resolver.names["hooks.example"] = ["93.184.215.14", "127.0.0.1"]
    headers = key_with(sessions, *Scope)
    url = f"http://hooks.example:{receiver.url.split(':')[2]}"
    webhook_id = anonymous.post("/v1/webhooks", headers=headers, json={"url": url}).json()["id"]
    ping(sessions, webhook_id)
    with sending(settings, sessions):
        delivery = tried(sessions)
    assert resolver.asked["hooks.example"] == 2
    assert receiver.received == []
    assert delivery.state is DeliveryState.PENDING
    assert delivery.last_error == "The host has no address, or one that is private."


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "2130706433", "[::ffff:127.0.0.1]", "localhost", "[::1]", "169.254.169.254"]
)
def test_addresses_inside_are_refused_at_delivery_too(
    host: str, settings: Settings, sessions: Sessions, receiver: Receiver
) -> None:
    settings.webhook_allow_private = False
    webhook_id, _ = make_webhook(sessions, settings, f"http://{host}:{receiver.url.split(':')[2]}")
    ping(sessions, webhook_id)
    with sending(settings, sessions):
        delivery = tried(sessions)
    assert receiver.received == []
    assert delivery.last_error == "The host has no address, or one that is private."


def test_couriers_in_several_processes_send_each_message_once(settings: Settings, sessions: Sessions) -> None:
    busy, overlaps = {n: Lock() for n in range(3)}, []

    def alone(number: int, handler: BaseHTTPRequestHandler) -> None:
        if not busy[number].acquire(blocking=False):
            overlaps.append(number)
        time.sleep(0.02)  # the receiver's work
        busy[number].release()
        plain(handler, 204)

    with ExitStack() as stack:
        receivers = [stack.enter_context(receiving()) for _ in range(3)]
        for number, receiver in enumerate(receivers):
            receiver.answer = partial(lambda number, handler, _: alone(number, handler), number)
            make_webhook(sessions, settings, receiver.url, events=["job.queued"])
        for _ in range(3):
            stack.enter_context(sending(settings, sessions))
        for _ in range(20):
            make_job(sessions)
        wait_for(lambda: all(d.state is DeliveryState.DELIVERED for d in log(sessions)))
    assert overlaps == []
    for receiver in receivers:
        ids = [request.id for request in receiver.received]
        assert len(ids) == 20
        assert all(earlier < later for earlier, later in pairwise(ids))


def test_couriers_survive_what_nobody_foresaw(
    settings: Settings,
    sessions: Sessions,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    webhook_id, secret = make_webhook(sessions, settings, receiver.url)
    look, send = turns.waiting, Sender.send
    monkeypatch.setattr(turns, "waiting", None)
    monkeypatch.setattr(Sender, "send", None)
    with sending(settings, sessions):
        wait_for(lambda: "could not be sent; they are tried again" in caplog.text)
        ping(sessions, webhook_id)
        monkeypatch.setattr(turns, "waiting", look)
        delivery = tried(sessions)
        assert (delivery.state, delivery.last_error) == (
            DeliveryState.PENDING,
            "Something went wrong on our side.",
        )
        monkeypatch.setattr(Sender, "send", send)
        let_time_pass(sessions)
        assert tried(sessions, 2).state is DeliveryState.DELIVERED
    assert secret not in caplog.text


def test_slow_receivers_hold_up_no_other(settings: Settings, sessions: Sessions, receiver: Receiver) -> None:
    finished = Event()
    with receiving() as slow, sending(settings, sessions):
        slow.answer = lambda handler, _: plain(handler, 204 if finished.wait(20) else 500)
        for _ in range(5):
            make_webhook(sessions, settings, slow.url, events=["job.queued"])
        make_webhook(sessions, settings, receiver.url, events=["job.queued"])
        for _ in range(10):
            make_job(sessions)
        wait_for(lambda: len(receiver.received) == 10)
        assert len(slow.received) == 5  # one at a time for each
        finished.set()


def test_many_slow_receivers_take_turns(
    settings: Settings, sessions: Sessions, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice as many of them as threads, each with more to get than there is time for."""
    monkeypatch.setattr(sender, "SECONDS", 1.0)
    monkeypatch.setattr(turns, "TURN", timedelta(seconds=0.5))
    with receiving() as slow:
        slow.answer = never
        for _ in range(2 * THREADS):
            make_webhook(sessions, settings, slow.url, events=["job.queued"])
        for _ in range(10):
            make_job(sessions)
        webhook_id, _ = make_webhook(sessions, settings, receiver.url)
        with sessions.begin() as session:
            session.execute(
                update(WebhookEndpoint).where(WebhookEndpoint.id == webhook_id).values(served_at=utcnow())
            )
        ping(sessions, webhook_id)
        with sending(settings, sessions):
            wait_for(lambda: receiver.received, seconds=10)
            assert len(slow.received) >= THREADS


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_an_attempt_that_ended_with_its_service_is_made_again(
    end: signal.Signals,
    settings: Settings,
    sessions: Sessions,
    receiver: Receiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    receiver.answer = never
    monkeypatch.setenv("EGGS_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("EGGS_WEBHOOK_ALLOW_PRIVATE", "true")
    with ExitStack() as stack:

        def serve() -> Service:
            service = Service(tmp_path / "data", "--no-worker")
            stack.callback(service.process.wait)
            stack.callback(service.process.kill)
            return service

        first = serve()
        with httpx.Client(base_url=first.url, headers={"Authorization": f"Bearer {first.key}"}, timeout=60) as api:
            webhook = api.post("/v1/webhooks", json={"url": receiver.url}).raise_for_status().json()
            sent = api.post(f"/v1/webhooks/{webhook['id']}/ping").raise_for_status().json()
        wait_for(lambda: receiver.received)
        first.process.send_signal(end)
        assert first.process.wait(60) == (0 if end is signal.SIGTERM else -end)

        receiver.answer = lambda handler, _: plain(handler, 204)
        serve()
        let_time_pass(sessions)
        assert tried(sessions).state is DeliveryState.DELIVERED
    assert [request.id for request in receiver.received] == [sent["id"]] * 2
    receiver.received[1].verified(webhook["secret"])


def test_the_log_is_kept_for_a_month(settings: Settings, sessions: Sessions) -> None:
    webhook_id, _ = make_webhook(sessions, settings, "http://127.0.0.1:1/")
    now = utcnow()
    kept = [first_id("msg", now - timedelta(days=days)) for days in (40, 29, 0)]
    old = [first_id("msg", now - timedelta(days=31, seconds=second)) for second in range(2)]
    with sessions.begin() as session:
        for message_id in kept + old:
            state = DeliveryState.PENDING if message_id == kept[0] else DeliveryState.DELIVERED
            session.add(
                WebhookDelivery(
                    id=message_id,
                    endpoint_id=webhook_id,
                    type="job.queued",
                    payload="{}",
                    state=state,
                    created_at=now,
                )
            )
    with sessions.begin() as session:
        turns.forget(session)
    assert [delivery.id for delivery in log(sessions)] == kept


def at_hand(sessions: Sessions, webhook_id: str) -> turns.Message:
    """What a courier has taken to send."""
    with sessions.begin() as session:
        turn = turns.take(session, webhook_id)
        assert turn is not None
        message = turns.next_message(session, turn)
        assert message is not None
    return message


def test_an_attempt_at_hand_does_not_take_back_what_was_given_up(settings: Settings, sessions: Sessions) -> None:
    webhook_id, _ = make_webhook(sessions, settings, "http://127.0.0.1/")
    ping(sessions, webhook_id)
    message = at_hand(sessions, webhook_id)
    with sessions.begin() as session:
        repository.give_up(session, webhook_id, "The webhook was disabled.")
    with sessions.begin() as session:
        turns.settle(session, message, sender.Outcome(error="The connection failed."), utcnow())
    (delivery,) = log(sessions)
    assert (delivery.state, delivery.last_error) == (DeliveryState.FAILED, "The webhook was disabled.")


def test_the_address_that_a_webhook_has_moved_away_from_may_be_gone(
    settings: Settings, sessions: Sessions
) -> None:
    webhook_id, _ = make_webhook(sessions, settings, "http://127.0.0.1/")
    ping(sessions, webhook_id)
    message = at_hand(sessions, webhook_id)
    with sessions.begin() as session:
        session.execute(update(WebhookEndpoint).values(url="http://127.0.0.2/"))
    with sessions.begin() as session:
        turns.settle(session, message, sender.Outcome(status=410, error="The answer was 410."), utcnow())
    (delivery,) = log(sessions)
    assert delivery.state is DeliveryState.PENDING
    with sessions() as session:
        assert session.get_one(WebhookEndpoint, webhook_id).enabled


def test_what_is_asked_for_anew_during_the_last_attempt_is_sent_again(
    settings: Settings, sessions: Sessions
) -> None:
    webhook_id, _ = make_webhook(sessions, settings, "http://127.0.0.1/")
    ping(sessions, webhook_id)
    with sessions.begin() as session:
        session.execute(update(WebhookDelivery).values(retries=len(turns.PAUSES)))
    message = at_hand(sessions, webhook_id)
    principal = principal_of(sessions)
    with sessions.begin() as session:
        service.redeliver(session, principal, webhook_id, message.id)
    with sessions.begin() as session:
        turns.settle(session, message, sender.Outcome(error="The connection failed."), utcnow())
    (delivery,) = log(sessions)
    assert (delivery.state, delivery.retries) == (DeliveryState.PENDING, 0)


def test_what_happens_while_a_webhook_is_disabled_does_not_wait_until_it_is_enabled(
    settings: Settings, sessions: Sessions
) -> None:
    webhook_id, _ = make_webhook(sessions, settings, "http://127.0.0.1/")
    job_id, principal = make_job(sessions), principal_of(sessions)

    def disable() -> None:
        with sessions.begin() as session:
            service.update(session, principal, webhook_id, WebhookUpdate(enabled=False))

    with ThreadPoolExecutor(1) as pool:
        with sessions.begin() as session:
            leases.claim(session, job_id, 60, max_attempts=3, most_running=None)
            disabling = pool.submit(disable)
            wait([disabling], timeout=1)  # it waits for this transaction
        disabling.result()
    assert {delivery.state for delivery in log(sessions)} == {DeliveryState.FAILED}
