"""An MLflow server of the tests' own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.conftest import free_port, wait_for


class MlflowServer:
    """`mlflow server` on a database and a folder of files, which can be paused."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "server.log"
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        options = [f"--backend-store-uri=sqlite:///{folder / 'mlflow.sqlite3'}", "--workers=1"]
        options += [f"--artifacts-destination={folder / 'artifacts'}", "--host=127.0.0.1", f"--port={port}"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *options],
                # Its own queue of jobs is a dozen processes more, of which no test has any use.
                env=os.environ
                | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log,
                stderr=log,
                cwd=folder,
                start_new_session=True,
            )
        wait_for(self._works, pause=0.1)

    def _works(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            return httpx.get(f"{self.url}/health", timeout=60).is_success
        except httpx.TransportError:
            return False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Meanwhile it takes connections and says nothing."""
        os.killpg(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", server.url)
        yield server
    server.stop()
