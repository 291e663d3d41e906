"""The dashboard in a browser: how soon each page can be used, and how smooth the list of many jobs is.

    python -m benchmarks.dashboard [--jobs 10000] [--runs 7]

`eggs serve` as an operator starts it, with the PostgreSQL and the Redis of this machine (EGGS_TEST_POSTGRES_URL,
EGGS_TEST_REDIS_URL), and Debian's Chromium on the same cores. A page can be used once all that it is for has been
painted and nothing keeps it from the next key or click; that is asked at every frame, from the page's first on. On
a first visit the browser has nothing of the service but the session, on a later one what the first one left.
"""

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, pairwise, product
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page
from sqlalchemy import text

from app.db import make_engine, make_sessions
from app.jobs.leases import Lease
from app.settings import Settings
from benchmarks.results import keep
from benchmarks.service import EGGS, Row, address, database, installation, process
from tests.app.build import make_job
from tests.e2e.browser import DESKTOP, chromium, session_of
from tests.e2e.service import BLOCKS, Service, advance, claim, make_many, succeed

USABLE_MS = 1000.0
SMOOTH_MS = 50.0
RUNNING = 3
PRUNED = ("pruned with eggs", "pruned with RIA")
SCROLLED_SECONDS = 8
NOTCH = 30  # pixels at a time
NOTCHES_PER_SECOND = 20
KEY_MS = 80  # between two keys

LIST = ["table.jobs tbody tr:nth-child(25)"]
REPORT = [".charts .chart:nth-child(5)", "#mask-told strong", "a[download]"]
COMPARISON = ["table.compare", ".charts .chart:nth-child(5)"]
FORM = ["#field-model"]

# What a page is asked, from its beginning on. `acted`: when the last key was pressed, or the last click made.
WATCH = """
window.seen = (found) => new Promise((done, fail) => {
  const look = () => { if (found()) setTimeout(() => done(performance.now())); else requestAnimationFrame(look); };
  requestAnimationFrame(look);
  setTimeout(() => fail(new Error("not seen in half a minute: " + found)), 30000);
});
window.shown = (selectors) => seen(() => selectors.every((one) => document.querySelector(one)));
window.names = () => [...document.querySelectorAll("table.jobs td.name a")].map((link) => link.textContent);
const note = (event) => { window.acted = event.timeStamp; };
for (const type of ["keydown", "click"]) addEventListener(type, note, true);
window.times = [];
window.tick = (now) => { times.push(now); requestAnimationFrame(tick); };
window.tasks = [];
new PerformanceObserver((list) => tasks.push(...list.getEntries())).observe({ type: "longtask" });
"""


@dataclass(frozen=True)
class Smoothness:
    """What was seen while the list was scrolled: from frame to frame and of long tasks, in milliseconds."""

    frames: list[float]
    long_tasks: list[float]
    refreshes: int


@contextmanager
def visitor(browser: Browser, service: Service, cookie: Any) -> Iterator[BrowserContext]:
    """A browser that has seen nothing yet, and is signed in."""
    context = browser.new_context(base_url=service.url, viewport=DESKTOP)
    context.add_cookies([cookie])
    yield context
    context.close()


def visit(context: BrowserContext, path: str, selectors: list[str]) -> tuple[Page, float]:
    """A page at this path, and after how many milliseconds it can be used."""
    page = context.new_page()
    page.add_init_script(f"{WATCH} window.ready = shown({json.dumps(selectors)});")
    page.goto(path, wait_until="commit")
    return page, page.evaluate("ready")


def answered(page: Page, act: Callable[[], None], look: str) -> float:
    """Milliseconds from the last key or click of `act` until what is looked for has been painted."""
    page.evaluate(f"() => {{ window.answer = {look}; }}")
    act()
    return float(page.evaluate("answer.then((at) => at - acted)"))


def scroll(page: Page, get_on: Callable[[], None]) -> Smoothness:
    """Down and up the list by the wheel; jobs in it get on meanwhile, once a second."""
    page.mouse.move(DESKTOP["width"] / 2, DESKTOP["height"] / 2)
    began = page.evaluate("() => { requestAnimationFrame(tick); return performance.now(); }")
    for second in range(SCROLLED_SECONDS):
        get_on()
        for _ in range(NOTCHES_PER_SECOND):
            page.mouse.wheel(0, NOTCH if second % 2 == 0 else -NOTCH)
            page.wait_for_timeout(1000 / NOTCHES_PER_SECOND)
    times, tasks, refreshes = page.evaluate(
        "(began) => [times, tasks.filter((task) => task.startTime >= began).map((task) => task.duration),"
        " performance.getEntriesByType('resource').filter((one) => one.name.includes('/v1/jobs?')"
        " && one.startTime >= began).length]",
        began,
    )
    return Smoothness([after - before for before, after in pairwise(times)], tasks, refreshes)


def use(page: Page, found: str) -> Iterator[tuple[str, float]]:
    """From the list to a job and back, a page on, and to the job that is called `found`."""
    yield (
        "click on a job until its report is shown",
        answered(page, page.get_by_role("link", name=PRUNED[0]).click, f"shown({json.dumps(REPORT)})"),
    )
    page.go_back()
    page.evaluate(f"shown({json.dumps(LIST)})")
    first = json.dumps(page.evaluate("names()[0]"))
    turn = page.get_by_role("button", name="Next").click
    yield "click on Next until the next page is shown", answered(page, turn, f"seen(() => names()[0] !== {first})")
    search = page.get_by_label("Search")
    search.focus()
    yield (
        "last key of a search until the job is shown",
        answered(
            page,
            lambda: search.press_sequentially(found, delay=KEY_MS),
            f"seen(() => names().length === 1 && names()[0] === {json.dumps(found)})",
        ),
    )


def fill(service: Service, jobs: int) -> tuple[str, list[str], list[Lease]]:
    """Stores so many jobs that have ended, two with all that a worker leaves, and some that run.

    A key, the two, and the leases of the last.
    """
    token = make_many(service, jobs, project="default")
    pruned = [
        succeed(service, name=name, method=method) for name, method in zip(PRUNED, ("eggs", "ria"), strict=True)
    ]
    leases = [claim(service, make_job(service.sessions, name=f"runs, {number}")) for number in range(RUNNING)]
    with service.sessions.begin() as session:
        session.execute(text("ANALYZE jobs"))
    return token, pruned, leases


@contextmanager
def served() -> Iterator[Service]:
    """A service in a process of its own, with a database of its own; the key is for who fills it to give."""
    with tempfile.TemporaryDirectory() as folder, database() as database_url:
        data = Path(folder)
        log = data / "server.log"
        with process([*EGGS, "serve", "--no-worker"], installation(data, database_url), log) as server:
            url = address(log, server)
            engine = make_engine(database_url)
            settings = Settings(data_dir=data, database_url=database_url)
            settings.artifacts_dir.mkdir(exist_ok=True)
            yield Service(url, "", settings, make_sessions(engine))
            engine.dispose()


def row(what: str, taken: list[float], goal: float, nodes: int | None) -> Row:
    return {
        "what": what,
        "runs": len(taken),
        "median ms": statistics.median(taken),
        "worst ms": max(taken),
        "goal ms": goal,
        "nodes": nodes,
    }


def measure(browser: Browser, service: Service, jobs: int, runs: int) -> tuple[list[Row], list[Smoothness]]:
    """The rows of the table, and how smooth the list was in each run."""
    token, pruned, leases = fill(service, jobs)
    cookie = session_of(service, token)
    steps = cycle(product(range(1, BLOCKS + 1), leases))

    def get_on() -> None:
        block, lease = next(steps)
        advance(service, lease, block)

    pages = {
        "list of jobs": ("/jobs", LIST),
        "job with its report": (f"/jobs/{pruned[0]}", REPORT),
        "two jobs compared": (f"/compare?job={pruned[0]}&job={pruned[1]}", COMPARISON),
        "form of a new job": ("/new", FORM),
    }
    taken: defaultdict[str, list[float]] = defaultdict(list)
    nodes: dict[str, int] = {}
    smoothness = []
    for run in range(runs):
        for name, (path, selectors) in pages.items():
            with visitor(browser, service, cookie) as context:
                for time in ("first", "later"):
                    page, ready = visit(context, path, selectors)
                    taken[f"{name}, {time} visit"].append(ready)
                    nodes[f"{name}, {time} visit"] = page.locator("*").count()
                    page.close()
        with visitor(browser, service, cookie) as context:
            page, _ = visit(context, "/jobs", LIST)
            smoothness.append(scroll(page, get_on))
            for what, milliseconds in use(page, f"job {run * jobs // runs:05}"):
                taken[what].append(milliseconds)
    rows = [row(what, found, USABLE_MS, nodes.get(what)) for what, found in taken.items()]
    longest = [max(one.frames) for one in smoothness]
    rows.append(row("longest frame while the list is scrolled and refreshes itself", longest, SMOOTH_MS, None))
    return rows, smoothness


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    with served() as service, chromium() as browser:
        rows, smoothness = measure(browser, service, arguments.jobs, arguments.runs)
        version = browser.version
    frames = [frame for one in smoothness for frame in one.frames]
    late = sum(frame > SMOOTH_MS for frame in frames)
    keep(
        "dashboard",
        f"python -m benchmarks.dashboard --jobs {arguments.jobs} --runs {arguments.runs}",
        rows,
        f"Chromium {version} without a GPU, on the processors that the service and PostgreSQL run on. Nodes: the "
        "elements of the page once it can be used. A search waits 250 ms for another key. The list was scrolled "
        f"for {SCROLLED_SECONDS} seconds in each of {arguments.runs} runs, in which it refreshed itself "
        f"{sum(one.refreshes for one in smoothness)} times: {late} of {len(frames)} frames "
        f"({late / len(frames):.2%}) came more than {SMOOTH_MS:g} ms after the one before, and "
        f"{sum(len(one.long_tasks) for one in smoothness)} tasks took longer than 50 ms.",
    )


if __name__ == "__main__":
    main()
