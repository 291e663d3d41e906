"""A browser, a service with jobs in every state, and what is looked at on each page.

Screenshots go to `build/screenshots`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Locator, Page

from tests.app.build import make_job
from tests.app.receiver import receiver
from tests.e2e.browser import DESKTOP, chromium, session_of
from tests.e2e.service import Service, advance, claim, fail, running, succeed

__all__ = ["receiver"]

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
PHONE = {"width": 390, "height": 844}
PUSH = {"push_to_hub": {"repo_id": "acme/smollm2-135m-2of4"}}
ACCEPT = {"accept_if": {"perplexity_ratio": 1.15}}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("service")) as service:
        yield service


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def jobs(service: Service) -> dict[str, str]:
    """A job in each state, by what it is."""
    found = {
        "succeeded": succeed(
            service,
            name="smollm2 at 2:4",
            effort="best",
            metadata={"team": "research"},
            days=30,
            output=PUSH,
            **ACCEPT,
        ),
        "ria": succeed(
            service,
            name="smollm2 with RIA",
            method="ria",
            quality=1.2,
            pattern="4:8",
            priority=3,
            metadata={"why": "to compare", "--odd": "=x= it's"},
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


def names(page: Page) -> Locator:
    """The links to jobs in the list of jobs."""
    return page.locator("table.jobs tbody td.name a")


def check_accessible(page: Page) -> None:
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
