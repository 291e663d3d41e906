"""The page in a real browser: what needs the scope `admin`, which is keys, webhooks and workers."""

from datetime import timedelta

import httpx
from playwright.sync_api import Page, expect
from sqlalchemy import update

from app.db import utcnow
from app.workers import service as workers
from app.workers.models import Worker
from tests.app.build import make_job
from tests.app.receiver import Receiver
from tests.app.test_workers import make_worker
from tests.e2e.conftest import check_accessible, shot
from tests.e2e.service import MODEL, Service, posted


def test_keys_are_made_and_revoked(page: Page, service: Service) -> None:
    page.goto("/keys")
    page.get_by_label("Name").fill("nightly")
    page.get_by_role("button", name="Make the key").click()
    expect(page.get_by_text("This is shown only once.")).to_be_visible()
    token = page.get_by_role("region", name="The new key").inner_text().strip()
    opened = httpx.get(f"{service.url}/v1/jobs", headers={"Authorization": f"Bearer {token}"}, timeout=60)
    assert opened.status_code == 200
    check_accessible(page)
    shot(page, "keys")
    page.get_by_role("button", name="I have it").click()
    assert token not in page.content()
    page.get_by_role("button", name="Revoke nightly").click()
    page.get_by_role("button", name="Revoke the key").click()
    expect(page.locator("tr", has_text="nightly")).to_contain_text("revoked")
    opened = httpx.get(f"{service.url}/v1/jobs", headers={"Authorization": f"Bearer {token}"}, timeout=60)
    assert opened.status_code == 401


def test_a_key_is_given_limits(page: Page, service: Service) -> None:
    page.goto("/keys")
    page.get_by_label("Name").fill("limited")
    limits = page.locator("details", has_text="Limits")
    limits.get_by_text("Limits", exact=True).click()
    page.get_by_label("Running jobs").fill("0")
    limits.get_by_text("Limits", exact=True).click()
    expect(page.get_by_label("Running jobs")).to_be_hidden()
    page.get_by_role("button", name="Make the key").click()
    expect(page.get_by_label("Running jobs")).to_be_visible()  # it is what is wrong
    page.get_by_label("Running jobs").fill("2")
    page.get_by_label("Queued jobs").fill("0")
    page.get_by_label("Stored bytes").fill("20000000000")
    check_accessible(page)
    shot(page, "keys-limits-form")
    page.get_by_role("button", name="Make the key").click()
    row = page.locator("tr", has_text="limited")
    expect(row).to_contain_text("at most 0 queued, 2 running, 20 GB stored")
    shot(page, "keys-limits")
    headers = {"Authorization": f"Bearer {service.key}"}
    (key,) = [
        key
        for key in httpx.get(f"{service.url}/v1/keys", headers=headers, timeout=60).json()["data"]
        if key["name"] == "limited"
    ]
    limited = {"queued_jobs": 0, "running_jobs": 2, "upload_bytes": None, "stored_bytes": 20_000_000_000}
    assert key["limits"] == limited
    expect(page.locator("tr", has_text=service.key[5:31])).not_to_contain_text("at most")


def test_webhooks_are_made_tried_and_deleted(page: Page, service: Service, receiver: Receiver) -> None:
    page.goto("/webhooks")
    expect(page.get_by_role("heading", name="No webhooks")).to_be_visible()
    page.get_by_label("URL").fill(receiver.url)
    page.get_by_role("checkbox", name="sweep.completed").check()
    page.get_by_role("button", name="Make the webhook").click()
    secret = page.get_by_role("region", name="The secret")
    expect(secret).to_contain_text("whsec_")
    old = secret.inner_text().strip()
    page.get_by_role("button", name="I have it").click()
    page.get_by_role("button", name="Send a ping").click()
    sent = page.locator(".hook tbody tr").first
    expect(sent).to_contain_text("delivered")
    check_accessible(page)
    shot(page, "webhooks")
    page.get_by_role("button", name="Disable").click()
    expect(page.locator(".hook .title")).to_contain_text("disabled")
    expect(page.get_by_role("button", name="Send a ping")).to_be_disabled()
    page.get_by_role("button", name="Enable").click()
    expect(page.locator(".hook .title")).to_contain_text("enabled")
    page.get_by_role("button", name="New secret").click()
    page.get_by_role("button", name="Make a new secret").click()
    expect(secret).to_contain_text("whsec_")
    new = secret.inner_text().strip()
    page.get_by_role("button", name="I have it").click()
    sent.get_by_role("button", name="Send again").click()
    expect(sent.get_by_role("cell")).to_contain_text(["webhook.ping", "delivered", "204", "2", "now", "again"])
    first, second = receiver.received
    assert first.verified(old) == second.verified(new)
    assert new != old
    sweep = posted(service, "sweeps", model=MODEL, trials=[{"method": "ria"}, {"method": "wanda"}])
    posted(service, f"sweeps/{sweep['id']}/cancel")
    expect(sent).to_contain_text("sweep.completed")
    shot(page, "webhooks-sweep")
    sent.get_by_role("link", name=sweep["id"]).click()
    expect(page.locator(".sub")).to_contain_text("· ended ")
    page.go_back()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete the webhook").click()
    expect(page.get_by_role("heading", name="No webhooks")).to_be_visible()


def test_workers_are_seen(page: Page, service: Service, jobs: dict[str, str]) -> None:
    page.goto("/workers")
    expect(page.get_by_role("heading", name="No worker is running")).to_be_visible()
    another = make_job(service.sessions, project="another")
    make_worker(service.sessions, jobs["running"], hostname="gpu-1", gpus="NVIDIA H100 80GB HBM3\n" * 4)
    make_worker(service.sessions, another, hostname="gpu-2")
    online = make_worker(service.sessions, hostname="cpu-1", gpus="", gpu_memory_bytes=0)
    lost = make_worker(service.sessions, hostname="cpu-2", gpus="", gpu_memory_bytes=0)
    with service.sessions.begin() as session:
        past = utcnow() - timedelta(minutes=5)
        session.execute(update(Worker).where(Worker.id == lost).values(last_seen_at=past))
    expect(page.get_by_text("1 busy with this project's jobs, 2 more online, 1 lost.")).to_be_visible()
    expect(page.locator("tr", has_text="gpu-1")).to_contain_text("4 × NVIDIA H100 80GB HBM3")
    expect(page.locator("tr", has_text="gpu-2")).to_contain_text("online")
    expect(page.locator("tr", has_text="cpu-2")).to_contain_text("last heard of 5 minutes ago")
    check_accessible(page)
    shot(page, "workers")
    with service.sessions.begin() as session:
        workers.leave(session, online)
    expect(page.locator("tr", has_text="cpu-1")).to_have_count(0)
    page.get_by_role("link", name=jobs["running"]).click()
    expect(page.get_by_role("heading", name="on its way")).to_be_visible()
