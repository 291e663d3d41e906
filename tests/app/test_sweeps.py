"""Sweeps over HTTP: which jobs they make, what comes of them, and what is refused."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker

from app.examples import REPORT
from app.jobs import leases
from app.jobs.models import JobState
from app.queue import make_celery, waiting_messages
from app.settings import Settings
from app.sweeps.schemas import state_of
from tests.app.build import make_key
from tests.app.test_jobs_api import code
from tests.app.test_leases import must_claim

Sessions = sessionmaker[Session]
MODEL = "smollm2-135m-instruct"
METHODS = [{"method": "wanda"}, {"method": "ria"}, {"method": "eggs", "effort": "fast"}]


def sweep(client: TestClient, trials: list[dict[str, Any]], **request: Any) -> dict[str, Any]:
    answer = client.post("/v1/sweeps", json={"model": MODEL, "trials": trials, **request})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def jobs_of(client: TestClient, sweep_id: str) -> list[dict[str, Any]]:
    """Oldest first."""
    jobs: list[dict[str, Any]] = client.get("/v1/jobs", params={"sweep": sweep_id, "sort": "created_at"}).json()[
        "data"
    ]
    return jobs


def succeed(sessions: Sessions, job_id: str, *pruned: float, verdict: str | None = None) -> None:
    """With these perplexities: of the job's own method, and of those it compares."""
    text = REPORT["evaluation"]["texts"][0]
    own = text | {"perplexity": text["perplexity"] | {"dense": 20.0, "pruned": pruned[0]}}
    compared = [REPORT["evaluation"]["compared"][0] | {"perplexities": [value]} for value in pruned[1:]]
    evaluation = REPORT["evaluation"] | {"texts": [own], "compared": compared}
    report = REPORT | {"evaluation": evaluation, "acceptance": {"verdict": verdict} if verdict else None}
    lease = must_claim(sessions, job_id)
    with sessions.begin() as session:
        leases.succeed(session, lease, report=report, artifacts=[], artifacts_dir=job_id)


def test_every_trial_has_a_job_where_nothing_is_shared(client: TestClient, settings: Settings) -> None:
    made = sweep(
        client,
        [{}, {"method": "ria"}, {"pattern": "4:8", "calibration": {"seed": 7}}],
        name="mine",
        metadata={"team": "a"},
        effort="fast",
        min_degree=4,
        calibration={"samples": 8},
        share_calibration=False,
    )
    assert (made["name"], made["state"], made["jobs"], made["best"]) == ("mine", "queued", {"queued": 3}, None)
    assert [trial["label"] for trial in made["trials"]] == [
        "as the sweep says",
        "method=ria",
        "pattern=4:8, calibration.seed=7",
    ]
    jobs = jobs_of(client, made["id"])
    assert [job["id"] for job in jobs] == [trial["job_id"] for trial in made["trials"]]
    assert [trial["shared"] for trial in made["trials"]] == [False] * 3
    specs = [job["spec"] for job in jobs]
    assert [(spec["method"], spec["effort"], spec["min_degree"], spec["pattern"]) for spec in specs] == [
        ("eggs", "fast", 4, "2:4"),
        ("ria", None, None, "2:4"),
        ("eggs", "fast", 4, "4:8"),
    ]
    assert [(spec["calibration"]["samples"], spec["calibration"]["seed"]) for spec in specs] == [
        (8, 0),
        (8, 0),
        (8, 7),
    ]
    assert jobs[1]["name"] == "mine: method=ria"
    assert {job["sweep_id"] for job in jobs} == {made["id"]}
    assert [job["metadata"] for job in jobs] == [{"team": "a"}] * 3
    assert waiting_messages(make_celery(settings)) == 3
    assert client.get(made["links"]["jobs"]).json()["data"] == jobs[::-1]
    assert client.get(made["links"]["self"]).json() == made


def test_trials_that_differ_in_method_alone_share_a_job(client: TestClient) -> None:
    made = sweep(
        client,
        [*METHODS, {"pattern": "1:4", "method": "ria"}, {"permute": True}, {"pattern": "1:4", "method": "wanda"}],
        permute=False,
    )
    jobs = jobs_of(client, made["id"])
    spec = [job["spec"] for job in jobs]
    # The one that moves channels is its job's own: a comparison moves none.
    assert [(one["method"], one["pattern"], one["permute"]) for one in spec] == [
        ("ria", "1:4", False),
        ("eggs", "2:4", True),
    ]
    assert [[entry["method"] for entry in one["compare"]] for one in spec] == [
        ["wanda"],
        ["wanda", "ria", "eggs"],
    ]


def test_what_a_comparison_could_not_say_is_not_shared(client: TestClient, settings: Settings) -> None:
    settings.allow_hub = True
    for asked in (
        {"accept_if": {"perplexity_ratio": 2}},
        {"seeds": 2},
        {"evaluation": {"tasks": ["hellaswag"]}},
        {"evaluation": {"speed": True}},
    ):
        made = sweep(client, METHODS[:2], **asked)
        assert made["jobs"] == {"queued": 2}, asked
    best = [{"method": "ria"}, {"method": "eggs", "effort": "best", "permute": False}]
    made = sweep(client, best)
    assert [(trial["shared"], trial["job_id"]) for trial in made["trials"]] == [
        (True, made["trials"][1]["job_id"]),
        (False, made["trials"][1]["job_id"]),
    ]
    degrees = [{"method": "eggs", "permute": False, "min_degree": degree} for degree in (0, 4, 16)]
    assert sweep(client, degrees)["jobs"] == {"queued": 3}


def test_a_sweep_ends_in_a_comparison(client: TestClient, sessions: Sessions) -> None:
    made = sweep(client, [*METHODS, {"pattern": "1:4"}], permute=False)
    shared, alone = (job["id"] for job in jobs_of(client, made["id"]))
    succeed(sessions, shared, 40.0, 30.0, 25.0)
    now = client.get(f"/v1/sweeps/{made['id']}").json()
    assert (now["state"], now["jobs"], now["best"]) == ("running", {"queued": 1, "succeeded": 1}, 2)
    assert now["completed_at"] is None
    assert [trial["state"] for trial in now["trials"]] == ["succeeded"] * 3 + ["queued"]
    figures = [trial["figures"] for trial in now["trials"]]
    texts = [entry["texts"] for entry in figures[:3]]
    assert texts == [
        [{"source": "pydocs", "dense": 20.0, "pruned": pruned, "ratio": pruned / 20}]
        for pruned in (40.0, 30.0, 25.0)
    ]
    assert figures[3] is None
    packed = REPORT["bytes"]["packed_checkpoint"]
    assert [entry["packed_bytes"] for entry in figures[:3]] == [packed, None, None]
    succeed(sessions, alone, 22.0)
    now = client.get(f"/v1/sweeps/{made['id']}").json()
    assert (now["state"], now["best"]) == ("succeeded", 3)
    assert now["completed_at"] == client.get(f"/v1/jobs/{alone}").json()["finished_at"]
    (listed,) = client.get("/v1/sweeps").json()["data"]
    assert listed["completed_at"] == now["completed_at"]


def test_a_rejected_trial_is_not_the_best(client: TestClient, sessions: Sessions) -> None:
    made = sweep(client, METHODS[:2], accept_if={"kl_divergence": 1})
    first, second = (job["id"] for job in jobs_of(client, made["id"]))
    succeed(sessions, first, 22.0, verdict="rejected")
    assert client.get(f"/v1/sweeps/{made['id']}").json()["best"] == 0
    succeed(sessions, second, 30.0, verdict="accepted")
    now = client.get(f"/v1/sweeps/{made['id']}").json()
    assert now["best"] == 1
    assert [trial["figures"]["verdict"] for trial in now["trials"]] == ["rejected", "accepted"]


@pytest.mark.parametrize(
    ("jobs", "state"),
    [
        ("queued", "queued"),
        ("queued succeeded", "running"),
        ("running", "running"),
        ("queued failed", "running"),
        ("succeeded", "succeeded"),
        ("succeeded failed cancelled", "failed"),
        ("succeeded cancelled", "cancelled"),
    ],
)
def test_the_state_of_a_sweep(jobs: str, state: str) -> None:
    assert state_of({JobState(job): 1 for job in jobs.split()}) == state


def test_a_sweep_is_cancelled_whole(client: TestClient, sessions: Sessions) -> None:
    made = sweep(client, METHODS, share_calibration=False)
    waiting, running, done = (job["id"] for job in jobs_of(client, made["id"]))
    succeed(sessions, done, 30.0)
    must_claim(sessions, running)
    answer = client.post(f"/v1/sweeps/{made['id']}/cancel").json()
    assert (answer["state"], answer["jobs"]) == ("running", {"cancelled": 1, "running": 1, "succeeded": 1})
    assert client.get(f"/v1/jobs/{running}").json()["cancel_requested_at"] is not None
    assert client.get(f"/v1/jobs/{waiting}").json()["state"] == "cancelled"
    again = client.post(f"/v1/sweeps/{made['id']}/cancel")
    assert (again.status_code, code(again)) == (409, "sweep-already-finished")


def test_a_sweep_is_made_once(client: TestClient) -> None:
    headers = {"Idempotency-Key": "once"}
    body = {"model": MODEL, "trials": METHODS}
    first, again = (client.post("/v1/sweeps", json=body, headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"] == f"/v1/sweeps/{first.json()['id']}"
    assert again.json() == first.json()
    assert len(client.get("/v1/sweeps").json()["data"]) == 1
    other = client.post("/v1/jobs", json={"model": MODEL}, headers=headers)
    assert (other.status_code, code(other)) == (422, "idempotency-key-reused")


def test_pages_of_sweeps_newest_first(client: TestClient) -> None:
    made = [sweep(client, METHODS)["id"] for _ in range(3)]
    first = client.get("/v1/sweeps?limit=2").json()
    assert ([one["id"] for one in first["data"]], first["has_more"]) == (made[:0:-1], True)
    rest = client.get(f"/v1/sweeps?after={first['last_id']}").json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == (made[:1], False)
    assert rest["data"][0]["jobs"] == {"queued": 1}


def test_a_sweep_is_its_projects_alone(client: TestClient, sessions: Sessions) -> None:
    made = sweep(client, METHODS)
    foreign = {"Authorization": f"Bearer {make_key(sessions, 'other')[1]}"}
    for method, path in (("GET", ""), ("POST", "/cancel")):
        answer = client.request(method, f"/v1/sweeps/{made['id']}{path}", headers=foreign)
        assert (answer.status_code, code(answer)) == (404, "sweep-not-found")
    assert client.get("/v1/sweeps", headers=foreign).json()["data"] == []


@pytest.mark.parametrize(
    ("request_body", "said"),
    [
        ({"trials": [{}]}, "There should be 2 at least."),
        ({"trials": [{}, {"method": "eggs"}]}, "Trial 2 is the same run as trial 1"),
        ({"trials": [{}, {"method": "eggs", "effort": "balanced"}]}, "Trial 2 is the same run as trial 1"),
        ({"trials": [{}, {"method": "ria", "effort": "fast"}]}, "Trial 2: effort belongs to method eggs"),
        ({"trials": [{}, {"pattern": "5:4"}]}, "pattern"),
        ({"trials": [{}, {"model": "other"}]}, "no such field"),
        ({"trials": METHODS, "evaluation": None}, "evaluation texts"),
        ({"trials": METHODS, "compare": [{"method": "magnitude"}]}, "Make trials of the methods"),
        ({"trials": METHODS, "output": {"push_to_hub": {"repo_id": "a/b"}}}, "no such field"),
        ({"trials": [{}, {"calibration": {"source": "file:missing.txt"}}]}, "missing.txt"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(
    client: TestClient, request_body: dict[str, Any], said: str
) -> None:
    answer = client.post("/v1/sweeps", json={"model": MODEL, **request_body})
    assert answer.status_code == 422
    assert said in answer.text
    assert client.get("/v1/jobs").json()["data"] == []
    assert client.get("/v1/sweeps").json()["data"] == []


def test_a_sweep_fits_into_the_keys_limit_or_is_refused_whole(client: TestClient, settings: Settings) -> None:
    settings.max_queued_per_key = 2
    body = {"model": MODEL, "trials": METHODS, "share_calibration": False}
    answer = client.post("/v1/sweeps", json=body)
    assert (answer.status_code, code(answer)) == (429, "too-many-queued-jobs")
    assert client.get("/v1/jobs").json()["data"] == []
    assert client.post("/v1/sweeps", json=body | {"trials": METHODS[:2]}).status_code == 201
