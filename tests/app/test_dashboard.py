"""The page: served whole, by this server alone, under a policy that lets nothing else run in it."""

import re

import pytest
from fastapi.testclient import TestClient

FILES = {"/": "text/html", "/static/dashboard.css": "text/css", "/static/dashboard.js": "text/javascript"}


@pytest.mark.parametrize(("path", "media_type"), FILES.items())
def test_files_and_their_policy(anonymous: TestClient, path: str, media_type: str) -> None:
    response = anonymous.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith(media_type)
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"


def test_the_page_keeps_to_its_own_policy(anonymous: TestClient) -> None:
    page = anonymous.get("/").text
    assert re.findall(r'(?:src|href)="([^"#]+)"', page) == [
        "data:,",
        "/static/dashboard.css",
        "/static/dashboard.js",
        "/docs",
    ]
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*src=)", page)


def test_text_from_the_service_never_becomes_markup(anonymous: TestClient) -> None:
    script = anonymous.get("/static/dashboard.js").text
    assert "textContent" in script
    for way_in in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage"):
        assert way_in not in script
