"""A worker that is told to stop ends, whatever its pool of processes waits for."""

import os
import signal
import threading
from pathlib import Path

import psutil
import pytest

from tests.conftest import wait_for
from tests.worker.conftest import StartWorker
from worker.app import Flag


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


def test_a_process_that_is_killed_while_it_asks_leaves_the_others_an_answer() -> None:
    flag = Flag()
    for _ in range(30):
        read, write = os.pipe()
        if (asking := os.fork()) == 0:
            os.write(write, b"!")
            while True:
                flag.is_set()
        os.read(read, 1)
        os.kill(asking, signal.SIGKILL)
        os.waitpid(asking, 0)
        for end in (read, write):
            os.close(end)
    others = threading.Thread(target=flag.set, daemon=True)
    others.start()
    others.join(10)
    assert flag.is_set()
