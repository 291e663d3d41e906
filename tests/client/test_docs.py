"""What docs/client.md and the README show of the client runs, against a real service with a worker."""

import io
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.settings import Settings
from eggs_client import Eggs
from tests.app.conftest import RunningServer
from tests.tiny_models import MakeModel
from worker.runner import run_next

ROOT = Path(__file__).parents[2]
PAGE, README = (
    re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(), re.M | re.S)
    for name in ("docs/client.md", "README.md")
)
BLOCKS = [*PAGE, *(block for block in README if "eggs_client" in block)]


@pytest.fixture
def work(settings: Settings, sessions: sessionmaker[Session]) -> Any:
    """A worker, until the test ends."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            run_next(settings, sessions, stop)
            stop.wait(0.05)

    with ThreadPoolExecutor() as pool:
        working = pool.submit(run)
        yield
        stop.set()
        working.result()


@pytest.mark.usefixtures("work")
def test_every_block_runs(
    server: RunningServer,
    settings: Settings,
    make_model: MakeModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_model("llama", max_position_embeddings=1024)
    settings.model_roots = [model.parent]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EGGS_URL", server.url)
    monkeypatch.setenv("EGGS_API_KEY", server.key)
    Path("notes.txt").write_text("".join(f"Egg number {number} is boiled.\n" for number in range(5000)))
    said = io.StringIO()
    assert len(BLOCKS) == 7
    with Eggs() as eggs, redirect_stdout(said):
        for block in BLOCKS:
            code = block.replace("http://127.0.0.1:8000", server.url).replace("eggs_…", server.key)
            code = code.replace("smollm2-135m-instruct", model.name)
            exec(compile(code, block, "exec"), {"eggs": eggs})
    printed = said.getvalue()
    assert re.match(r"\d+\.\d+\n1 0% ", printed)
    assert re.search(r"^\d+ 100% ", printed, re.M)
    assert "pruned/packed/config.json" in printed
    assert "/pattern 5:4 is not an N:M pattern" in printed
    assert sum(line.startswith("job_") for line in printed.splitlines()) == 2
