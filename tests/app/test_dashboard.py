"""The page: served whole, by this server alone, under a policy that lets nothing else run in it."""

import gzip
import hashlib
import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.dashboard.endpoints import FOLDER, PATHS

ROOT = Path(__file__).parents[2]
OWN = sorted(path for path in FOLDER.glob("*.js") if path.name != "preact.js")


@pytest.mark.parametrize("path", [path.format(job_id="job_x", sweep_id="sweep_x") for path in PATHS])
def test_the_page_and_its_policy(anonymous: TestClient, path: str) -> None:
    response = anonymous.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert response.text == anonymous.get("/").text


def test_all_that_the_page_names_is_there(anonymous: TestClient) -> None:
    page = anonymous.get("/").text
    named = re.findall(r'(?:src|href)="([^"#]+)"', page)
    assert all(path.startswith("/") and not path.startswith("//") for path in named)
    for path in named:
        response = anonymous.get(path)
        assert response.status_code == 200, path
        assert response.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*src=)", page)


def test_every_module_is_loaded_at_once() -> None:
    """Not one after the other, as they come to be imported."""
    page = (FOLDER / "index.html").read_text()
    imported = {name for path in OWN for name in re.findall(r'from "\./(\w+\.js)"', path.read_text())}
    assert imported == set(re.findall(r'modulepreload" href="/static/(\w+\.js)"', page))


def test_files_are_small_and_kept_by_browsers(anonymous: TestClient) -> None:
    response = anonymous.get("/static/app.js", headers={"Accept-Encoding": "gzip"})
    assert response.headers["content-encoding"] == "gzip"
    assert response.headers["cache-control"] == "no-cache"
    unchanged = anonymous.get("/static/app.js", headers={"If-None-Match": response.headers["etag"]})
    assert unchanged.status_code == 304
    assert sum(len(gzip.compress(path.read_bytes())) for path in FOLDER.glob("*.js")) < 100_000


@pytest.mark.parametrize(
    "path", ["/static/../endpoints.py", "/static/%2e%2e/endpoints.py", "/static/", "/static/x"]
)
def test_no_other_files_are_served(anonymous: TestClient, path: str) -> None:
    assert anonymous.get(path).status_code == 404


def test_the_script_of_others_is_theirs_unchanged() -> None:
    """`make preact` fetches it again, and holds it against the same checksum."""
    digest, name = (FOLDER / "preact.sha256").read_text().split()
    assert hashlib.sha256((ROOT / name).read_bytes()).hexdigest() == digest
    version = re.findall(r"package htm (\S+),", (FOLDER / "preact.LICENSE.txt").read_text())
    assert version == re.findall(r"npm pack .* htm@(\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_scripts_keep_to_the_rules(path: Path) -> None:
    """Text never becomes markup or code, nothing comes from elsewhere, and only the theme is kept."""
    script = path.read_text()
    for way_in in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert way_in not in script
    assert not re.search(r"sessionStorage|indexedDB|document\.cookie", script)
    assert all('"theme"' in line for line in script.splitlines() if "localStorage" in line)
    assert re.findall(r'^import .*from "(?!\./)', script, flags=re.MULTILINE) == []
