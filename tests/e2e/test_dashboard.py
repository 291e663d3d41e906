"""The page in a real browser: every flow with mouse and keyboard, and in every state it can be in.

Screenshots go to `build/screenshots`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect, sync_playwright
from sqlalchemy import update

from app.db import utcnow
from app.jobs import leases
from app.keys import service as keys
from app.keys.service import Scope
from app.workers import service as workers
from app.workers.models import Worker
from tests.app.build import make_job, read_job
from tests.app.receiver import Receiver, receiver
from tests.app.test_sweeps import succeed as measure
from tests.app.test_workers import make_worker
from tests.conftest import wait_for
from tests.e2e.service import BLOCKS, CONTENT, MASKED, Service, advance, claim, fail, make_many, running, succeed

__all__ = ["receiver"]

CHROMIUM = "/usr/bin/chromium"
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
PUSH = {"push_to_hub": {"repo_id": "acme/smollm2-135m-2of4"}}
JOBS = 10_000
ACCEPT = {"accept_if": {"perplexity_ratio": 1.15}}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("service")) as service:
        yield service


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or CHROMIUM
    assert Path(path).exists(), f"The browser is missing: install Debian's package `chromium` ({CHROMIUM})."
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def jobs(service: Service) -> dict[str, str]:
    """A job in each state, by what it is."""
    found = {
        "succeeded": succeed(
            service, name="smollm2 at 2:4", metadata={"team": "research"}, days=30, output=PUSH, **ACCEPT
        ),
        "ria": succeed(
            service,
            name="smollm2 with RIA",
            method="ria",
            quality=1.2,
            pattern="4:8",
            priority=3,
            metadata={"why": "to compare"},
        ),
        "failed": fail(service, name="does not fit", metadata={"team": "platform"}),
        "running": make_job(service.sessions, name="on its way", method="wanda"),
        "queued": make_job(service.sessions, model="another-model", name="waits"),
    }
    lease = claim(service, found["running"])
    for block in range(1, 13):
        advance(service, lease, block)
    return found


def watched(page: Page) -> list[str]:
    """What goes wrong on a page from now on: exceptions, and what its own policy forbids it."""
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if "Content Security" in message.text else None)
    return faults


def session_of(service: Service, key: str) -> Any:
    answer = httpx.post(f"{service.url}/v1/session", headers={"Authorization": f"Bearer {key}"})
    return {"name": "eggs_session", "value": answer.cookies["eggs_session"], "url": f"{service.url}/v1/"}


@pytest.fixture(scope="module")
def cookie(service: Service) -> Any:
    return session_of(service, service.key)


@pytest.fixture
def context(browser: Browser, service: Service) -> Iterator[BrowserContext]:
    """A browser of its own, that waits for nothing long and may use the clipboard."""
    context = browser.new_context(base_url=service.url, viewport=DESKTOP, reduced_motion="reduce")
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(8000)
    yield context
    context.close()


@pytest.fixture
def anonymous(context: BrowserContext) -> Iterator[Page]:
    page = context.new_page()
    faults = watched(page)
    yield page
    assert faults == []


@pytest.fixture
def page(anonymous: Page, context: BrowserContext, cookie: Any) -> Page:
    """A page that is signed in."""
    context.add_cookies([cookie])
    return anonymous


def shot(page: Page, name: str) -> None:
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


def shot_of(part: Locator, name: str) -> None:
    """The part alone, in both themes and on a phone."""
    for scheme in ("light", "dark"):
        part.page.emulate_media(color_scheme=scheme)
        part.screenshot(path=SCREENSHOTS / f"{name}-{scheme}.png")
    part.page.set_viewport_size(PHONE)
    part.screenshot(path=SCREENSHOTS / f"{name}-phone.png")
    part.page.set_viewport_size(DESKTOP)
    part.page.emulate_media(color_scheme="light")


def check_accessible(page: Page) -> None:
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


# ---------------------------------------------------------------- signing in


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


# ---------------------------------------------------------------- jobs


def names(page: Page) -> Locator:
    return page.locator("table.jobs tbody td.name a")


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
    expect(page.locator("table.jobs tbody td.name a").first).to_have_text("does not fit")


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
    shot(page, "jobs-unreachable")
    page.unroute("**/v1/jobs?*")
    expect(page.get_by_role("alert")).to_have_count(0)
    page.goto("/jobs/job_00000000000000000000000000")
    expect(page.get_by_role("alert")).to_contain_text("No such job")
    page.goto(f"/jobs/{jobs['ria']}")  # of another project
    expect(page.get_by_role("alert")).to_contain_text("No such job")


# ---------------------------------------------------------------- one job


def test_a_job_is_followed_to_its_end(page: Page, service: Service) -> None:
    job_id = make_job(service.sessions, name="followed")
    page.goto(f"/jobs/{job_id}")
    expect(page.get_by_text("Waiting for a worker.").first).to_be_visible()
    lease = claim(service, job_id)
    for block in range(1, 13):
        advance(service, lease, block)
    expect(page.get_by_role("img", name=f"12 of {BLOCKS} blocks are pruned")).to_be_visible()
    expect(page.locator(".live")).to_contain_text("12 of 30")
    expect(page.locator(".live")).to_contain_text("blocks/min")
    expect(page.locator(".live")).to_contain_text(re.compile(r"Left, about\s*\d+ (s|min|h)"))
    expect(page.locator(".log li").first).to_contain_text("Pruning, block 12 of 30")
    check_accessible(page)
    shot(page, "job-running")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel the job").click()
    expect(page.get_by_role("button", name="Cancelling…")).to_be_disabled()
    with service.sessions.begin() as session:
        leases.confirm_cancelled(session, lease)
    expect(page.locator(".title .state")).to_have_text("cancelled")
    expect(page.locator(".live")).to_have_count(0)
    page.get_by_role("button", name="Run again").click()
    expect(page.locator(".title .state")).to_have_text("queued")
    assert job_id not in page.url
    again = page.url.rpartition("/")[2]
    assert read_job(service.sessions, again).spec == read_job(service.sessions, job_id).spec


def test_the_report_of_a_job(page: Page, jobs: dict[str, str], tmp_path: Path) -> None:
    page.goto(f"/jobs/{jobs['succeeded']}")
    expect(page.get_by_role("heading", name="Report")).to_be_visible()
    expect(page.locator(".figures")).to_contain_text("20.4 → 130")
    expect(page.locator(".verdict").first).to_contain_text("rejected")
    expect(page.get_by_role("region", name="What accept_if asks for")).to_contain_text("at most 1.15")
    expect(page.get_by_role("link", name="acme/smollm2-135m-2of4")).to_be_visible()
    expect(page.get_by_text("They are kept until")).to_be_visible()
    check_accessible(page)
    shot(page, "job-report")

    expect(page.locator("figure.chart figcaption strong")).to_have_text(
        [
            "Relative output error",
            "Importance kept",
            "Fewest edges of an input channel",
            "Second singular value / Ramanujan bound",
            "Sparsity",
        ]
    )
    chart = page.locator("figure", has_text="Relative output error").first
    picture = chart.get_by_role("img")
    picture.hover(position={"x": 200, "y": 120})
    expect(chart.locator(".tip")).to_contain_text(re.compile(r"model\.layers\.\d+\..*_proj: 0\.0\d+"))
    picture.focus()
    page.keyboard.press("Home")
    expect(chart.locator(".tip")).to_contain_text("model.layers.0.self_attn.q_proj")
    page.keyboard.press("ArrowRight")
    expect(chart.locator(".tip")).to_contain_text("model.layers.1.self_attn.q_proj")
    shot(page, "job-chart")
    with page.expect_download() as download:
        chart.get_by_role("button", name="Relative output error as CSV").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0] == "series,block,layer,Relative output error"
    assert len(lines) == 1 + 7 * BLOCKS
    with page.expect_download() as download:
        chart.get_by_role("button", name="Relative output error as SVG").click()
    drawn = Path(download.value.path()).read_text()
    assert drawn.startswith("<svg")
    assert "var(" not in drawn
    chart.get_by_role("button", name="q_proj").click()
    chart.get_by_role("button", name="Table").click()
    expect(chart.locator("tbody tr")).to_have_count(6 * BLOCKS)

    with page.expect_download() as download:
        page.get_by_role("link", name="model.safetensors", exact=True).click()
    assert Path(download.value.path()).read_bytes() == CONTENT
    page.get_by_role("button", name="Copy sha256").first.click()
    assert len(page.evaluate("navigator.clipboard.readText()")) == 64
    page.get_by_role("tab", name="Packed").click()
    expect(page.get_by_role("region", name="Packed")).to_contain_text("import eggs_core")


def copied(command: list[str], service: Service, folder: Path) -> str:
    """What a command prints that was copied from the page, where it is run with a key."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"EGGS_API_KEY": service.key, "PATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_files_are_downloaded_as_the_page_says(
    page: Page, service: Service, jobs: dict[str, str], tmp_path: Path
) -> None:
    page.goto(f"/jobs/{jobs['succeeded']}")
    page.get_by_role("tab", name="Download").click()
    code = page.get_by_role("region", name="Download").inner_text()
    assert "model.safetensors: OK" in copied(["sh", "-c", code], service, tmp_path)
    assert (tmp_path / "pruned" / "model.safetensors").read_bytes() == CONTENT


def test_the_mask_of_a_layer_is_drawn_in_the_theme_that_is_chosen(page: Page, jobs: dict[str, str]) -> None:
    page.goto(f"/jobs/{jobs['succeeded']}")
    section = page.locator("section", has=page.get_by_role("heading", name="Masks"))
    expect(section.locator(".told")).to_contain_text("the column that keeps fewest keeps")
    page.wait_for_load_state("networkidle")
    canvas = section.locator("canvas")

    def drawn() -> str:
        return str(canvas.evaluate("canvas => canvas.toDataURL()"))

    light = drawn()
    page.get_by_label("Theme").select_option("dark")
    wait_for(lambda: drawn() != light)
    page.get_by_label("Theme").select_option("light")
    wait_for(lambda: drawn() == light)


def test_the_mask_of_a_layer(page: Page, jobs: dict[str, str]) -> None:
    page.goto(f"/jobs/{jobs['succeeded']}")
    section = page.locator("section", has=page.get_by_role("heading", name="Masks"))
    picture = section.get_by_role("img")
    told = section.locator(".told")
    layer = section.get_by_role("combobox")
    expect(layer.locator("option")).to_have_text(list(MASKED))
    layer.select_option(MASKED[1])
    expect(picture).to_have_accessible_name(re.compile(r"down_proj, 576 output by 1536 input channels"))
    expect(told).to_contain_text("the column that keeps fewest keeps")
    shot_of(section, "job-mask-whole")
    section.get_by_role("button", name="Single weights").click()
    groups = section.locator("code")
    expect(groups).to_have_text(re.compile(r"^[01]{4}( [01]{4}){7}$"))
    assert all(group.count("1") == 2 for group in groups.inner_text().split())
    before = told.inner_text()
    picture.focus()
    page.keyboard.press("ArrowRight")
    expect(told).not_to_have_text(before)
    picture.hover(position={"x": 40, "y": 40})
    expect(told).to_contain_text(re.compile(r"Row \d+, column \d+, group \d+: (kept|pruned)"))
    where = told.inner_text().splitlines()[0]
    page.mouse.wheel(0, -100)
    expect(section.get_by_text("32 × 32 pixels a weight")).to_be_visible()
    assert told.inner_text().splitlines()[0] == where, "what is under the pointer stays there"
    check_accessible(page)
    shot_of(section, "job-mask")
    page.keyboard.press("Home")
    expect(section.get_by_text("weights a pixel")).to_be_visible()


def test_a_job_that_failed_says_why(page: Page, jobs: dict[str, str]) -> None:
    page.goto(f"/jobs/{jobs['failed']}")
    expect(page.get_by_role("alert")).to_contain_text("The pattern does not fit a layer")
    expect(page.locator(".log")).to_contain_text("1530 input channels")
    check_accessible(page)
    shot(page, "job-failed")


@pytest.mark.parametrize("form", ["curl", "Python", "CLI"])
def test_the_request_makes_the_same_job_elsewhere(
    page: Page, service: Service, jobs: dict[str, str], form: str, tmp_path: Path
) -> None:
    """What the page offers to copy is run, and makes a job with the same request."""
    page.goto(f"/jobs/{jobs['ria']}")
    page.get_by_role("tab", name=form, exact=True).click()
    code = page.get_by_role("region", name=f"Request as {form}").inner_text()
    if form == "Python":
        said = copied([sys.executable, "-c", code], service, tmp_path)
    else:
        said = copied(["sh", "-c", code.replace("--wait", "").rstrip().removesuffix("\\")], service, tmp_path)
    made = re.search(r"job_\w{26}", said)
    assert made is not None, said
    before, after = (read_job(service.sessions, job_id) for job_id in (jobs["ria"], made[0]))
    assert after.spec == before.spec
    assert (after.name, after.metadata_, after.priority) == (before.name, before.metadata_, before.priority)


# ---------------------------------------------------------------- a new job


def test_a_new_job_is_checked_while_one_types(page: Page, service: Service) -> None:
    page.goto("/new")
    page.get_by_role("button", name="Submit job").click()
    expect(page.get_by_label("Model")).to_be_focused()
    expect(page.locator(".fault").first).to_have_text("This is needed.")
    page.get_by_label("Model").fill("smollm2-135m-instruct")
    page.get_by_label("Pattern").fill("two of four")
    expect(page.get_by_text("Should look like 2:4.")).to_be_visible()
    page.get_by_label("Pattern").fill("4:8")
    expect(page.get_by_text("Should look like 2:4.")).to_have_count(0)
    page.get_by_text("Calibration", exact=True).first.click()
    page.get_by_label("Samples").first.fill("0")
    expect(page.get_by_text("Should be 1 or more.")).to_be_visible()
    check_accessible(page)
    shot(page, "new-wrong")
    page.get_by_label("Samples").first.fill("8")
    page.get_by_label("Name").fill("from the page")
    page.get_by_role("button", name="Add a pair").click()
    page.get_by_label("Metadata: name 1").fill("team")
    page.get_by_label("Metadata: value 1").fill("web")
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


# ---------------------------------------------------------------- comparing, keys, webhooks


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
    expect(page.locator("figure").first.locator(".legend")).to_contain_text("smollm2 with RIA")
    page.get_by_label("Layers of type").select_option("down_proj")
    check_accessible(page)
    shot(page, "compare")
    page.get_by_label("what is the same too").check()
    expect(page.locator("tr", has_text="calibration.source")).to_be_visible()


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


def test_webhooks_are_made_tried_and_deleted(page: Page, receiver: Receiver) -> None:
    page.goto("/webhooks")
    expect(page.get_by_role("heading", name="No webhooks")).to_be_visible()
    page.get_by_label("URL").fill(receiver.url)
    page.get_by_role("button", name="Make the webhook").click()
    expect(page.get_by_role("region", name="The secret")).to_contain_text("whsec_")
    page.get_by_role("button", name="I have it").click()
    page.get_by_role("button", name="Send a ping").click()
    expect(page.locator(".hook tbody tr").first).to_contain_text("delivered")
    check_accessible(page)
    shot(page, "webhooks")
    page.get_by_role("button", name="Disable").click()
    expect(page.locator(".hook .title")).to_contain_text("disabled")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete the webhook").click()
    expect(page.get_by_role("heading", name="No webhooks")).to_be_visible()


def test_a_sweep_is_compared(page: Page, service: Service) -> None:
    page.goto("/sweeps")
    expect(page.get_by_role("heading", name="No sweeps yet")).to_be_visible()
    shot(page, "sweeps-empty")
    trials = [{"method": "ria"}, {"method": "wanda"}, {"pattern": "4:8"}]
    body = {"model": "smollm2-135m-instruct", "name": "which method", "trials": trials}
    answer = httpx.post(f"{service.url}/v1/sweeps", headers={"Authorization": f"Bearer {service.key}"}, json=body)
    sweep = answer.json()
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
    page.get_by_role("link", name="Compare its jobs").click()
    expect(page.get_by_role("heading", name="Compare 2 jobs")).to_be_visible()


def test_workers_are_seen(page: Page, service: Service, jobs: dict[str, str]) -> None:
    page.goto("/workers")
    expect(page.get_by_role("heading", name="No worker is running")).to_be_visible()
    another = make_job(service.sessions, project="another")
    make_worker(service.sessions, jobs["running"], hostname="gpu-1", gpus="NVIDIA H100 80GB HBM3\n" * 4)
    make_worker(service.sessions, another, hostname="gpu-2")
    idle = make_worker(service.sessions, hostname="cpu-1", gpus="", gpu_memory_bytes=0)
    lost = make_worker(service.sessions, hostname="cpu-2", gpus="", gpu_memory_bytes=0)
    with service.sessions.begin() as session:
        past = utcnow() - timedelta(minutes=5)
        session.execute(update(Worker).where(Worker.id == lost).values(last_seen_at=past))
    expect(page.get_by_text("2 busy, 1 idle, 1 lost.")).to_be_visible()
    expect(page.locator("tr", has_text="gpu-1")).to_contain_text("4 × NVIDIA H100 80GB HBM3")
    expect(page.locator("tr", has_text="gpu-2")).to_contain_text("with another project's job")
    expect(page.locator("tr", has_text="cpu-2")).to_contain_text("lost")
    check_accessible(page)
    shot(page, "workers")
    with service.sessions.begin() as session:
        workers.leave(session, idle)
    expect(page.locator("tr", has_text="cpu-1")).to_have_count(0)
    page.get_by_role("link", name=jobs["running"]).click()
    expect(page.get_by_role("heading", name="on its way")).to_be_visible()


# ---------------------------------------------------------------- sharing


def test_a_job_is_shared_by_a_link(page: Page, browser: Browser, service: Service, jobs: dict[str, str]) -> None:
    page.goto(f"/jobs/{jobs['succeeded']}")
    section = page.locator("section", has=page.get_by_role("heading", name="Share"))
    section.get_by_label("Good for").select_option("30")
    section.get_by_role("button", name="Make a link").click()
    link = section.get_by_role("region", name="The link").inner_text().strip()
    until = utcnow() + timedelta(days=30)
    expect(section.locator("tbody tr")).to_contain_text(f"{until:%b %Y}")
    expect(section.locator("tbody tr")).to_have_count(1)
    check_accessible(page)
    shot_of(section, "job-share")

    strangers = browser.new_context(base_url=service.url, viewport=DESKTOP, reduced_motion="reduce")
    try:
        stranger = strangers.new_page()
        faults = watched(stranger)
        stranger.goto(link)
        expect(stranger.get_by_text("You see this job by a link")).to_be_visible()
        expect(stranger.get_by_role("heading", name="smollm2 at 2:4")).to_be_visible()
        expect(stranger.locator(".figures")).to_contain_text("20.4 → 130")
        expect(stranger.locator(".log")).to_have_count(1)
        expect(stranger.locator(".told")).to_contain_text("keeps fewest")
        for name in ("Run again", "Make a link", "Sign out", "Cancel"):
            expect(stranger.get_by_role("button", name=name)).to_have_count(0)
        expect(stranger.get_by_role("navigation")).to_have_count(0)
        expect(stranger.get_by_role("link", name="Start from it")).to_have_count(0)
        with stranger.expect_download() as download:
            stranger.get_by_role("link", name="model.safetensors", exact=True).click()
        assert Path(download.value.path()).read_bytes() == CONTENT
        check_accessible(stranger)
        shot(stranger, "shared")
        stranger.set_viewport_size(PHONE)
        assert stranger.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        shot(stranger, "phone-shared")
        stranger.goto(f"/jobs/{jobs['succeeded']}")
        expect(stranger.get_by_role("heading", name="Sign in")).to_be_visible()
        section.get_by_role("button", name="End share").click()
        page.get_by_role("button", name="End the link").click()
        expect(section.locator("tbody tr")).to_have_count(0)
        stranger.goto(link)
        expect(stranger.get_by_role("alert")).to_contain_text("The link is over")
        shot(stranger, "shared-over")
        assert faults == []
    finally:
        strangers.close()


# ---------------------------------------------------------------- for everybody

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
    for label, width in (("phone", PHONE["width"]), ("zoom", DESKTOP["width"] // 2)):
        page.set_viewport_size({"width": width, "height": PHONE["height"]})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, label
        shot(page, f"{label}-{name}")
    check_accessible(page)


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


def test_by_keyboard_alone(page: Page, jobs: dict[str, str]) -> None:
    """To a job and back: every stop of the Tab key can be seen."""
    page.goto("/jobs?state=running")
    expect(page.get_by_role("link", name="on its way")).to_be_visible()
    stops: list[str] = []
    for _ in range(40):
        page.keyboard.press("Tab")
        stop = page.evaluate(
            "(() => { const at = document.activeElement;"
            "const style = getComputedStyle(at), box = at.getBoundingClientRect();"
            "return { name: at.getAttribute('aria-label') || at.textContent.trim() || at.id || at.name,"
            "ring: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0,"
            "seen: box.width > 0 && box.top >= 0 }; })()"
        )
        assert stop["ring"], stop
        assert stop["seen"], stop
        stops.append(stop["name"])
        if stop["name"] == "on its way":
            break
    assert stops[0] == "Skip to the content"
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="on its way")).to_be_visible()
    page.go_back()
    expect(page).to_have_url(re.compile("state=running$"))


def test_the_first_page_is_small_also_with_many_jobs(
    anonymous: Page, context: BrowserContext, service: Service, record_property: Callable[[str, object], None]
) -> None:
    """How quick it is depends on the machine: `build/dashboard.json` has it."""
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
    scripts = sum(sizes.values())
    assert len(sizes) >= 10
    assert scripts < 100_000
    assert names(page).count() == 25
    assert page.locator("*").count() < 1000, "only what is seen is in the page"
    page.reload()
    ready = page.evaluate(
        "new Promise((done) => { const look = () => document.querySelector('table.jobs') ? done(performance.now())"
        " : requestAnimationFrame(look); look(); })"
    )
    page.get_by_label("Search").fill("job 00007")
    expect(names(page)).to_have_text(["job 00007"])
    found = page.evaluate(
        "performance.getEntriesByType('resource').filter((one) => one.name.includes('q=')).at(-1).duration"
    )
    figures = {"jobs": JOBS, "script_bytes": scripts, "usable_ms": round(ready), "search_ms": round(found)}
    (SCREENSHOTS.parent / "dashboard.json").write_text(json.dumps(figures) + "\n")
    for name, value in figures.items():
        record_property(name, value)
