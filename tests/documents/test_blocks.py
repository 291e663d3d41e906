"""Every code block of the READMEs and of docs/ runs, or is checked as far as it can be; none is passed over."""

import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import yaml

from app.jobs.schemas import JobCreate
from eggs_client import Eggs
from tests.documents.blocks import PAGES, ROOT, Block, blocks_of, name_of
from tests.documents.conftest import Place

# Commands and Python that are not run as they are written, and what tries the same elsewhere.
NOT_RUN = {
    r"(\.venv/bin/)?eggs serve$": "tests/documents/conftest.py",  # runs it for all of these tests
    "torchrun ": "tests/core/test_distributed.py",
    r"(\.venv/bin/)?eggs serve-model ": "tests/app/test_packed_cli.py",  # on a free port
    r"(\.venv/bin/)?eggs bench ": "tests/app/test_packed_cli.py",  # fewer rounds
    "make ": "tests/e2e/test_demo.py",
    "docker compose ": "tests/test_deployment.py",
    "kubectl ": "tests/test_kubernetes.py",
    "import mlflow\n": "tests/worker/test_trackers.py",  # with a server
}
# What the code on a page prints, beyond running to its end.
PRINTED = {
    "client/README.md": [r"^Successfully installed eggs-client-\d"],
    "docs/client.md": [
        r"^\d+\.\d+$",
        r"^1 0% ",
        r"^\d+ 100% ",
        r"job_\w+/packed/config\.json$",
        r"^job_\w+ ",
        r"^/pattern 5:4 is not an N:M pattern",
    ],
    "docs/expansion.md": [r"^model\.layers\.0\.\S+ \d+ 0\.\d+$"],
}
LEFT_OUT = [
    (pattern, command)
    for page in PAGES
    for block in blocks_of(page)
    if block.language in ("console", "python")
    for command in (block.commands() if block.language == "console" else [block.text])
    for pattern in NOT_RUN
    if re.match(pattern, command)
]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_of_a_page(page: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.folder)
    for name, value in (place.environment | {"WEBHOOK_SECRET": "whsec_c2VjcmV0"}).items():
        monkeypatch.setenv(name, value)
    check = {"console": check_console, "python": check_python, "json": check_json, "yaml": check_yaml}
    printed = "".join(check[block.language](block, place) or "" for block in blocks_of(page))
    for pattern in PRINTED.get(name_of(page), []):
        assert re.search(pattern, printed, re.MULTILINE), printed


def check_console(block: Block, place: Place) -> str:
    commands = [command for command in block.commands() if not any(re.match(each, command) for each in NOT_RUN)]
    ran = place.run(place.filled_in("\n".join(commands)))
    assert ran.returncode == 0, f"{block.place} ended with {ran.returncode}:\n{ran.stdout}{ran.stderr}"
    shown = place.greeting if not commands else ran.stdout
    for line in map(place.filled_in, block.output()):
        assert line in shown.splitlines(), f"{block.place} shows {line!r}, and this came:\n{shown}"
    return ran.stdout


def check_python(block: Block, place: Place) -> str:
    if any(re.match(each, block.text) for each in NOT_RUN):
        return ""
    with Eggs() as eggs, redirect_stdout(io.StringIO()) as printed:
        exec(compile(place.filled_in(block.text), block.place, "exec"), {"eggs": eggs})
    return printed.getvalue()


def check_json(block: Block, place: Place) -> None:
    document = json.loads(block.text)
    if "model" in document:
        JobCreate.model_validate(document)


def check_yaml(block: Block, place: Place) -> None:
    for resource in yaml.safe_load(block.text)["resources"]:
        assert (ROOT / "overlay" / resource / "kustomization.yaml").resolve().is_file()


@pytest.mark.parametrize("pattern", NOT_RUN)
def test_what_is_not_run_is_still_there(pattern: str) -> None:
    commands = [command for left_out, command in LEFT_OUT if left_out == pattern]
    assert commands, "no page has such a command any more"
    assert (ROOT / NOT_RUN[pattern]).is_file()
    for command in commands:
        for path in re.findall(r"docker/[\w./-]+", command):
            assert (ROOT / path).exists(), command
        if target := re.match(r"make (\S+)", command):
            assert re.search(rf"^{target[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command
