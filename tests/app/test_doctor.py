"""`eggs doctor` on installations that are well, and on those that are not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from app.db import make_engine
from app.secrets import Secrets
from app.settings import Settings
from tests.conftest import files_of
from tests.object_store import ObjectStore, bucket, credentials, keys_in, object_store, way

__all__ = ["bucket", "credentials", "object_store", "way"]

SECRET = "not-to-be-shown"
# Where the database is not what the test is about: each look at an installation imports torch.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def doctor(settings: Settings | None = None, **variables: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Its exit code, and what it says, by what it has looked at."""
    environment = os.environ | ({} if settings is None else settings.environment()) | variables
    run = subprocess.run(
        [sys.executable, "-m", "app.cli", "doctor", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in run.stderr
    assert SECRET not in run.stdout + run.stderr
    return run.returncode, {check["name"]: check for check in json.loads(run.stdout)}


@on_sqlite
def test_an_installation_that_is_well(settings: Settings) -> None:
    Secrets(settings).encrypt("a secret")
    code, checks = doctor(settings)
    assert code == 0, checks
    states = {name: check["state"] for name, check in checks.items() if name not in ("GPU", "kernel")}
    assert states == dict.fromkeys(
        ("installation", "data folder", "database", "broker", "store", "secret key"), "ok"
    )
    assert "eggs 0.1.0" in checks["installation"]["found"]
    assert "torch" in checks["GPU"]["found"]
    assert files_of(settings.artifacts_dir) == set()


def test_an_installation_that_is_new(tmp_path: Path) -> None:
    code, checks = doctor(EGGS_DATA_DIR=str(tmp_path / "new"))
    assert code == 0
    assert {checks[name]["state"] for name in ("data folder", "database", "broker", "store")} == {"warn"}
    assert "`eggs serve` makes it" in checks["database"]["advice"]
    assert not (tmp_path / "new").exists()


def test_servers_that_are_away(tmp_path: Path) -> None:
    code, checks = doctor(
        EGGS_DATA_DIR=str(tmp_path),
        EGGS_DATABASE_URL=f"postgresql+psycopg://eggs:{SECRET}@127.0.0.1:1/eggs",
        EGGS_BROKER_URL=f"redis://:{SECRET}@127.0.0.1:1/0",
        EGGS_ARTIFACT_STORE_URL="file:///proc/nowhere",
    )
    assert code == 1
    for name, variable in (
        ("database", "EGGS_DATABASE_URL"),
        ("broker", "EGGS_BROKER_URL"),
        ("store", "EGGS_ARTIFACT_STORE_URL"),
    ):
        assert checks[name]["state"] == "fail"
        assert variable in checks[name]["advice"]


@pytest.mark.parametrize("url", ["nonsense", "nonsense://a", "redis://a:many"])
def test_addresses_that_nothing_can_be_made_of(tmp_path: Path, url: str) -> None:
    code, checks = doctor(EGGS_DATA_DIR=str(tmp_path), EGGS_BROKER_URL=url)
    assert (code, checks["broker"]["state"]) == (1, "fail")


def test_a_schema_that_is_behind(settings: Settings) -> None:
    engine = make_engine(settings.database_url)
    with engine.begin() as connection:
        version = connection.scalar(text("SELECT version_num FROM alembic_version"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    code, checks = doctor(settings)
    assert (code, checks["database"]["state"]) == (1, "fail")
    assert "eggs migrate" in checks["database"]["advice"]
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :version"), {"version": version})
    engine.dispose()


@on_sqlite
def test_settings_and_keys_that_are_wrong(settings: Settings) -> None:
    code, checks = doctor(EGGS_PORT="many", EGGS_DATABASE_URL=f"nonsense://{SECRET}")
    assert (code, checks["settings"]["found"]) == (1, "Not valid: EGGS_DATABASE_URL, EGGS_PORT.")
    key = settings.data_dir / "secret.key"
    key.write_text(SECRET)
    assert doctor(settings)[1]["secret key"]["state"] == "fail"
    key.unlink()
    Secrets(settings).encrypt("a secret")
    key.chmod(0o644)
    assert doctor(settings)[1]["secret key"]["advice"] == f"Run: chmod 600 {key}"


@on_sqlite
def test_a_store_that_speaks_s3(settings: Settings, bucket: str, object_store: ObjectStore) -> None:
    settings.artifact_store_url = f"s3://{bucket}/eggs"
    code, checks = doctor(settings)
    assert (code, checks["store"]["state"]) == (0, "ok"), checks["store"]
    assert keys_in(bucket) == set()
    assert doctor(settings, AWS_SECRET_ACCESS_KEY="wrong")[1]["store"]["state"] == "fail"
