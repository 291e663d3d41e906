"""Downloads: whole, in parts, conditional; and only what was published."""

import hashlib
from dataclasses import dataclass

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker

from app.jobs import leases
from app.jobs.leases import NewArtifact
from app.settings import Settings
from tests.app.build import make_job
from tests.app.test_jobs_api import code
from tests.app.test_leases import must_claim

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ETAG = f'"{SHA256}"'


@dataclass(frozen=True)
class Published:
    job_id: str
    url: str


@pytest.fixture
def published(settings: Settings, sessions: sessionmaker[Session]) -> Published:
    """A job that has published two files, with a third one in its folder that it has not."""
    job_id = make_job(sessions)
    folder = settings.artifacts_dir / f"{job_id}.1"
    (folder / "sub dir").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(CONTENT)
    (folder / "sub dir" / "ä.txt").write_text("ä")
    (folder / "secret").write_text("secret")
    (settings.artifacts_dir / "outside").write_text("secret")
    lease = must_claim(sessions, job_id)
    files = [
        NewArtifact("model.safetensors", len(CONTENT), SHA256),
        NewArtifact("sub dir/ä.txt", 2, hashlib.sha256("ä".encode()).hexdigest(), "text/plain"),
    ]
    with sessions.begin() as session:
        leases.succeed(session, lease, report={}, artifacts=files, artifacts_dir=f"{job_id}.1")
    return Published(job_id, f"/v1/jobs/{job_id}/artifacts/model.safetensors")


def test_the_list_says_what_to_download_and_how_to_check_it(client: TestClient, published: Published) -> None:
    page = client.get(f"/v1/jobs/{published.job_id}/artifacts").json()
    assert [(a["name"], a["bytes"]) for a in page["data"]] == [
        ("model.safetensors", len(CONTENT)),
        ("sub dir/ä.txt", 2),
    ]
    assert page["has_more"] is False
    for artifact in page["data"]:
        assert artifact["id"].startswith("art_")
        response = client.get(artifact["url"])
        assert hashlib.sha256(response.content).hexdigest() == artifact["sha256"]
        assert response.headers["content-type"].partition(";")[0] == artifact["media_type"]
        assert response.headers["etag"] == f'"{artifact["sha256"]}"'
        assert response.headers["accept-ranges"] == "bytes"


def test_no_artifacts_before_the_end(client: TestClient, sessions: sessionmaker[Session]) -> None:
    job_id = make_job(sessions)
    assert client.get(f"/v1/jobs/{job_id}/artifacts").json()["data"] == []
    response = client.get(f"/v1/jobs/{job_id}/artifacts/model.safetensors")
    assert (response.status_code, code(response)) == (404, "artifact-not-found")
    assert "The job is queued" in response.json()["detail"]


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=10-19", 10, 19),
        ("bytes=255999-", 255999, 255999),
        ("bytes=100-", 100, 255999),
        ("bytes=-10", 255990, 255999),
        ("bytes=-999999", 0, 255999),
        ("bytes=5-999999999", 5, 255999),
        ("BYTES=1-2", 1, 2),
    ],
)
def test_a_range(client: TestClient, published: Published, asked: str, first: int, last: int) -> None:
    response = client.get(published.url, headers={"Range": asked})
    assert response.status_code == 206
    assert response.content == CONTENT[first : last + 1]
    assert response.headers["content-range"] == f"bytes {first}-{last}/{len(CONTENT)}"
    assert response.headers["content-length"] == str(last + 1 - first)
    assert response.headers["etag"] == ETAG


@pytest.mark.parametrize("asked", ["bytes=256000-", "bytes=256000-256001", "bytes=-0", "bytes=9999999999-"])
def test_a_range_beyond_the_end(client: TestClient, published: Published, asked: str) -> None:
    response = client.get(published.url, headers={"Range": asked})
    assert (response.status_code, code(response)) == (416, "range-not-satisfiable")
    assert response.headers["content-range"] == f"bytes */{len(CONTENT)}"


@pytest.mark.parametrize(
    "asked", ["bytes=", "bytes=-", "bytes=5-2", "bytes=a-b", "items=0-5", "0-5", "bytes=0-1,4-5", "bytes=٣-"]
)
def test_a_range_that_cannot_be_read_is_ignored(client: TestClient, published: Published, asked: str) -> None:
    response = client.get(published.url, headers={b"Range": asked.encode()})
    assert (response.status_code, response.content) == (200, CONTENT)


def test_if_range(client: TestClient, published: Published) -> None:
    part = {"Range": "bytes=0-4"}
    assert client.get(published.url, headers={**part, "If-Range": ETAG}).status_code == 206
    for other in ('"another"', f"W/{ETAG}", "Mon, 04 May 2026 09:00:00 GMT"):
        response = client.get(published.url, headers={**part, "If-Range": other})
        assert (response.status_code, response.content) == (200, CONTENT), other
    beyond = client.get(published.url, headers={"Range": "bytes=999999-", "If-Range": '"another"'})
    assert beyond.status_code == 200


@pytest.mark.parametrize("tags", [ETAG, f'"other", {ETAG}', f"W/{ETAG}", "*"])
def test_not_modified(client: TestClient, published: Published, tags: str) -> None:
    response = client.get(published.url, headers={"If-None-Match": tags, "Range": "bytes=0-4"})
    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == ETAG


def test_modified(client: TestClient, published: Published) -> None:
    assert client.get(published.url, headers={"If-None-Match": '"other"'}).status_code == 200


def test_head(client: TestClient, published: Published) -> None:
    response = client.head(published.url)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == str(len(CONTENT))
    assert response.headers["etag"] == ETAG
    part = client.head(published.url, headers={"Range": "bytes=0-4"})
    assert (part.status_code, part.headers["content-length"]) == (206, "5")


@pytest.mark.parametrize(
    "name",
    ["secret", "../outside", "%2e%2e/outside", "..%2foutside", "/etc/passwd", "%00", ""],
)
def test_only_what_was_published(client: TestClient, published: Published, name: str) -> None:
    response = client.get(f"/v1/jobs/{published.job_id}/artifacts/{name}")
    assert response.status_code == 404
    assert b"secret" not in response.content


def test_a_file_that_the_operator_removed(client: TestClient, published: Published, settings: Settings) -> None:
    (settings.artifacts_dir / f"{published.job_id}.1" / "model.safetensors").unlink()
    response = client.get(published.url)
    assert (response.status_code, code(response)) == (410, "artifact-gone")
    assert str(settings.data_dir) not in response.text
