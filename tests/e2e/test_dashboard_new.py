"""The page in a real browser: a new job."""

import json

from playwright.sync_api import Page, expect

from tests.app.build import read_job
from tests.e2e.conftest import check_accessible, shot, shot_of
from tests.e2e.service import Service


def test_a_new_job_is_checked_while_one_types(page: Page, service: Service) -> None:
    page.goto("/new")
    page.get_by_role("button", name="Submit job").click()
    expect(page.get_by_label("Model")).to_be_focused()
    expect(page.locator(".fault").first).to_have_text("This is needed.")
    page.get_by_label("Model").fill("smollm2-135m-instruct")
    page.get_by_label("Pattern").fill("two of four")
    expect(page.get_by_text("Should look like 2:4.")).to_be_visible()
    expect(page.get_by_text("Shown when each field has a value that fits.")).to_be_visible()
    page.get_by_label("Pattern").fill("4:8")
    expect(page.get_by_text("Should look like 2:4.")).to_have_count(0)
    expect(page.get_by_text("Shown when each field has a value that fits.")).to_have_count(0)
    page.get_by_text("Calibration", exact=True).first.click()
    page.get_by_label("Samples").first.fill("0")
    expect(page.get_by_text("Should be 1 or more.")).to_be_visible()
    check_accessible(page)
    shot(page, "new-wrong")
    page.get_by_label("Samples").first.fill("8")
    page.get_by_label("Name").fill("from the page")
    page.get_by_role("button", name="Add a pair").click()
    page.get_by_label("Metadata: name 1").fill("te=am")
    page.get_by_label("Metadata: value 1").fill("web")
    page.get_by_role("tab", name="CLI", exact=True).click()
    command = page.get_by_role("region", name="Request as CLI")
    expect(command).to_contain_text("It has no options for: metadata.te=am.")
    expect(command).not_to_contain_text("--metadata")
    page.get_by_label("Metadata: name 1").fill("team")
    expect(command).to_contain_text("--metadata team=web")
    page.get_by_role("tab", name="JSON", exact=True).click()
    request = json.loads(page.get_by_role("region", name="Request as JSON").inner_text())
    assert request == {
        "model": "smollm2-135m-instruct",
        "pattern": "4:8",
        "calibration": {"samples": 8},
        "name": "from the page",
        "metadata": {"team": "web"},
    }
    page.get_by_role("tab", name="CLI", exact=True).click()
    expect(page.get_by_role("region", name="Request as CLI")).to_contain_text("--calibration-samples 8")
    shot(page, "new")
    page.get_by_role("button", name="Submit job").click()
    expect(page.get_by_role("heading", name="from the page")).to_be_visible()
    job = read_job(service.sessions, page.url.rpartition("/")[2])
    assert (job.spec["pattern"], job.spec["calibration"]["samples"], job.metadata_) == ("4:8", 8, {"team": "web"})


def test_a_job_is_estimated_while_one_types(page: Page, service: Service, jobs: dict[str, str]) -> None:
    page.goto("/new")
    section = page.locator("section", has=page.get_by_role("heading", name="Estimate"))
    expect(section).to_contain_text("Choose a model")
    page.get_by_label("Model").fill("smollm2-135m-instruct")
    expect(section).to_contain_text("of the dense 269 MB")
    page.get_by_label("Method").select_option("ria")
    expect(section).to_contain_text("From a job of this model with ria")
    check_accessible(page)
    shot(page, "new-estimate")
    shot_of(section, "new-estimate")
    page.get_by_label("Method").select_option("wanda")
    expect(section).to_contain_text("No job with wanda has succeeded here.")
    page.get_by_label("Model").fill("not-there")
    expect(section).to_contain_text("neither a model of this installation")


def test_what_the_service_refuses_is_shown(page: Page) -> None:
    page.goto("/new")
    page.get_by_label("Model").fill("not-there")
    page.get_by_role("button", name="Submit job").click()
    expect(page.get_by_role("alert")).to_contain_text("not-there")
    page.get_by_label("Model").fill("smollm2-135m-instruct")
    page.get_by_label("Method").select_option("ria")
    page.get_by_label("Effort").select_option("fast")
    page.get_by_role("button", name="Submit job").click()
    expect(page.get_by_role("alert")).to_contain_text("effort")
    shot(page, "new-refused")


def test_a_job_starts_from_another_one(page: Page, service: Service, jobs: dict[str, str]) -> None:
    page.goto(f"/jobs/{jobs['ria']}")
    page.get_by_role("link", name="Start from it").click()
    expect(page.get_by_label("Model")).to_have_value("smollm2-135m-instruct")
    expect(page.get_by_label("Pattern")).to_have_value("4:8")
    page.get_by_label("Method").select_option("wanda")
    page.get_by_role("button", name="Submit job").click()
    expect(page.locator(".title .state")).to_have_text("queued")
    made = read_job(service.sessions, page.url.rpartition("/")[2]).spec
    assert made == read_job(service.sessions, jobs["ria"]).spec | {"method": "wanda"}


def test_what_another_job_has_by_default_is_shown(page: Page, jobs: dict[str, str]) -> None:
    page.goto(f"/new?from={jobs['failed']}")
    expect(page.get_by_label("Method").locator("option:checked")).to_have_text("eggs (default)")
    page.get_by_text("Output", exact=True).first.click()
    expect(page.get_by_label("Format").locator("option:checked")).to_have_text("both (default)")
    shot(page, "new-from")
