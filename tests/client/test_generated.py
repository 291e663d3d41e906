"""What is generated of the client is what would be generated now, and takes what newer services say."""

import subprocess
import sys
from pathlib import Path

from app.examples import REPORT
from app.jobs.schemas import JOB, JobResource
from eggs_client import models
from eggs_core.report import Report

ROOT = Path(__file__).parents[2]


def test_nothing_generated_is_stale() -> None:
    run = subprocess.run(
        [sys.executable, ROOT / "client" / "generate.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_client_needs_neither_torch_nor_the_service() -> None:
    script = """
import sys
import eggs_client
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"torch", "transformers", "fastapi", "sqlalchemy", "celery", "app", "eggs_core"}
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_what_the_service_says_comes_through_whole() -> None:
    for sent, own, content in ((JobResource, models.JobResource, JOB), (Report, models.Report, REPORT)):
        said = sent.model_validate(content).model_dump(mode="json")
        assert own.model_validate(said).model_dump(mode="json") == said


def test_what_a_newer_service_says_is_taken() -> None:
    newer = JOB | {"state": "paused", "color": "blue"}
    newer["spec"] = JOB["spec"] | {"method": "newest", "min_degree": "most", "depth": 3}
    job = models.JobResource.model_validate(newer)
    assert job.state == "paused"
    assert job.state is not models.JobState.RUNNING
    assert isinstance(job.spec, models.PruneSpec)
    assert job.spec.method == "newest"
    assert job.model_dump(mode="json")["state"] == "paused"
    assert models.Report.model_validate(REPORT | {"schema_version": 9}).schema_version == 9


def test_what_was_stored_by_another_version_is_taken_as_it_is() -> None:
    stored = JOB | {"spec": {"model": 3, "masks": []}}
    assert models.JobResource.model_validate(stored).spec == {"model": 3, "masks": []}
