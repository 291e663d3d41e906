"""The page in a real browser: signing in, and the list of jobs."""

import json
import re

from playwright.sync_api import BrowserContext, Page, Route, expect

from app.keys import service as keys
from app.keys.scopes import Scope
from tests.app.build import make_job, read_job
from tests.e2e.browser import session_of
from tests.e2e.conftest import PHONE, check_accessible, names, shot
from tests.e2e.service import Service, advance, claim


def test_signing_in_and_out(anonymous: Page, service: Service, jobs: dict[str, str]) -> None:
    page = anonymous
    page.goto(f"/jobs/{jobs['ria']}")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    check_accessible(page)
    shot(page, "sign-in")
    page.get_by_label("API key").fill("eggs_wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("The API key is not valid")
    shot(page, "sign-in-refused")
    page.get_by_label("API key").fill(service.key)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="smollm2 with RIA")).to_be_visible()  # where one wanted to go
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_focused()  # again, as when the page was opened
    page.keyboard.type(service.key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="smollm2 with RIA")).to_be_visible()
    kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
    assert json.loads(kept) == [{}, {}, ""]
    assert service.key not in page.content()
    page.reload()
    expect(page.get_by_role("heading", name="smollm2 with RIA")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_text("You are signed out.")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_a_session_that_ends_says_so(anonymous: Page, context: BrowserContext, service: Service) -> None:
    with service.sessions.begin() as session:
        key, token = keys.create(session, name="short", scopes=[Scope.JOBS_READ])
    context.add_cookies([session_of(service, token)])
    anonymous.goto("/jobs")
    expect(anonymous.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
    expect(anonymous.get_by_role("link", name="New job")).to_have_count(0)  # the key may only read
    with service.sessions.begin() as session:
        keys.revoke(session, key.id)
    expect(anonymous.get_by_text("Your session is over")).to_be_visible()


def test_jobs_are_filtered_sorted_and_kept_in_the_url(page: Page, jobs: dict[str, str]) -> None:
    page.goto("/jobs")
    expect(page.get_by_role("link", name="waits")).to_be_visible()
    first = ["waits", "on its way", "does not fit", "smollm2 with RIA", "smollm2 at 2:4"]
    for place, name in enumerate(first):
        expect(names(page).nth(place)).to_have_text(name)
    check_accessible(page)
    shot(page, "jobs")
    page.get_by_label("State").select_option("succeeded")
    expect(page.get_by_role("link", name="waits")).to_have_count(0)
    page.get_by_label("Search").fill("RIA")
    expect(page.get_by_role("link", name="smollm2 at 2:4")).to_have_count(0)
    expect(page).to_have_url(re.compile(r"state=succeeded&q=RIA$"))
    page.reload()
    expect(page.get_by_role("link", name="smollm2 with RIA")).to_be_visible()
    expect(names(page)).to_have_text(["smollm2 with RIA"])
    page.get_by_role("link", name="Clear filters").click()
    page.get_by_label("Tag", exact=True).fill("team=platform")
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="waits")).to_have_count(0)
    expect(names(page)).to_have_text(["does not fit"])
    page.get_by_role("button", name="Remove the tag team=platform").click()
    page.get_by_label("Method").select_option("wanda")
    expect(page.get_by_role("link", name="waits")).to_have_count(0)
    page.get_by_label("Method").select_option("")
    page.get_by_label("Model").fill("another-model")
    expect(page.get_by_role("link", name="on its way")).to_have_count(0)
    expect(names(page).first).to_have_text("waits")
    page.get_by_label("Search").fill("no job is called so")
    expect(page.get_by_role("heading", name="No job fits")).to_be_visible()
    shot(page, "jobs-none-fits")
    page.goto("/jobs")
    page.get_by_role("button", name="Job", exact=True).click()
    expect(page.get_by_role("columnheader", name="Job", exact=True)).to_have_attribute("aria-sort", "ascending")
    expect(page).to_have_url(re.compile("sort=name$"))
    expect(names(page).first).to_have_text("does not fit")
    page.get_by_role("button", name="Job", exact=True).click()
    expect(page.get_by_role("columnheader", name="Job", exact=True)).to_have_attribute("aria-sort", "descending")
    expect(page).to_have_url(re.compile("sort=-name$"))
    expect(names(page).first).to_have_text("waits")
    page.get_by_role("button", name="Submitted").click()
    expect(page.get_by_role("columnheader", name="Submitted")).to_have_attribute("aria-sort", "descending")
    page.get_by_role("button", name="Submitted").click()
    expect(names(page).first).to_have_text("smollm2 at 2:4")


def test_jobs_are_sorted_and_all_are_selected_on_a_phone(page: Page, jobs: dict[str, str]) -> None:
    by_age = ["smollm2 with RIA", "smollm2 at 2:4"]
    page.set_viewport_size(PHONE)
    page.goto("/jobs?state=succeeded")
    expect(names(page)).to_have_text(by_age)
    everything, column = page.get_by_label("Select all jobs of this page"), page.get_by_label("Sort by")
    expect(column.locator("option")).to_have_text(["Job", "State", "Model", "Method", "Submitted"])
    expect(column).to_have_value("created_at")
    everything.focus()
    page.keyboard.press("Space")
    expect(page.get_by_text("2 selected")).to_be_visible()
    page.keyboard.press("Tab")
    expect(column).to_be_focused()
    page.keyboard.type("job")
    expect(page).to_have_url(re.compile("sort=name$"))
    expect(names(page)).to_have_text(by_age[::-1])
    check_accessible(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    shot(page, "phone-jobs-sorted")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Ascending: turn round")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("sort=-name$"))
    expect(names(page)).to_have_text(by_age)
    column.select_option("Submitted")
    expect(page).to_have_url(re.compile("state=succeeded$"))
    expect(names(page)).to_have_text(by_age)


def test_pages_survive_a_reload_and_jobs_are_cancelled_in_bulk(page: Page, service: Service) -> None:
    many = [make_job(service.sessions, name=f"many {number:02}", model="bulk") for number in range(30)]
    page.goto("/jobs?model=bulk")
    expect(page.get_by_role("link", name="many 29")).to_be_visible()
    page.get_by_role("button", name="Next").click()
    expect(page.get_by_role("link", name="many 04")).to_be_visible()
    page.reload()
    expect(page.get_by_text("Page 2")).to_be_visible()
    expect(page.get_by_role("link", name="many 04")).to_be_visible()
    expect(names(page)).to_have_text([f"many {number:02}" for number in reversed(range(5))])
    page.get_by_label("Select many 03").check()
    page.get_by_label("Select many 01").check()
    page.get_by_role("button", name="Cancel", exact=True).click()
    shot(page, "jobs-cancel")
    check_accessible(page)
    page.get_by_role("button", name="Cancel 2 jobs").click()
    expect(page.get_by_text("2 of 2 jobs cancelled.")).to_have_count(1)
    expect(page.locator("tr", has_text="many 03")).to_contain_text("cancelled")
    assert [read_job(service.sessions, many[number]).state for number in (3, 1, 2)] == [
        "cancelled",
        "cancelled",
        "queued",
    ]
    everything = page.get_by_label("Select all jobs of this page")
    everything.check()
    expect(page.get_by_text("5 selected")).to_be_visible()
    everything.uncheck()
    expect(page.get_by_text("5 selected")).to_have_count(0)
    everything.check()
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel 3 jobs").click()  # two were before
    expect(page.get_by_text("3 of 3 jobs cancelled.")).to_have_count(1)
    assert {read_job(service.sessions, job_id).state for job_id in many[:5]} == {"cancelled"}
    assert read_job(service.sessions, many[5]).state == "queued"
    page.get_by_role("button", name="Previous").click()
    expect(page.get_by_role("link", name="many 29")).to_be_visible()
    page.go_back()
    expect(page.get_by_text("Page 2")).to_be_visible()


def test_the_table_is_live(page: Page, service: Service) -> None:
    job_id = make_job(service.sessions, name="lives", model="live")
    page.goto("/jobs?model=live")
    row = page.locator("tr", has_text="lives")
    expect(row).to_contain_text("queued")
    lease = claim(service, job_id)
    advance(service, lease, 15)
    expect(row).to_contain_text("47 %")
    make_job(service.sessions, name="comes later", model="live")
    expect(page.get_by_role("link", name="comes later")).to_be_visible()


def test_no_jobs_loading_and_no_connection(
    anonymous: Page, context: BrowserContext, service: Service, jobs: dict[str, str]
) -> None:
    page = anonymous
    with service.sessions.begin() as session:
        _, token = keys.create(session, name="new", project="new", scopes=list(Scope))
    context.add_cookies([session_of(service, token)])
    held: list[Route] = []
    page.route("**/v1/jobs?*", lambda route: held.append(route))
    page.goto("/jobs")
    expect(page.get_by_role("status", name="Loading jobs")).to_be_visible()
    shot(page, "jobs-loading")
    held.pop().continue_()
    page.unroute("**/v1/jobs?*")
    expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()
    check_accessible(page)
    shot(page, "jobs-empty")
    page.route("**/v1/jobs?*", lambda route: route.abort())
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached")
    check_accessible(page)
    shot(page, "jobs-unreachable")
    page.unroute("**/v1/jobs?*")
    expect(page.get_by_role("alert")).to_have_count(0)
    page.route("**/v1/session", lambda route: route.abort())
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("This page tries again by itself.")
    check_accessible(page)
    shot(page, "unreachable")
    page.unroute("**/v1/session")
    expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()
    page.goto("/jobs/job_00000000000000000000000000")
    expect(page.get_by_role("alert")).to_contain_text("No such job")
    check_accessible(page)
    shot(page, "job-not-there")
    page.goto(f"/jobs/{jobs['ria']}")  # of another project
    expect(page.get_by_role("alert")).to_contain_text("No such job")
