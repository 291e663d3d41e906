"""What is built of the sources has every file of its packages, and nothing else."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Literal

import pytest

from tests.test_deployment import ROOT

GENERATED = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info", "build", "dist")
CLIENT = ROOT / "client" / "src" / "eggs_client"
PACKAGES = {
    "eggs": [*(ROOT / name for name in ("app", "worker", "eggs_core", "migrations")), CLIENT],
    "eggs-client": [CLIENT],
}


def sources(name: str, into: Path) -> Path:
    """A clean copy of what the package is built from: of eggs, what an image is; see .dockerignore."""
    if name == "eggs-client":
        return shutil.copytree(ROOT / "client", into, ignore=GENERATED)
    into.mkdir()
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        source = ROOT / line.removeprefix("!")
        if line.startswith("!") and source.is_dir():
            shutil.copytree(source, into / source.name, ignore=GENERATED)
        elif line.startswith("!"):
            shutil.copy(source, into)
    return into


def build(kind: Literal["wheel", "sdist"], folder: Path) -> Path:
    """What pip has built of a folder, here where there is no compiler."""
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}('dist'))"
    environment = os.environ | {"CC": "false"}
    ran = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return folder / "dist" / ran.stdout.splitlines()[-1]


@pytest.mark.parametrize("name", PACKAGES)
def test_a_wheel_has_every_file_of_its_packages(name: str, tmp_path: Path) -> None:
    """Whether it is built of a checkout, or of the archive of sources that was built of one."""
    checkout = sources(name, tmp_path / "checkout")
    with tarfile.open(build("sdist", checkout)) as archive:
        archive.extractall(tmp_path / "archive", filter="data")
    (unpacked,) = (tmp_path / "archive").iterdir()
    expected = {
        str(path.relative_to(package.parent))
        for package in PACKAGES[name]
        for path in package.rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".so")
    }
    for folder in (checkout, unpacked):
        with zipfile.ZipFile(build("wheel", folder)) as wheel:
            assert {file for file in wheel.namelist() if ".dist-info/" not in file} == expected
