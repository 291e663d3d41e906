"""A worker that prunes in two processes: it publishes, tells mistakes and stops as it does in one."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import psutil
import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.settings import Settings
from eggs_core.report import Report
from eggs_core.spec import PruneSpec
from tests.app.build import make_job, read_job
from tests.conftest import wait_for
from tests.tiny_models import MakeModel
from tests.worker.test_runner import in_progress, in_thread, run_and_cancel
from worker import processes
from worker.runner import run_job

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

# Of a job that is to be broken off: more work than anybody takes to come to it.
LONG = {"effort": "best", "calibration": {"samples": 64, "sequence_length": 64}}


@pytest.fixture
def request_body(
    settings: Settings, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """A job for two processes, of which none is left at the end."""
    before = psutil.Process().children(recursive=True)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings.processes = 2
    model = make_model("llama", num_hidden_layers=40)
    settings.model_roots.append(model)
    calibration = {"samples": 3, "sequence_length": 32}
    yield {"model": str(model), "effort": "fast", "calibration": calibration, "evaluation": None}
    assert psutil.Process().children(recursive=True) == before


def test_a_job_is_published(
    settings: Settings, sessions: sessionmaker[Session], request_body: dict[str, Any]
) -> None:
    job_id = make_job(sessions, **request_body)
    run_job(job_id, settings, sessions, Event())
    job = read_job(sessions, job_id)
    assert (job.state, job.progress, job.error) == ("succeeded", 1.0, None)
    report = settings.artifacts_dir / str(job.artifacts_dir) / "report.json"
    assert Report.model_validate_json(report.read_text()).processes == 2


def test_the_users_mistake_is_told_as_one(
    settings: Settings, sessions: sessionmaker[Session], request_body: dict[str, Any]
) -> None:
    job_id = make_job(sessions, **request_body | {"calibration": {"samples": 1, "sequence_length": 32}})
    run_job(job_id, settings, sessions, Event())
    job = read_job(sessions, job_id)
    assert job.state == "failed"
    assert job.error is not None
    assert (job.error["type"], job.error["status"]) == ("urn:eggs:problem:too-many-processes", 422)
    assert "cannot share 1 calibration windows" in job.error["detail"]


def test_a_cancel_ends_all_processes(
    settings: Settings, sessions: sessionmaker[Session], request_body: dict[str, Any]
) -> None:
    assert run_and_cancel(settings, sessions, request_body | LONG).state == "cancelled"
    assert not list(settings.staging_dir.iterdir())


def test_a_process_that_dies_fails_the_job(
    settings: Settings, sessions: sessionmaker[Session], request_body: dict[str, Any]
) -> None:
    job_id = make_job(sessions, **request_body | LONG)
    thread = in_thread(job_id, settings, sessions)
    wait_for(lambda: in_progress(sessions, job_id))
    children = psutil.Process().children(recursive=True)
    next(child for child in children if child.environ().get("RANK") == "1").kill()
    thread.join()
    job = read_job(sessions, job_id)
    assert job.state == "failed"
    assert job.error is not None
    assert job.error["type"] == "urn:eggs:problem:internal-error"


@pytest.mark.usefixtures("database_url")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_is_told_by_whichever_process_meets_it(rank: int, tmp_path: Path) -> None:
    request = tmp_path / "spec.json"
    request.write_text(PruneSpec(model="none").model_dump_json())
    program = """
import contextlib, sys
from pathlib import Path
from eggs_core import distributed
from worker import processes

def fail(*_, **__):
    raise OSError(28, "No space left on device")

distributed.joined, processes._prune = contextlib.nullcontext, fail
processes.main(Path(sys.argv[1]), Path("out"))
"""
    environment = os.environ | {"RANK": str(rank)}
    command = [sys.executable, "-c", program, str(request)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment) as process:
        assert process.stdout is not None
        with pytest.raises(OSError, match="No space left on device") as raised:
            processes._follow(process.stdout, lambda event: None, lambda: None)
    assert raised.value.errno == errno.ENOSPC


def test_processes_end_with_the_worker(settings: Settings, request_body: dict[str, Any], tmp_path: Path) -> None:
    """Where it is killed, nothing goes on writing."""
    spec = PruneSpec.model_validate(request_body | {"calibration": {"samples": 64, "sequence_length": 128}})
    run = "from worker.processes import *; import sys; spec = PruneSpec.model_validate_json(sys.argv[1]); "
    run += "prune(spec, Path(sys.argv[2]), Settings(), lambda event: None, lambda: None)"
    out = tmp_path / "out"
    command = [sys.executable, "-c", run, spec.model_dump_json(), str(out)]
    worker = subprocess.Popen(command, env=os.environ | settings.environment())
    wait_for(out.exists)
    children = psutil.Process(worker.pid).children(recursive=True)
    worker.kill()
    worker.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert len(children) == 3, "torchrun and two processes"
    assert not alive
