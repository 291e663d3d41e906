"""Lists of jobs: filtered, searched, sorted, and read page by page in every order."""

from itertools import product
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker

from app.jobs.models import JobSort
from tests.app.build import make_job
from tests.app.test_jobs_api import code

Sessions = sessionmaker[Session]


@pytest.fixture
def made(sessions: Sessions) -> list[str]:
    """Twelve jobs of two models, two methods and three names, and one of another project."""
    ids = [
        make_job(
            sessions,
            model=model,
            method=method,
            name=name,
            metadata={"team": "a" if name else "b", 'odd" key.$': "50%"},
        )
        for model, method, name in product(
            ["zeta", "alpha"], ["ria", "wanda"], ["Nightly_1", "Über nightly 2", None]
        )
    ]
    make_job(sessions, project="another", model="zeta", method="ria", name="Nightly_1")
    return ids


def listed(client: TestClient, **query: Any) -> list[dict[str, Any]]:
    answer = client.get("/v1/jobs", params=query)
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, 12),
        ({"model": "zeta"}, 6),
        ({"model": "zet"}, 0),
        ({"method": "ria"}, 6),
        ({"method": "ria", "model": "alpha"}, 3),
        ({"state": "queued", "method": "wanda"}, 6),
        ({"state": "failed"}, 0),
        ({"q": "NIGHTLY"}, 8),
        ({"q": "über"}, 4),
        ({"q": "ÜBER"}, 4),
        ({"q": "y_1"}, 4),  # an underscore is one, not any letter
        ({"q": "%"}, 0),
        ({"q": "LPH"}, 6),
        ({"q": "job_"}, 12),
        ({"metadata.team": "a"}, 8),
        ({"metadata.team": "a", "method": "ria"}, 4),
        ({"metadata.team": "c"}, 0),
        ({"metadata.nothing": "a"}, 0),
        ({'metadata.odd" key.$': "50%"}, 12),
        ({"metadata.team": "b", "metadata.nothing": ""}, 0),
    ],
)
def test_filters(client: TestClient, made: list[str], query: dict[str, str], found: int) -> None:
    jobs = listed(client, limit=100, **query)
    assert len(jobs) == found
    assert [job["id"] for job in jobs] == sorted((job["id"] for job in jobs), reverse=True)


def key_of(job: dict[str, Any], sort: str) -> Any:
    match sort.removeprefix("-"):
        case "created_at":
            return job["id"]
        case "model" | "method" as column:
            return (job["spec"][column], job["id"])
        case "state":
            return (job["state"], job["id"])
    return (job["name"] or job["id"], job["id"])


@pytest.mark.parametrize("sort", JobSort)
def test_every_order_is_read_page_by_page(client: TestClient, made: list[str], sort: JobSort) -> None:
    for number, job_id in enumerate(made):
        if number % 3 == 0:
            client.post(f"/v1/jobs/{job_id}/cancel")
    whole = listed(client, limit=100, sort=sort)
    if sort.removeprefix("-") != "name":  # whose order is the database's collation
        assert whole == sorted(whole, key=lambda job: key_of(job, sort), reverse=sort.startswith("-"))
    pages: list[dict[str, Any]] = []
    query: dict[str, Any] = {"limit": 5, "sort": sort}
    while True:
        answer = client.get("/v1/jobs", params=query).json()
        pages += answer["data"]
        if not answer["has_more"]:
            break
        query["after"] = answer["last_id"]
    assert pages == whole
    assert {job["id"] for job in pages} == set(made)
    filtered = listed(client, limit=100, sort=sort, method="ria", q="nightly")
    assert filtered == [job for job in whole if job["spec"]["method"] == "ria" and job["name"]]


@pytest.mark.parametrize(
    "query",
    [{"sort": "error"}, {"method": "best"}, {"q": ""}, {"q": "a\0"}, {"metadata.a": "\0"}, {"model": "a" * 1025}],
)
def test_what_cannot_be_asked(client: TestClient, query: dict[str, str]) -> None:
    answer = client.get("/v1/jobs", params=query)
    assert (answer.status_code, code(answer)) == (422, "invalid-request")


def test_a_page_after_a_job_of_another_project_is_empty(client: TestClient, sessions: Sessions) -> None:
    own = make_job(sessions, model="a")
    foreign = make_job(sessions, project="another", model="zeta")
    assert listed(client, after=foreign, sort="-model") == []
    assert [job["id"] for job in listed(client, sort="-model")] == [own]
