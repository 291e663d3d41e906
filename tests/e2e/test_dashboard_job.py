"""The page in a real browser: one job from its first block to its report, its files and its link."""

import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from app.db import utcnow
from app.jobs import leases
from tests.app.build import make_job, read_job
from tests.conftest import wait_for
from tests.e2e.browser import DESKTOP, ELSEWHERE
from tests.e2e.conftest import PHONE, check_accessible, shot, shot_of, watched
from tests.e2e.service import BLOCKS, CONTENT, MASKED, Service, advance, claim


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
    told = "[...document.body.innerText.matchAll(/(?:running for|Elapsed)\\s+(\\d+) s/g)].map((found) => found[1])"
    before = page.evaluate(told)
    wait_for(lambda: page.evaluate(told)[0] != before[0])
    title, below = page.evaluate(told)
    assert title == below
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel the job").click()
    expect(page.get_by_role("button", name="Cancelling…")).to_be_disabled()
    with service.sessions.begin() as session:
        leases.confirm_cancelled(session, lease)
    expect(page.locator(".title .state")).to_have_text("cancelled")
    expect(page.locator(".live")).to_have_count(0)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    page.get_by_role("button", name="Run again").dblclick()
    expect(page.locator(".title .state")).to_have_text("queued")
    assert job_id not in page.url
    assert sent == [f"{service.url}/v1/jobs"]
    again = page.url.rpartition("/")[2]
    assert read_job(service.sessions, again).spec == read_job(service.sessions, job_id).spec


def test_a_page_whose_session_has_ended_elsewhere_asks_to_sign_in(page: Page, jobs: dict[str, str]) -> None:
    """As after signing out in another tab: the stream ends, and the browser's next try is refused."""
    ended = {"status": 200, "content_type": "text/event-stream", "body": "retry: 10\n\n"}
    page.route("**/events", lambda route: route.fulfill(**ended))
    page.goto(f"/jobs/{jobs['queued']}")
    expect(page.get_by_role("heading", name="waits")).to_be_visible()
    page.context.clear_cookies()
    page.unroute("**/events")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("Your session is over.")


def test_a_job_is_followed_again_after_the_service_was_not_ready(page: Page, service: Service) -> None:
    """As while its database is away: the browser takes a refusal of its stream for good."""
    job_id = make_job(service.sessions, name="goes on")
    answers = [
        {"status": 200, "content_type": "text/event-stream", "body": "retry: 10\n\n"},
        {"status": 503, "content_type": "application/problem+json", "body": "{}"},
    ]
    page.route(
        "**/events", lambda route: route.fulfill(**answers.pop(0)) if answers else route.continue_(), times=3
    )
    page.goto(f"/jobs/{job_id}")
    expect(page.locator(".live")).to_contain_text("The stream broke off; resuming.")
    expect(page.locator(".log li")).to_have_count(1)
    expect(page.locator(".live")).not_to_contain_text("The stream broke off")
    advance(service, claim(service, job_id), 3)
    expect(page.locator(".live")).to_contain_text("Pruning, block 3 of 30")


# To be told whether the page is seen.
SEEN = """(seen) => {
    Object.defineProperty(document, "hidden", { get: () => !seen, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_the_title_of_a_page_that_cannot_be_seen_tells_the_state(page: Page, service: Service) -> None:
    job_id = make_job(service.sessions, name="in the background")
    page.clock.install()
    page.goto(f"/jobs/{job_id}")
    expect(page.locator(".log li")).to_have_count(1)
    page.evaluate(SEEN, False)
    with service.sessions.begin() as session:
        leases.fail(session, claim(service, job_id), {"title": "It failed"})
    page.clock.fast_forward(15_000)
    expect(page).to_have_title("in the background: failed · eggs")
    page.evaluate(SEEN, True)
    expect(page.locator(".log li")).to_have_count(3)


def test_pages_that_cannot_be_seen_hold_no_connection(page: Page, service: Service) -> None:
    """A browser has six for one service, and lets any further request wait for one of them."""
    job_id = make_job(service.sessions, name="one of many")
    pages = [page, *(page.context.new_page() for _ in range(6))]
    for one in pages:
        one.goto(f"/jobs/{job_id}")
        expect(one.locator(".log li")).to_have_count(1)
        one.evaluate(SEEN, False)
    advance(service, claim(service, job_id), 3)
    page.evaluate(SEEN, True)
    expect(page.locator(".live")).to_contain_text("Pruning, block 3 of 30")
    expect(page.locator(".log li")).to_have_count(3)


def test_what_is_to_be_copied_is_copied_from_another_machine_too(
    anonymous: Page, service: Service, cookie: Any, jobs: dict[str, str]
) -> None:
    """Browsers give a page that came by plain HTTP no clipboard."""
    there = service.url.replace("127.0.0.1", ELSEWHERE)
    anonymous.context.add_cookies([cookie | {"url": f"{there}/v1/"}])
    anonymous.goto(f"{there}/jobs/{jobs['succeeded']}")
    anonymous.get_by_role("button", name="Copy sha256").first.click()
    expect(anonymous.get_by_role("button", name="Copied")).to_be_focused()
    anonymous.goto(f"{there}/jobs")
    anonymous.get_by_label("Search").focus()
    anonymous.keyboard.press("Control+V")
    expect(anonymous.get_by_label("Search")).to_have_value(re.compile(r"^[0-9a-f]{64}$"))


def test_the_report_of_a_job(page: Page, jobs: dict[str, str], tmp_path: Path) -> None:
    page.goto(f"/jobs/{jobs['succeeded']}")
    expect(page.get_by_role("heading", name="Report")).to_be_visible()
    expect(page.locator(".figures")).to_contain_text("20.4 → 130")
    expect(page.locator(".verdict").first).to_contain_text("rejected")
    expect(page.get_by_role("region", name="What accept_if asks for")).to_contain_text("at most 1.15")
    expect(page.get_by_role("link", name="acme/smollm2-135m-2of4")).to_be_visible()
    expect(page.get_by_text("They are kept until")).to_be_visible()
    speeds = page.get_by_role("region", name="On the worker's machine").locator("tbody tr")
    expect(speeds).to_have_text(["141.258.91.43 ×0.19 s0.20 s", "16310.4270.10.87 ×1.60 s1.70 s"])
    products = page.get_by_role("region", name="How the packed form multiplied").locator("tbody tr")
    expect(products).to_have_text(["1576 × 57660unpackedpacked, AVX2", "1192 × 57660unpackedpacked, AVX2"])
    check_accessible(page)
    shot(page, "job-report")

    expect(page.locator("figure.chart figcaption strong")).to_have_text(
        [
            "Relative output error",
            "Importance kept",
            "Fewest edges of an input channel",
            "Second singular value / Ramanujan bound",
            "Sparsity",
            "Error of a block's outputs",
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
    training = page.locator("figure", has_text="Error of a block's outputs")
    expect(training.locator(".legend")).to_contain_text("after training")
    training.get_by_role("img").focus()
    page.keyboard.press("End")
    expect(training.locator(".tip")).to_contain_text("block 29, after training: 0.0058")
    texts = page.get_by_role("region", name="Held-out text").locator("tbody tr")
    expect(texts).to_contain_text("1.8700 1.7900 to 1.950045.0 % 44.0 % to 46.0 %")
    chart.get_by_role("button", name="q_proj").click()
    chart.get_by_role("button", name="Table").click()
    expect(chart.locator("tbody tr")).to_have_count(6 * BLOCKS)

    with page.expect_download() as download:
        page.get_by_role("link", name="model.safetensors", exact=True).click()
    assert Path(download.value.path()).read_bytes() == CONTENT
    page.get_by_role("button", name="Copy sha256").first.click()
    assert len(page.evaluate("navigator.clipboard.readText()")) == 64
    page.get_by_role("tab", name="Packed").click()
    expect(page.get_by_role("region", name="Packed", exact=True)).to_contain_text("import eggs_core")
    page.goto(f"/jobs/{jobs['ria']}")
    expect(page.locator("figure.chart")).to_have_count(5)  # nothing was trained
    expect(page.locator(".figures")).to_contain_text("0.87 × as fast packed, batch 16")


def copied(command: list[str], folder: Path, key: str = "") -> str:
    """What a command prints that was copied from the page, where it is run with a key or without one."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"EGGS_API_KEY": key, "PATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_files_are_downloaded_as_the_page_says(
    page: Page, service: Service, jobs: dict[str, str], tmp_path: Path
) -> None:
    page.goto(f"/jobs/{jobs['succeeded']}")
    page.get_by_role("tab", name="Download").click()
    code = page.get_by_role("region", name="Download").inner_text()
    assert "model.safetensors: OK" in copied(["sh", "-c", code], tmp_path, service.key)
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
    expect(section.get_by_role("button", name="Zoom in")).to_be_disabled()
    box = picture.bounding_box()
    assert box is not None
    page.mouse.down()
    page.mouse.move(box["x"] + 40 + 96, box["y"] + 40 + 64, steps=4)
    page.mouse.up()
    page.mouse.move(box["x"] + 40, box["y"] + 40)
    row, column = map(int, re.findall(r"\d+", where)[:2])
    expect(told).to_contain_text(f"Row {row - 2}, column {column - 3}, ")
    page.mouse.move(box["x"] + 40 + 96, box["y"] + 40 + 64)
    expect(told).to_contain_text(where)
    check_accessible(page)
    shot_of(section, "job-mask")
    section.get_by_role("button", name="Zoom out").click()
    expect(section.get_by_text("16 × 16 pixels a weight")).to_be_visible()
    picture.focus()
    for key, pixels in (("-", 8), ("+", 16)):
        page.keyboard.press(key)
        expect(section.get_by_text(f"{pixels} × {pixels} pixels a weight")).to_be_visible()
    page.keyboard.press("Home")
    expect(section.get_by_text("weights a pixel")).to_be_visible()


def test_a_job_that_is_opened_in_the_background_is_there_when_one_looks(page: Page, jobs: dict[str, str]) -> None:
    page.add_init_script("Object.defineProperty(document, 'hidden', { get: () => true })")
    page.goto(f"/jobs/{jobs['ria']}")
    expect(page.get_by_role("heading", name="Report")).to_be_visible()


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
        said = copied([sys.executable, "-c", code], tmp_path, service.key)
    else:
        script = code.replace("--wait", "").rstrip().removesuffix("\\")
        said = copied(["sh", "-c", script], tmp_path, service.key)
    made = re.search(r"job_\w{26}", said)
    assert made is not None, said
    before, after = (read_job(service.sessions, job_id) for job_id in (jobs["ria"], made[0]))
    assert after.spec == before.spec
    assert (after.name, after.metadata_, after.priority) == (before.name, before.metadata_, before.priority)


def test_a_job_is_shared_by_a_link(
    page: Page, browser: Browser, service: Service, jobs: dict[str, str], tmp_path: Path
) -> None:
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
        stranger.get_by_role("tab", name="Download").click()
        code = stranger.get_by_role("region", name="Download").inner_text()
        assert "model.safetensors: OK" in copied(["sh", "-c", code], tmp_path)
        assert (tmp_path / "pruned" / "model.safetensors").read_bytes() == CONTENT
        expect(stranger.get_by_role("region", name="Request as JSON")).to_contain_text("smollm2-135m-instruct")
        expect(stranger.get_by_role("tab", name="curl")).to_have_count(0)  # which needs a key
        check_accessible(stranger)
        shot(stranger, "shared")
        stranger.set_viewport_size(PHONE)
        assert stranger.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        shot(stranger, "phone-shared")
        stranger.goto("/shared#eggs_share_nothing")  # in the same page: only what is behind # has changed
        expect(stranger.get_by_role("alert")).to_contain_text("The link is over")
        expect(stranger.get_by_role("heading", name="smollm2 at 2:4")).to_have_count(0)
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
