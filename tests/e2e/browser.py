"""Debian's Chromium, and how it is signed in."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, ViewportSize, sync_playwright

from tests.e2e.service import Service

CHROMIUM = "/usr/bin/chromium"
ELSEWHERE = "eggs.example"
"""A name of this machine that the browser takes for another one's."""
DESKTOP: ViewportSize = {"width": 1280, "height": 900}


@contextmanager
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium") or CHROMIUM
    assert Path(path).exists(), f"The browser is missing: install Debian's package `chromium` ({CHROMIUM})."
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    arguments.append(f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


def session_of(service: Service, key: str) -> Any:
    """A cookie, as the browser takes it, of a session that is signed in with this key."""
    answer = httpx.post(f"{service.url}/v1/session", headers={"Authorization": f"Bearer {key}"}, timeout=60)
    return {"name": "eggs_session", "value": answer.cookies["eggs_session"], "url": f"{service.url}/v1/"}
