"""The page in a real browser: comparing, sweeps, keys, webhooks and workers."""

import re
from datetime import timedelta
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import update

from app.db import utcnow
from app.workers import service as workers
from app.workers.models import Worker
from tests.app.build import make_job
from tests.app.receiver import Receiver
from tests.app.test_sweeps import succeed as measure
from tests.app.test_workers import make_worker
from tests.e2e.conftest import check_accessible, shot
from tests.e2e.service import Service

MODEL = "smollm2-135m-instruct"


def posted(service: Service, path: str, **body: Any) -> Any:
    """What the API answers."""
    headers = {"Authorization": f"Bearer {service.key}"}
    return httpx.post(f"{service.url}/v1/{path}", headers=headers, json=body or None).raise_for_status().json()


def test_jobs_are_compared(page: Page, jobs: dict[str, str]) -> None:
    page.goto("/jobs?state=succeeded")
    for name in ("smollm2 at 2:4", "smollm2 with RIA"):
        page.get_by_label(f"Select {name}").check()
    page.get_by_role("link", name="Compare").click()
    expect(page.get_by_role("heading", name="Compare 2 jobs")).to_be_visible()
    expect(page.locator("tr.differs", has_text="method")).to_contain_text("ria")
    expect(page.locator("tr.differs", has_text="accept_if.perplexity_ratio")).to_contain_text("1.15")
    expect(page.locator("tr", has_text="calibration.source")).to_have_count(0)
    expect(page.locator("tr", has_text="Perplexity, pruned").locator(".best")).to_contain_text("130.1")
    page.get_by_label("Layers of type").select_option("down_proj")
    check_accessible(page)
    shot(page, "compare")
    page.get_by_label("what is the same too").check()
    expect(page.locator("tr", has_text="calibration.source")).to_be_visible()


def test_the_charts_of_a_comparison_have_a_line_for_each_job(
    page: Page, service: Service, jobs: dict[str, str]
) -> None:
    names = {"succeeded": "smollm2 at 2:4", "ria": "smollm2 with RIA"}
    page.goto("/compare?" + "&".join(f"job={jobs[which]}" for which in names))
    page.get_by_label("Layers of type").select_option("down_proj")
    chart = page.locator("figure", has_text="Relative output error").first
    expect(chart.locator(".legend")).to_contain_text("".join(names.values()))
    errors = {which: errors_of(service, jobs[which], "down_proj") for which in names}
    lines = chart.locator("path.line")
    expect(lines).to_have_count(2)
    heights = []
    for place in range(2):
        points = re.findall(r"[ML]([\d.]+),([\d.]+)", str(lines.nth(place).get_attribute("d")))
        assert [float(x) for x, _ in points] == sorted({float(x) for x, _ in points})
        heights.append([float(y) for _, y in points])
    # Both are drawn to one scale: the same step in a value is the same way on the screen.
    values = errors["succeeded"] + errors["ria"]
    drawn = heights[0] + heights[1]
    a_unit = (drawn[-1] - drawn[0]) / (values[-1] - values[0])
    assert drawn == pytest.approx([drawn[0] + a_unit * (value - values[0]) for value in values])
    chart.get_by_role("button", name="Table").click()
    told = {
        f"{name}, block {block}": f"{error:.4g}"
        for which, name in names.items()
        for block, error in enumerate(errors[which])
    }
    rows = (row.split("\t") for row in chart.locator("tbody tr").all_inner_texts())
    assert {name: f"{float(value):.4g}" for name, value in rows} == told


def errors_of(service: Service, job_id: str, kind: str) -> list[float]:
    """The output errors of a job's layers of this type, block by block."""
    headers = {"Authorization": f"Bearer {service.key}"}
    report = httpx.get(f"{service.url}/v1/jobs/{job_id}/report", headers=headers).json()
    return [layer["relative_output_error"] for layer in report["layers"] if layer["type"] == kind]


def test_more_jobs_than_fit_side_by_side(page: Page, service: Service) -> None:
    many = [make_job(service.sessions, name=f"one of many {number}") for number in range(10)]
    page.goto("/compare?" + "&".join(f"job={job_id}" for job_id in [*many, many[0]]))
    expect(page.get_by_role("heading", name="Compare 8 jobs")).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("These are the first 8 of 10 jobs")
    check_accessible(page)
    shot(page, "compare-many")


def test_keys_are_made_and_revoked(page: Page, service: Service) -> None:
    page.goto("/keys")
    page.get_by_label("Name").fill("nightly")
    page.get_by_role("button", name="Make the key").click()
    expect(page.get_by_text("This is shown only once.")).to_be_visible()
    token = page.get_by_role("region", name="The new key").inner_text().strip()
    opened = httpx.get(f"{service.url}/v1/jobs", headers={"Authorization": f"Bearer {token}"})
    assert opened.status_code == 200
    check_accessible(page)
    shot(page, "keys")
    page.get_by_role("button", name="I have it").click()
    assert token not in page.content()
    page.get_by_role("button", name="Revoke nightly").click()
    page.get_by_role("button", name="Revoke the key").click()
    expect(page.locator("tr", has_text="nightly")).to_contain_text("revoked")
    opened = httpx.get(f"{service.url}/v1/jobs", headers={"Authorization": f"Bearer {token}"})
    assert opened.status_code == 401


def test_a_sweep_is_compared(page: Page, service: Service) -> None:
    page.goto("/sweeps")
    expect(page.get_by_role("heading", name="No sweeps yet")).to_be_visible()
    shot(page, "sweeps-empty")
    trials = [{"method": "ria"}, {"method": "wanda"}, {"pattern": "4:8"}]
    sweep = posted(service, "sweeps", model=MODEL, name="which method", trials=trials)
    page.get_by_role("link", name="which method").click()
    rows = page.get_by_role("region", name="Trials").locator("tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.nth(1)).to_contain_text("leaves no model")
    measure(service.sessions, sweep["trials"][0]["job_id"], 130.1, 146.2)
    expect(rows.nth(0)).to_contain_text("130.1")
    expect(rows.nth(0)).to_contain_text("best")
    expect(rows.nth(1)).to_contain_text("146.2")
    expect(page.get_by_role("status")).to_contain_text("1 queued, 1 succeeded")
    check_accessible(page)
    shot(page, "sweep")
    page.get_by_role("link", name="method=ria").click()
    page.get_by_role("link", name="its sweep").click()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel the sweep").click()
    expect(page.locator(".title .state")).to_have_text("cancelled")
    expect(page.locator(".sub")).to_contain_text("· ended ")
    shot(page, "sweep-ended")
    page.get_by_role("link", name="Compare its jobs").click()
    expect(page.get_by_role("heading", name="Compare 2 jobs")).to_be_visible()


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
