"""What a worker's container says of itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.settings import Settings


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, {"status": "ready", "database": "ok", "migrations": "current", "broker": "ok"}),
        ({"broker_url": "redis://127.0.0.1:1/0"}, {"status": "ready", "broker": "unreachable"}),
        ({"database_url": "postgresql+psycopg://eggs:hidden@127.0.0.1:1/eggs"}, {"database": "unreachable"}),
        ({"database_url": "sqlite:///{folder}/new.sqlite3"}, {"migrations": "behind"}),
    ],
)
def test_a_worker_is_healthy_where_it_could_work(
    change: dict[str, str], says: dict[str, str], settings: Settings, tmp_path: Path
) -> None:
    changed = settings.model_copy(update={name: text.format(folder=tmp_path) for name, text in change.items()})
    command = [sys.executable, "-m", "worker.health"]
    ended = subprocess.run(command, env=os.environ | changed.environment(), capture_output=True, text=True)
    said = json.loads(ended.stdout)
    assert said.items() >= says.items()
    assert ended.returncode == (1 if change else 0)
    assert "hidden" not in ended.stdout
    assert ended.stderr == ""
