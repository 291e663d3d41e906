"""A worker that is told to stop ends, whatever its pool of processes waits for."""

from pathlib import Path

import psutil
import pytest

from tests.conftest import wait_for
from tests.worker.conftest import StartWorker


@pytest.mark.parametrize(("database_url", "broker"), [("sqlite", "filesystem")], indirect=True)
def test_a_process_that_does_not_end_holds_up_nobody(start_worker: StartWorker, tmp_path: Path) -> None:
    worker = start_worker()
    wait_for(lambda: "ready" in (tmp_path / "worker-0.log").read_text())
    stuck = psutil.Process(worker.pid).children()
    assert stuck
    for process in stuck:
        process.suspend()
    worker.terminate()
    assert worker.wait(60) == 0
    _, alive = psutil.wait_procs(stuck, timeout=20)
    assert not alive
