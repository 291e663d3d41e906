"""The command line against a real server: what it prints, what it refuses, and that it carries on."""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.cli import demo
from app.cli.connection import connect
from app.cli.exit_codes import ExitCode
from app.examples import REPORT
from app.jobs import leases, sse
from app.jobs.leases import Lease, NewArtifact
from app.jobs.models import JobState
from app.secrets import Secrets
from app.settings import EmbeddedSettings, Settings
from tests.app.build import make_job, read_job
from tests.app.conftest import RunningServer
from tests.app.test_leases import must_claim
from tests.conftest import wait_for

Sessions = sessionmaker[Session]
Eggs = Callable[..., subprocess.CompletedProcess[str]]
ACCEPT = {"Accept": sse.MEDIA_TYPE}
MODEL = "smollm2-135m-instruct"


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """SQLite alone: over HTTP the kind of database makes no difference."""
    from app.db import make_engine
    from app.migrate import upgrade

    url = f"sqlite:///{tmp_path / 'test.sqlite3'}"
    upgrade(make_engine(url))
    return url


@pytest.fixture
def eggs(server: RunningServer, tmp_path: Path) -> Eggs:
    """Runs `eggs` with these arguments, as a user of the server would."""
    environment = os.environ | {
        "EGGS_URL": server.url,
        "EGGS_API_KEY": server.key,
        "EGGS_DATA_DIR": str(tmp_path / "client"),
        "COLUMNS": "200",
    }

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from app.cli.main import main; main()", *arguments],
            env=environment | variables,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def publish(sessions: Sessions, settings: Settings, lease: Lease, files: dict[str, bytes]) -> None:
    """Ends the job with these files."""
    folder = settings.artifacts_dir / lease.job_id
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    artifacts = [
        NewArtifact(name, len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()
    ]
    with sessions.begin() as session:
        leases.succeed(session, lease, report=REPORT, artifacts=artifacts, artifacts_dir=lease.job_id)


def refused(result: subprocess.CompletedProcess[str], *texts: str, code: ExitCode = ExitCode.REFUSED) -> None:
    assert result.returncode == code, result.stdout + result.stderr
    for text in texts:
        assert text in result.stderr
    assert "Traceback" not in result.stderr


def test_from_submission_to_files(eggs: Eggs, sessions: Sessions, settings: Settings, tmp_path: Path) -> None:
    options = ["--evaluation", "pydocs", "--evaluation", "file:a.txt", "--generations", "1", "--seeds", "2"]
    options += ["--task", "file:quiz.yaml", "--task-limit", "9", "--compare", "ria", "--compare", "eggs:fast"]
    (settings.text_roots[0] / "a.txt").write_text("A text.")
    settings.task_roots[0].mkdir()
    (settings.task_roots[0] / "quiz.yaml").write_text("task: quiz")
    submitted = eggs("submit", MODEL, "--pattern", "4:8", "--name", "mine", "--calibration-samples", "3", *options)
    assert submitted.returncode == 0, submitted.stderr
    job_id = submitted.stdout.strip()
    spec = read_job(sessions, job_id).spec
    assert (spec["pattern"], spec["calibration"]["samples"], spec["calibration"]["seed"]) == ("4:8", 3, 0)

    evaluation = spec["evaluation"]
    assert (evaluation["sources"], evaluation["generations"]) == (["pydocs", "file:a.txt"], 1)
    assert (evaluation["tasks"], evaluation["task_limit"], spec["seeds"]) == (["file:quiz.yaml"], 9, 2)
    assert spec["compare"] == [{"method": "ria", "effort": None}, {"method": "eggs", "effort": "fast"}]

    listed = eggs("list")
    assert job_id in listed.stdout
    assert "mine" in listed.stdout
    assert "queued" in eggs("status", job_id).stdout
    refused(eggs("report", job_id), "The job has no report yet", "Ask again when")
    refused(eggs("download", job_id, "--out", str(tmp_path / "out")), "The job has no files", "It is queued")

    files = {"model.safetensors": os.urandom(3_000_000), "sub/config.json": b"{}", "empty": b""}
    publish(sessions, settings, must_claim(sessions, job_id), files)
    shown = eggs("report", job_id).stdout
    for text in (
        "20.40",
        "118.90 to 142.50",
        "1.8700",
        "131.40 ± 1.90",
        "eggs:balanced, the job's own",
        "151.30",
        "0.0817",
        "0.3180 ± 0.0046",
        "45.0%",
        "50.0%",
        "q_proj",
        "101.2 s",
        "Input channels cut off",
    ):
        assert text in shown
    assert '"schema_version": 2' in eggs("report", job_id, "--json").stdout

    out = tmp_path / "out"
    downloaded = eggs("download", job_id, "--out", str(out))
    assert downloaded.returncode == 0, downloaded.stderr
    assert {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()} == files


def test_watch_follows_a_job_to_its_end(eggs: Eggs, sessions: Sessions, settings: Settings) -> None:
    job_id = make_job(sessions)
    with ThreadPoolExecutor() as pool:
        watching = pool.submit(eggs, "watch", job_id)
        lease = must_claim(sessions, job_id)
        for block in (1, 2):
            with sessions.begin() as session:
                leases.record_progress(session, lease, progress=block / 3, stage="prune", message=f"Block {block}")
        publish(sessions, settings, lease, {})
        result = watching.result()
    assert result.returncode == 0, result.stderr
    assert "Block 1" in result.stdout
    assert re.search(r"66\.7%\s+Block 2", result.stdout)
    assert "100.0%" in result.stdout


def test_waiting_for_a_job_that_fails(eggs: Eggs, sessions: Sessions) -> None:
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(eggs, "submit", MODEL, "--wait")

        def fail_it() -> bool:
            with sessions.begin() as session:
                for job_id in leases.reoffer_candidates(session, 1):
                    lease = leases.claim(session, job_id, 60, max_attempts=1)
                    assert lease is not None
                    leases.fail(session, lease, {"title": "Too little text", "detail": "3 of 32 windows"})
                    return True
            return False

        wait_for(fail_it)
        refused(waiting.result(), "Too little text", "3 of 32 windows", code=ExitCode.JOB_FAILED)


def test_cancel(eggs: Eggs, sessions: Sessions) -> None:
    queued, running = make_job(sessions), make_job(sessions)
    must_claim(sessions, running)
    assert "is cancelled" in eggs("cancel", queued).stdout
    assert "stops after the block at hand" in eggs("cancel", running).stdout
    refused(eggs("cancel", queued), "The job is cancelled already", "submit it again")
    assert read_job(sessions, queued).state is JobState.CANCELLED
    refused(eggs("watch", queued), "The job was cancelled", code=ExitCode.JOB_CANCELLED)


def test_what_is_refused(eggs: Eggs) -> None:
    refused(eggs("submit", "gpt-5"), "No such model", "GET /v1/models")
    refused(eggs("submit", MODEL, "--pattern", "2-4"), "The request is not valid", "such as 2:4")
    refused(eggs("submit", MODEL, "--compare", "eggs:best"), "Compare with balanced")
    refused(eggs("submit", MODEL, "--compare", "eggs:"), "compare.0.effort", "'fast', 'balanced' or 'best'")
    refused(eggs("status", "job_x"), "No such job")
    refused(eggs("list", EGGS_API_KEY="eggs_wrong"), "The API key is not valid", "eggs keys create")
    assert eggs("list", "--nonsense").returncode == 2
    assert eggs("submit", MODEL, "--method", "obd").returncode == 2


def test_what_is_refused_without_a_service(eggs: Eggs, tmp_path: Path) -> None:
    refused(
        eggs("prune", MODEL, "--out", str(tmp_path / "out"), "--pattern", "5:4"), "pattern", "5:4 is not an N:M"
    )
    refused(
        eggs("prune", MODEL, "--out", str(tmp_path / "out"), "--method", "ria", "--min-degree", "2"),
        "leave it out",
    )
    refused(
        eggs("prune", MODEL, "--out", str(tmp_path / "out"), "--compare", "ria", "--evaluation", "none"),
        "leave compare out",
    )
    refused(eggs("keys", "revoke", "key_x"), "No such key")
    refused(eggs("models", EGGS_PORT="many"), "port")
    refused(eggs("keys", "list", EGGS_DATABASE_URL="postgresql+psycopg://x@127.0.0.1:1/x"), "The database")
    assert MODEL in eggs("models").stdout


def test_no_service_at_the_address(eggs: Eggs) -> None:
    refused(eggs("list", EGGS_URL="http://127.0.0.1:1"), "no answer from http://127", code=ExitCode.UNREACHABLE)
    refused(eggs("list", EGGS_URL="127.0.0.1:8000"), "no address of a service", "EGGS_URL")
    refused(eggs("list", EGGS_API_KEY="eggs_…"), "The API key is not valid", "EGGS_API_KEY")


def test_keys(eggs: Eggs, tmp_path: Path) -> None:
    token = eggs("keys", "create", "--name", "laptop").stdout.strip()
    assert re.fullmatch(r"eggs_\w{26}_[0-9a-f]{64}", token)
    listed = eggs("keys", "list").stdout
    assert "laptop" in listed
    assert token not in listed
    key_id = f"key_{token.split('_')[1]}"
    assert key_id in listed
    assert "is revoked" in eggs("keys", "revoke", key_id).stdout


def test_the_service_of_the_demo_may_say_as_much_as_it_likes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EGGS_DATABASE_URL", "postgresql+psycopg://x@127.0.0.1:1/x")
    monkeypatch.setenv("EGGS_PORT", "many")
    path = "/healthz?" + "x" * 2000
    with (
        demo._service(EmbeddedSettings(data_dir=tmp_path, port=0)) as (url, key),
        connect(url, key) as client,
        httpx.Client(base_url=url) as http,
    ):
        assert list(client.jobs.list()) == []  # waits until it listens
        for _ in range(100):  # each with a line in the log, which together no pipe can hold
            assert http.get(path).status_code == 200
    assert (tmp_path / "demo.log").read_text().count(path) == 100


def test_a_job_with_a_push(eggs: Eggs, sessions: Sessions, settings: Settings) -> None:
    settings.allow_hub = True
    options = ["--push-to-hub", "acme/tiny", "--hub-revision", "runs", "--hub-public", "--format", "packed"]
    submitted = eggs("submit", MODEL, *options, HF_TOKEN="hf_secret")
    assert submitted.returncode == 0, submitted.stderr
    job = read_job(sessions, submitted.stdout.strip())
    assert job.push_to_hub is not None
    assert job.push_to_hub.items() >= {"repo_id": "acme/tiny", "revision": "runs", "private": False}.items()
    assert job.spec["output"] == {"format": "packed"}
    assert Secrets(settings).decrypt(str(job.hub_token)) == "hf_secret"
    without = eggs("submit", MODEL, HF_TOKEN="hf_secret")
    assert read_job(sessions, without.stdout.strip()).hub_token is None


@pytest.mark.parametrize(("limit", "code"), [("9", ExitCode.DONE), ("1.15", ExitCode.REJECTED)])
def test_a_pipeline_can_gate_on_the_verdict(
    eggs: Eggs, sessions: Sessions, settings: Settings, limit: str, code: ExitCode
) -> None:
    """What ends with 0 was accepted; the report is shown in any case."""
    verdict = "accepted" if code is ExitCode.DONE else "rejected"
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(eggs, "submit", MODEL, "--accept-perplexity-ratio", limit, "--wait")
        (job_id,) = wait_for(lambda: _queued(sessions))
        assert read_job(sessions, job_id).spec["accept_if"]["perplexity_ratio"] == float(limit)
        report = REPORT | {"acceptance": REPORT["acceptance"] | {"verdict": verdict}}
        lease = must_claim(sessions, job_id)
        with sessions.begin() as session:
            leases.succeed(session, lease, report=report, artifacts=[], artifacts_dir=job_id)
        ended = waiting.result()
    assert ended.returncode == code, ended.stderr
    assert "Perplexity" in ended.stdout
    assert verdict in ended.stdout
    assert eggs("watch", job_id).returncode == code


def _queued(sessions: Sessions) -> Sequence[str]:
    with sessions() as session:
        return leases.reoffer_candidates(session, 1)
