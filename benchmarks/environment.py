"""Environments of their own, for what is to run without the libraries that tests and benchmarks need besides."""

import subprocess
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
# torch comes first and by itself, in the build that is used here: left to itself pip would fetch CUDA for a CPU.
TORCH = f"torch=={torch.__version__.split('+')[0]}"


def python_with(name: str, requirements: Sequence[str], constraints: Path | None = None) -> Path:
    """The interpreter of the environment `benchmarks/.venv/name`, made if it is not there with just these."""
    folder = Path(__file__).parent / ".venv" / name
    python, installed = folder / "bin" / "python", folder / "installed"
    wanted = "\n".join([TORCH, *requirements])
    if not installed.is_file() or installed.read_text() != wanted:
        venv.create(folder, clear=True, with_pip=True)
        options = [] if constraints is None else ["--constraint", str(constraints)]
        for these in ([TORCH], [TORCH, *requirements, *options]):
            subprocess.run([python, "-m", "pip", "install", "--quiet", *these], check=True)
        installed.write_text(wanted)
    return python


def python_of_a_worker() -> Path:
    """What a worker has: what this project requires, and the extra `worker`. Its code is to come from here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"]["worker"]]
    return python_with("worker", requirements, ROOT / "constraints.txt")
