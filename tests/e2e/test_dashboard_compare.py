"""The page in a real browser: jobs side by side, and the trials of a sweep."""

import re

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.app.build import make_job
from tests.app.test_sweeps import succeed as measure
from tests.e2e.conftest import PHONE, check_accessible, shot
from tests.e2e.service import MODEL, Service, fail, posted


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
    speeds = page.locator("tr", has_text="Packed / dense speed").locator("td")
    expect(speeds).to_have_text(["0.87 ×", "1.43 × (best)"])
    times = page.get_by_role("row", name="Time").locator("td")
    expect(times).to_have_text(["45 s (best)", "2 min"])
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
    report = httpx.get(f"{service.url}/v1/jobs/{job_id}/report", headers=headers, timeout=60).json()
    return [layer["relative_output_error"] for layer in report["layers"] if layer["type"] == kind]


def test_more_jobs_than_fit_side_by_side(page: Page, service: Service) -> None:
    many = [make_job(service.sessions, name=f"one of many {number}") for number in range(10)]
    page.goto("/compare?" + "&".join(f"job={job_id}" for job_id in [*many, many[0]]))
    expect(page.get_by_role("heading", name="Compare 8 jobs")).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("These are the first 8 of 10 jobs")
    check_accessible(page)
    shot(page, "compare-many")


def test_a_job_that_is_not_there_is_named(page: Page, jobs: dict[str, str]) -> None:
    page.goto(f"/compare?job={jobs['succeeded']}&job=job_nothing")
    expect(page.get_by_role("alert")).to_contain_text("job_nothing")
    check_accessible(page)
    shot(page, "compare-unknown")


def test_jobs_without_a_report(page: Page, service: Service, jobs: dict[str, str]) -> None:
    page.goto(f"/compare?job={jobs['failed']}&job={jobs['queued']}")
    expect(page.get_by_role("row", name="No report yet")).to_be_visible()
    check_accessible(page)
    shot(page, "compare-no-report")
    page.set_viewport_size(PHONE)
    shot(page, "phone-compare-no-report")
    another = fail(service, name="does not fit either")
    page.goto(f"/compare?job={jobs['failed']}&job={another}")
    expect(page.get_by_role("row", name="None of these jobs has succeeded")).to_be_visible()
    page.goto(f"/compare?job={jobs['succeeded']}&job={another}")
    expect(page.get_by_role("row", name="Perplexity, pruned")).to_be_visible()
    expect(page.locator("main")).not_to_contain_text("No report")


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
