"""The page in a real browser, for everybody: in the dark, on a phone, by keyboard alone, with many jobs."""

import json
import re
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from app.keys import service as keys
from app.keys.scopes import Scope
from tests.app.build import make_job, read_job
from tests.e2e.browser import DESKTOP, session_of
from tests.e2e.conftest import PHONE, check_accessible, names, shot
from tests.e2e.service import Service, make_many

JOBS = 10_000

PAGES = {
    "jobs": lambda jobs: "/jobs",
    "job": lambda jobs: f"/jobs/{jobs['succeeded']}",
    "running": lambda jobs: f"/jobs/{jobs['running']}",
    "new": lambda jobs: "/new",
    "compare": lambda jobs: f"/compare?job={jobs['succeeded']}&job={jobs['ria']}",
    "keys": lambda jobs: "/keys",
    "webhooks": lambda jobs: "/webhooks",
    "workers": lambda jobs: "/workers",
    "sweeps": lambda jobs: "/sweeps",
}


@pytest.mark.parametrize("name", PAGES)
def test_dark_and_narrow(page: Page, jobs: dict[str, str], name: str) -> None:
    """On a phone, and at 200% zoom (half the width), nothing is cut off; and the dark theme can be read too."""
    where: Callable[[dict[str, str]], str] = PAGES[name]
    page.emulate_media(color_scheme="dark")
    page.goto(where(jobs))
    page.wait_for_load_state("networkidle") if name != "running" else page.locator(".live").wait_for()
    check_accessible(page)
    shot(page, f"dark-{name}")
    for label, width in (("zoom", DESKTOP["width"] // 2), ("phone", PHONE["width"])):
        page.set_viewport_size({"width": width, "height": PHONE["height"]})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, label
        shot(page, f"{label}-{name}")
    check_accessible(page)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/jobs/nothing", "There is no such page"),
        ("/compare", "Nothing to compare"),
        ("/sweeps/sweep_00000000000000000000000000", "No such sweep"),
        ("/shared#eggs_share_nothing", "The link is over"),
        ("/shared#eggs_sha", "The link is not whole"),
        ("/shared", "The link is not whole"),
    ],
)
def test_what_is_not_there(page: Page, path: str, said: str) -> None:
    page.goto(path)
    expect(page.locator("main")).to_contain_text(said)
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)
    check_accessible(page)


@pytest.mark.parametrize("status", [408, 429, 503])
def test_what_may_pass_can_be_tried_again(page: Page, status: int) -> None:
    problem = json.dumps({"title": "Not now", "detail": "Ask again in a moment."})
    page.route("**/v1/keys", lambda route: route.fulfill(status=status, body=problem))
    page.goto("/keys")
    expect(page.get_by_role("alert")).to_contain_text("Not now")
    page.unroute("**/v1/keys")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("region", name="Keys")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_what_a_key_may_not_do_is_not_tried_again(
    anonymous: Page, context: BrowserContext, service: Service
) -> None:
    page = anonymous
    with service.sessions.begin() as session:
        _, token = keys.create(session, name="reader", scopes=[Scope.JOBS_READ])
    context.add_cookies([session_of(service, token)])
    page.goto("/keys")
    expect(page.get_by_role("alert")).to_contain_text("admin")
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)


def test_what_is_wrong_with_a_request_is_said_once(page: Page) -> None:
    page.goto("/jobs?after=nothing")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("The request is not valid")
    expect(alert.get_by_text("should match pattern")).to_have_count(1)
    expect(alert.get_by_role("button")).to_have_count(0)
    check_accessible(page)


def test_without_scripts_it_says_where_the_api_is_told_of(browser: Browser, service: Service) -> None:
    with closing(browser.new_context(base_url=service.url, java_script_enabled=False)) as context:
        page = context.new_page()
        page.goto("/jobs")
        page.locator("noscript a").click()
        expect(page.locator("body")).to_contain_text("/v1/jobs")


def test_a_theme_is_chosen_and_kept(page: Page) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    page.goto("/jobs")
    light = page.evaluate(ground)
    page.get_by_label("Theme").select_option("dark")
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    assert page.evaluate(ground) == dark
    page.get_by_label("Theme").select_option("system")
    assert page.evaluate(ground) == light


def tab_to(page: Page, name: str) -> list[str]:
    """Presses Tab until what has this name has the focus; each stop on the way, all of which can be seen."""
    stops: list[str] = []
    while name not in stops:
        page.keyboard.press("Tab")
        stop = page.evaluate(
            "(() => { const at = document.activeElement;"
            "const style = getComputedStyle(at), box = at.getBoundingClientRect();"
            "return { name: at.getAttribute('aria-label') || at.textContent.trim() || at.id || at.name,"
            "ring: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0,"
            "seen: box.width > 0 && box.top >= 0 && box.bottom <= innerHeight }; })()"
        )
        assert stop["ring"], stop
        assert stop["seen"], stop
        stops.append(stop["name"])
        assert len(stops) < 60, stops
    return stops


def test_by_keyboard_alone(page: Page, jobs: dict[str, str]) -> None:
    """To a job and back: every stop of the Tab key can be seen."""
    page.goto("/jobs?state=running")
    expect(page.get_by_role("link", name="on its way")).to_be_visible()
    assert tab_to(page, "on its way")[0] == "Skip to the content"
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="on its way")).to_be_visible()
    page.go_back()
    expect(page).to_have_url(re.compile("state=running$"))


def test_a_question_gives_the_focus_back(page: Page, service: Service) -> None:
    page.goto(f"/jobs/{make_job(service.sessions)}")
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    tab_to(page, "Cancel")
    for back in ("Escape", "Enter"):
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Go back")).to_be_focused()
        page.keyboard.press(back)
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(page.get_by_role("button", name="Cancel")).to_be_focused()


def test_a_job_is_submitted_by_keyboard_alone(page: Page, service: Service) -> None:
    page.goto("/jobs")
    expect(page.get_by_role("link", name="New job").last).to_be_visible()
    tab_to(page, "New job")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Name")).to_be_visible()
    tab_to(page, "field-name")
    page.keyboard.type("by hand")
    tab_to(page, "field-model")
    page.keyboard.type("smollm2-135m-instruct")
    tab_to(page, "field-pattern")
    page.keyboard.type("4:8")
    page.keyboard.press("Tab")
    page.keyboard.type("ria")
    expect(page.get_by_label("Method")).to_have_value("ria")
    tab_to(page, "Calibration")
    page.keyboard.press("Space")
    tab_to(page, "field-calibration-samples")
    page.keyboard.type("8")
    tab_to(page, "Submit job")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="by hand")).to_be_visible()
    spec = read_job(service.sessions, page.url.rpartition("/")[2]).spec
    assert (spec["pattern"], spec["method"], spec["calibration"]["samples"]) == ("4:8", "ria", 8)


def test_the_first_page_is_small_also_with_many_jobs(
    anonymous: Page, context: BrowserContext, service: Service
) -> None:
    """How quick it is depends on the machine: `python -m benchmarks.dashboard` measures that."""
    page = anonymous
    token = make_many(service, JOBS)
    context.add_cookies([session_of(service, token)])
    sizes: dict[str, int] = {}

    def note(response: Any) -> None:
        if response.url.endswith(".js"):
            sizes[response.url] = response.request.sizes()["responseBodySize"]

    page.on("requestfinished", lambda request: note(request.response()))
    page.goto("/jobs")
    expect(names(page).first).to_have_text(f"job {JOBS - 1:05}")
    assert len(sizes) >= 10
    assert sum(sizes.values()) < 100_000
    assert names(page).count() == 25
    assert page.locator("*").count() < 1000, "only what is seen is in the page"
    page.get_by_label("Search").fill("job 00007")
    expect(names(page)).to_have_text(["job 00007"])
