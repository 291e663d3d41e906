"""What the manifests for Kubernetes say once kustomize has read them, by their schemas and against the service."""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer.main
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from fastapi.testclient import TestClient
from pydantic import ValidationError

from app.cli.main import app as command_line
from app.main import create_app
from app.settings import Settings
from tests.documents.blocks import blocks_of
from tests.test_deployment import IMAGES, ROOT, instructions

FOLDER = ROOT / "docker" / "kubernetes"
EXAMPLE = FOLDER / "base" / "secret.example.yaml"
# What is given to `kubectl apply -k`. The base is in the second.
APPLIED = ["migrate", "cuda", "keda"]
Manifest = dict[str, Any]


def rendered(folder: Path) -> list[Manifest]:
    """What kustomize makes of a folder."""
    kubectl = Path(sys.executable).with_name("kubectl")
    ran = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return list(yaml.safe_load_all(ran.stdout))


SECRET: Manifest = yaml.safe_load(EXAMPLE.read_text())
ALL = [manifest for name in APPLIED for manifest in rendered(FOLDER / name)] + [SECRET]
PODS = {m["metadata"]["name"]: m["spec"]["template"] for m in ALL if "template" in m.get("spec", {})}
CONTAINERS = {name: pod["spec"]["containers"][0] for name, pod in PODS.items()}
SETTINGS = {f"EGGS_{name}".upper() for name in Settings.model_fields}
(CONFIGURATION,) = (m["data"] for m in ALL if m["kind"] == "ConfigMap")


def of_kind(kind: str) -> dict[str, Manifest]:
    return {m["metadata"]["name"]: m for m in ALL if m["kind"] == kind}


def chosen(selector: dict[str, Any]) -> set[str]:
    """The pods that a selector means, by the names of what makes them."""
    wanted = selector.get("matchLabels", selector).items()
    return {name for name, pod in PODS.items() if wanted <= pod["metadata"]["labels"].items()}


@pytest.mark.parametrize(
    "manifest", ALL, ids=lambda manifest: f"{manifest['kind']}-{manifest['metadata']['name']}"
)
def test_a_manifest_has_the_form_that_its_kind_has(manifest: Manifest) -> None:
    if manifest["kind"] == "ScaledObject":
        ScaledObject.model_validate(manifest, strict=True, extra="forbid")
    else:
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_whatever_is_applied_is_in_the_services_namespace() -> None:
    assert sorted(of_kind("Deployment")) == ["eggs-api", "eggs-beat", "eggs-worker-cpu", "eggs-worker-cuda"]
    assert {m["metadata"].get("namespace") for m in ALL if m not in (SECRET, of_kind("Namespace")["eggs"])} == {
        "eggs"
    }


def test_kustomize_takes_every_file_but_the_example() -> None:
    taken = {EXAMPLE}
    for file in FOLDER.glob("*/kustomization.yaml"):
        kustomization = yaml.safe_load(file.read_text())
        patches = [patch["path"] for patch in kustomization.get("patches", [])]
        taken |= {(file.parent / path).resolve() for path in [".", *kustomization["resources"], *patches]}
        taken.add(file)
    assert taken == {*FOLDER.glob("*"), *FOLDER.glob("*/*")}


def test_an_overlay_as_documented_names_its_own_images(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "docker" / "kubernetes")
    (tmp_path / "overlay").mkdir()
    (overlay,) = (block for block in blocks_of(ROOT / "docs" / "deploying.md") if block.language == "yaml")
    (tmp_path / "overlay" / "kustomization.yaml").write_text(overlay.text)
    made = [m["spec"]["template"] for m in rendered(tmp_path / "overlay") if m["kind"] == "Deployment"]
    images = [container["image"] for pod in made for container in pod["spec"]["containers"]]
    assert len(images) == 4
    assert all(image.startswith("registry.acme.example/") for image in images)


def test_commands_as_documented_reach_the_services_namespace() -> None:
    blocks = (block for block in blocks_of(ROOT / "docs" / "deploying.md") if block.language == "console")
    commands = [shlex.split(each, comments=True) for block in blocks for each in block.commands()]
    kubectl = [command for command in commands if command[0] == "kubectl"]
    assert len(kubectl) > 5
    for command in kubectl:
        assert "-k" in command or command[1:3] == ["--namespace", "eggs"], "only kustomize knows it by itself"


def test_settings_are_spelled_as_the_service_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {
        item["name"]: item.get("value") for container in CONTAINERS.values() for item in container.get("env", [])
    }
    assert set(own) - SETTINGS == {"OMP_NUM_THREADS"}
    assert set(CONFIGURATION) <= SETTINGS
    for name, value in (CONFIGURATION | own).items():
        if value is not None:
            assert isinstance(value, str), name
            monkeypatch.setenv(name, value)
    Settings()


def test_there_is_no_secret_but_an_example_that_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [manifest for manifest in ALL if manifest["kind"] == "Secret"] == [SECRET]
    example = SECRET["stringData"]
    assert set(example) <= SETTINGS
    assert not {name for name in CONFIGURATION if re.search("PASSWORD|SECRET|TOKEN|URL", name)}
    for name, value in example.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match="secret_key"):
        Settings()


@pytest.mark.parametrize("name", PODS)
def test_a_pod_may_do_no_more_than_it_needs(name: str) -> None:
    """As the "restricted" Pod Security Standard has it, and without a root that can be written to."""
    pod, container = PODS[name]["spec"], CONTAINERS[name]
    assert of_kind("Namespace")["eggs"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert (
        f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
        == dict(instructions("api"))["USER"]
    )
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert container["resources"]["limits"]["memory"]
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}


@pytest.mark.parametrize("name", PODS)
def test_a_pod_reads_what_there_is(name: str) -> None:
    for source in CONTAINERS[name]["envFrom"]:
        ((kind, reference),) = source.items()
        assert reference["name"] in of_kind({"configMapRef": "ConfigMap", "secretRef": "Secret"}[kind])
    for volume in PODS[name]["spec"]["volumes"]:
        if "persistentVolumeClaim" in volume:
            assert volume["persistentVolumeClaim"]["claimName"] in of_kind("PersistentVolumeClaim")


@pytest.mark.parametrize("name", PODS)
def test_images_are_those_of_the_dockerfile_in_this_version(name: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    image, _, tag = CONTAINERS[name]["image"].rpartition("/")[2].partition(":")
    assert image.removeprefix("eggs-") in IMAGES
    assert tag == version


def test_probes_ask_for_what_is_answered(tmp_path: Path) -> None:
    container = CONTAINERS["eggs-api"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    environment = " ".join(rest for name, rest in instructions("api") if name == "ENV")
    assert f"EGGS_PORT={ports['http']}" in environment.split()
    assert str(ports["metrics"]) == CONFIGURATION["EGGS_METRICS_PORT"]
    probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
    with TestClient(create_app(Settings(data_dir=tmp_path))) as client:
        for probe in probes:
            assert probe["port"] in ports
            assert client.get(probe["path"]).headers["content-type"] == "application/json"
            assert client.get(probe["path"]).status_code != 404
    for other in ("eggs-beat", "eggs-worker-cpu", "eggs-worker-cuda"):
        python, option, module = CONTAINERS[other]["readinessProbe"]["exec"]["command"]
        assert (python, option) == ("python", "-m")
        assert importlib.util.find_spec(module) is not None


@pytest.mark.parametrize("name", ["eggs-migrate", "eggs-beat"])
def test_what_is_run_is_a_command_that_there_is(name: str) -> None:
    program, command = CONTAINERS[name]["command"]
    assert program == "eggs"
    assert command in typer.main.get_command(command_line).commands  # type: ignore[attr-defined]


def test_the_api_leaves_to_the_beat_what_recurs() -> None:
    assert CONFIGURATION["EGGS_BEAT"] == "false"
    assert of_kind("Deployment")["eggs-beat"]["spec"]["replicas"] == 1


def test_workers_say_that_a_job_takes_too_much_before_they_are_killed() -> None:
    for name in ("eggs-worker-cpu", "eggs-worker-cuda"):
        container = CONTAINERS[name]
        (most,) = (int(item["value"]) for item in container["env"] if item["name"] == "EGGS_JOB_MEMORY_BYTES")
        gibibytes = int(container["resources"]["limits"]["memory"].removesuffix("Gi"))
        assert 0.8 * gibibytes < most / 2**30 < gibibytes
        assert PODS[name]["spec"]["terminationGracePeriodSeconds"] > 10
    assert CONTAINERS["eggs-worker-cuda"]["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_whatever_chooses_pods_chooses_those_it_means() -> None:
    for name, deployment in of_kind("Deployment").items():
        assert chosen(deployment["spec"]["selector"]) == {name}
    for name, service in of_kind("Service").items():
        assert chosen(service["spec"]["selector"]) == {name}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= {
            port["name"] for port in CONTAINERS[name]["ports"]
        }
    for name, budget in of_kind("PodDisruptionBudget").items():
        assert chosen(budget["spec"]["selector"]) == {name}
    policies = of_kind("NetworkPolicy")
    assert chosen(policies["eggs"]["spec"]["podSelector"]) == set(PODS)
    assert chosen(policies["eggs-api"]["spec"]["podSelector"]) == {"eggs-api"}
    scaled = {name: each["spec"]["scaleTargetRef"]["name"] for name, each in of_kind("ScaledObject").items()}
    assert scaled == {name: name for name in of_kind("Deployment") if "worker" in name}
    for each in of_kind("ScaledObject").values():
        for trigger in each["spec"]["triggers"]:
            assert trigger["type"] == "prometheus"
            assert set(trigger["metadata"]) == {"serverAddress", "query", "threshold"}, "it needs these"
    assert all("replicas" not in of_kind("Deployment")[name]["spec"] for name in scaled), "they would be set back"


def test_no_pod_reaches_the_clouds_metadata() -> None:
    for rule in of_kind("NetworkPolicy")["eggs"]["spec"]["egress"]:
        ports = {port["port"] for port in rule.get("ports", [])}
        for peer in rule.get("to", []):
            block = peer["ipBlock"]
            assert "169.254.0.0/16" in block.get("except", []) or not block["cidr"].startswith(("0.", "169."))
        assert "to" in rule or ports == {53}
