"""What is in examples/ runs, against a real service."""

import json
import os
import re
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from nbclient import NotebookClient

from eggs_client import Eggs
from tests.conftest import files_of
from tests.documents.blocks import ROOT
from tests.documents.conftest import MODEL, Place

EXAMPLES = ROOT / "examples"


def test_the_notebook(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells), "it is kept without its outputs"
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(place.folder)}}).execute()
    said = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
    assert re.search(r"^perplexity [\d.]+ dense, [\d.]+ pruned: [\d.]+ times$", said, re.MULTILINE)
    assert re.search(r"^by ria: perplexity [\d.]+$", said, re.MULTILINE)
    assert len(re.findall(r"^0\.\d+  \S+, at least \d+ edges a channel$", said, re.MULTILINE)) == 5


def evaluated(text: str, given: dict[str, str]) -> str:
    """Actions' expressions of the simple kind that the example has, such as `${{ inputs.model }}`."""
    return re.sub(r"\$\{\{ (\S+) \}\}", lambda match: given[match[1]], text)


class Actions:
    """Runs the shell steps of a job as GitHub Actions does: after one that fails, only those that ask for it."""

    def __init__(self, place: Place, given: dict[str, str]) -> None:
        self._place = place
        self._given = given
        self._files = {name: place.folder / name for name in ("GITHUB_ENV", "GITHUB_STEP_SUMMARY")}
        for file in self._files.values():
            file.write_text("")

    @property
    def summary(self) -> str:
        return self._files["GITHUB_STEP_SUMMARY"].read_text()

    def run(self, job: dict[str, Any]) -> dict[str, int]:
        """What each shell step that was run ended with."""
        ended: dict[str, int] = {}
        for step in job["steps"]:
            if "run" not in step or (any(ended.values()) and step.get("if") != "${{ !cancelled() }}"):
                continue
            variables = {name: evaluated(value, self._given) for name, value in job["env"].items()}
            variables |= {name: str(file) for name, file in self._files.items()}
            variables |= dict(line.split("=", 1) for line in self._files["GITHUB_ENV"].read_text().splitlines())
            ended[step["name"]] = self._place.run(step["run"], **variables).returncode
        return ended


@pytest.mark.parametrize(
    ("asked", "code"),
    [({"ratio": "1000"}, 0), ({"ratio": "0.001"}, 6), ({"pattern": "5:4"}, 1)],
    ids=["accepted", "rejected", "refused"],
)
def test_the_workflow(place: Place, asked: dict[str, str], code: int) -> None:
    """Its shell steps; `make lint` holds all of it against the schema of workflows."""
    document = yaml.safe_load((EXAMPLES / "github-actions.yml").read_text())
    inputs = document[True]["workflow_dispatch"]["inputs"]  # YAML 1.1 reads `on` as true
    given = {f"inputs.{name}": asked.get(name, field["default"]) for name, field in inputs.items()} | {
        "vars.EGGS_URL": place.url,
        "secrets.EGGS_API_KEY": place.key,
        "vars.EGGS_PACKAGE": "./client",  # eggs itself, which would take minutes to build, is there already
    }
    actions = Actions(place, given)
    ended = actions.run(document["jobs"]["prune"])
    expected = {"Install the command line": 0, "Prune": code, "Show the report": 0}
    assert ended == (expected if code else expected | {"Download the checkpoint": 0})
    if code == 1:
        assert not actions.summary
        return
    assert "Perplexity, pruned" in actions.summary
    assert json.loads((place.folder / "job.json").read_text())["verdict"] == ("rejected" if code else "accepted")


def test_the_container_of_the_kubeflow_component_can_install_the_client(place: Place, tmp_path: Path) -> None:
    """What its first lines show is installed without git, which Python's slim images lack."""
    (package,) = re.findall(r"EGGS_PACKAGE='(\S+)' ", (EXAMPLES / "kubeflow_component.py").read_text())
    with tarfile.open(tmp_path / "main.tar.gz", "w:gz") as archive:
        archive.add(ROOT / "client", "eggs-main/client")
    package = package.replace("https://…", tmp_path.as_uri())
    environment = place.environment | {"PATH": "", "PIP_TARGET": str(tmp_path / "installed")}
    command = [sys.executable, "-m", "pip", "install", package]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (tmp_path / "installed" / "eggs_client" / "__init__.py").is_file()


def in_kubeflow(place: Place, folder: Path, script: str) -> str:
    """What a script prints that uses the example, in an environment of its own as its container would have it."""
    python = ROOT / ".kfp" / "bin" / "python"
    assert python.is_file(), "make .kfp/installed makes the environment"
    environment = {"PATH": f"{python.parent}:{os.environ['PATH']}", "EGGS_PACKAGE": "eggs-client"}
    environment["PIP_NO_INDEX"] = "1"  # all is there already
    environment |= {name: place.environment[name] for name in ("HOME", "EGGS_API_KEY")}
    script = f"""
import sys
sys.path.insert(0, {str(EXAMPLES)!r})
from kfp import compiler, local
import kubeflow_component
runner = local.SubprocessRunner(use_venv=False)
local.init(runner=runner, pipeline_root="outputs", raise_on_error=False)
{script}"""
    ran = subprocess.run([python, "-c", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_the_kubeflow_component(place: Place, tmp_path: Path) -> None:
    """It compiles, in a pipeline, and it runs."""
    script = f"""
compiler.Compiler().compile(kubeflow_component.pipeline, "pipeline.yaml")
task = kubeflow_component.prune(url={place.url!r}, model={MODEL!r}, pattern="2:4", ratio=1000.0, run="")
print(task.outputs["checkpoint"].path)
print(task.outputs["metrics"].metadata["perplexity ratio"])
"""
    checkpoint, ratio = in_kubeflow(place, tmp_path, script).splitlines()[-2:]
    assert {"config.json", "report.json", "SHA256SUMS", "packed/config.json"} <= files_of(Path(checkpoint))
    assert float(ratio) > 0
    step = next(
        iter(yaml.safe_load((tmp_path / "pipeline.yaml").read_text().split("---")[0])["root"]["dag"]["tasks"])
    )
    assert step == "prune"


def test_the_kubeflow_component_tried_again_is_one_job_in_each_run(place: Place, tmp_path: Path) -> None:
    script = f"for _ in range(2): kubeflow_component.pipeline(url={place.url!r}, ratio=0.001)"
    rejected = Counter(re.findall(r"that (job_\w+) made", in_kubeflow(place, tmp_path, script)))
    assert list(rejected.values()) == [2, 2]


class InAirflow:
    """Runs the example as `airflow dags test` does, in an environment of its own."""

    def __init__(self, place: Place, folder: Path) -> None:
        self._python = ROOT / ".airflow" / "bin" / "python"
        assert self._python.is_file(), "make .airflow/installed makes the environment"
        (folder / "dags").mkdir()
        (folder / "dags" / "airflow_dag.py").symlink_to(EXAMPLES / "airflow_dag.py")
        self._environment = {"AIRFLOW_HOME": str(folder), "AIRFLOW__CORE__LOAD_EXAMPLES": "false"}
        self._environment |= {"PYTHONPATH": str(folder / "dags"), "PATH": os.environ["PATH"]}
        self._environment |= {name: place.environment[name] for name in ("HOME", "EGGS_URL", "EGGS_API_KEY")}
        self._run("-m", "airflow", "db", "migrate")

    def _run(self, *arguments: str) -> str:
        command = [self._python, *arguments]
        ran = subprocess.run(command, env=self._environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def run(self, script: str) -> str:
        """What a script prints that has the example's module and `run`, which runs its DAG without pauses."""
        return self._run(
            "-c",
            f"""
from datetime import timedelta
import airflow_dag
def run(timeout=60, **conf):
    dag = airflow_dag.prune()
    for task in dag.tasks: task.retry_delay = timedelta(0)
    wait = dag.get_task("wait")
    wait.poke_interval, wait.timeout = 1, timeout
    ended = dag.test(run_conf=conf)
    tasks = sorted(ended.get_task_instances(), key=lambda task: task.task_id)
    print("ENDED", ended.state, *[f"{{task.task_id}}:{{task.state}}:{{task.try_number}}" for task in tasks])
{script}""",
        )


def test_the_airflow_dag(place: Place, tmp_path: Path) -> None:
    """It submits one job a run, tells what is wrong, and leaves no job behind."""
    airflow = InAirflow(place, tmp_path)
    with Eggs(place.url, place.key) as eggs:
        before = {job.id for job in eggs.jobs.list()}
        said = airflow.run(f"""
class DiesOnceSubmitted(airflow_dag.Eggs):
    def __exit__(self, *error):
        airflow_dag.Eggs = alive
        raise OSError("the machine has gone")
alive, airflow_dag.Eggs = airflow_dag.Eggs, DiesOnceSubmitted
run(ratio=1000.0)
run(ratio=0.001)
run(model="nobody/nothing")
long = {{"effort": "best", "calibration": {{"samples": 64, "sequence_length": 1024}}}}
alive().jobs.submit(model={MODEL!r}, **long)
run(timeout=0)
""")
        assert re.findall(r"^ENDED (.*)$", said, re.MULTILINE) == [
            "success report:success:1 stop:success:1 submit:success:2 wait:success:1",
            "failed report:failed:1 stop:success:1 submit:success:1 wait:success:1",
            "failed report:upstream_failed:0 stop:success:1 submit:success:1 wait:failed:1",
            "failed report:upstream_failed:0 stop:success:1 submit:success:1 wait:failed:1",
        ]
        # The long one is not cancelled: that might end the worker of all the tests.
        stopped, _, failed, rejected, _ = [job for job in eggs.jobs.list() if job.id not in before]
        assert stopped.state == "cancelled"
    assert f"The model that {rejected.id} made is not good enough" in said
    assert f"{failed.id}: No such model" in said
