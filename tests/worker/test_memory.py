"""Jobs for which the machine has too little memory: allocations that really fail, under a limit of the system."""

from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from sqlalchemy.orm import Session, sessionmaker

from app.db import make_engine, make_sessions
from app.settings import Settings
from eggs_core import memory
from eggs_core.errors import BrokenCheckpoint, NotEnoughMemory
from tests.app.build import make_job, read_job
from tests.limited import limited
from tests.tiny_models import MakeModel
from tests.worker import short_of_memory
from worker import processes
from worker.runner import run_job

# The weights take 12 MiB a thousand columns; the Gram matrix of the last layer takes their square.
WIDE = 1 << 17
HUGE = 1 << 46
SHORT: dict[str, Any] = {
    "method": "sparsegpt",
    "calibration": {"samples": 2, "sequence_length": 16},
    "evaluation": None,
}


@memory.explained()
def refuse_if(allocate: Callable[[], object]) -> None:
    try:
        allocate()
    except Exception as error:  # as of any fault in a stranger's files
        raise BrokenCheckpoint("It cannot be read.") from error


@pytest.mark.parametrize(
    "allocate",
    [lambda: torch.empty(HUGE), lambda: bytearray(HUGE), lambda: np.zeros(HUGE)],
    ids=["torch", "python", "numpy"],
)
def test_a_failed_allocation_is_told_as_one(allocate: Callable[[], object]) -> None:
    for act in (memory.explained()(allocate), lambda: refuse_if(allocate)):
        with pytest.raises(NotEnoughMemory, match="fewer samples"):
            act()


@pytest.mark.parametrize("error", [BrokenCheckpoint("It is broken."), RuntimeError("no"), OSError(28, "full")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, memory.explained():
        raise error
    assert raised.value is error


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_job_that_needs_more_than_there_is(
    processes: int, settings: Settings, sessions: sessionmaker[Session], make_model: MakeModel, tmp_path: Path
) -> None:
    model = make_model("llama", num_hidden_layers=1, intermediate_size=WIDE)
    settings.model_roots.append(model)
    settings.processes = processes
    job_id = make_job(sessions, model=str(model), **SHORT)

    def run() -> None:
        own = make_sessions(make_engine(settings.database_url))  # no connection survives a fork
        run_job(job_id, settings, own, Event())

    outcome, _ = limited(run, seconds=120, most=10 << 30)
    assert outcome == "done"
    job = read_job(sessions, job_id)
    assert job.state == "failed"
    assert job.error is not None
    assert (job.error["type"], job.error["status"]) == ("urn:eggs:problem:not-enough-memory", 422)
    assert "machine with more memory" in job.error["detail"]
    assert not list(settings.staging_dir.iterdir())


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_one_of_two_processes_that_has_too_little(
    settings: Settings, sessions: sessionmaker[Session], make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one only sees the second one go, and yet the job says why."""
    monkeypatch.setattr(processes, "__name__", short_of_memory.__name__)
    # Its Gram matrix takes twice what the second process has.
    model = make_model("llama", num_hidden_layers=1, intermediate_size=1 << 14)
    settings.model_roots.append(model)
    settings.processes = 2
    job_id = make_job(sessions, model=str(model), **SHORT)
    run_job(job_id, settings, sessions, Event())
    job = read_job(sessions, job_id)
    assert (job.state, job.error and job.error["type"]) == ("failed", "urn:eggs:problem:not-enough-memory")
