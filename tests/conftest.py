"""Fixtures that several test packages share: databases of both kinds, settings, and waiting for a condition."""

import gc
import os
import random
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import hypothesis
import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session, sessionmaker

from app.db import Base, make_engine, make_sessions
from app.migrate import upgrade
from app.settings import Settings

POSTGRES_URL = os.environ.get("EGGS_TEST_POSTGRES_URL", "postgresql+psycopg://postgres@127.0.0.1:5432/postgres")

T = TypeVar("T")

# How long an example takes tells of the machine, and of what else it does.
hypothesis.settings.register_profile("eggs", deadline=None)
hypothesis.settings.load_profile("eggs")


def wait_for(condition: Callable[[], T], seconds: float = 120, pause: float = 0.02) -> T:
    """The first true value of `condition`; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"nothing within {seconds} seconds"
        time.sleep(pause)
    return value


def free_port() -> int:
    """A port on loopback that nothing uses, as of now.

    It is none of those that the system gives to outgoing connections: whatever connects in the time until
    somebody listens could be given it.
    """
    lowest_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.SystemRandom().randrange(10_000, lowest_given)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def files_of(folder: Path) -> set[str]:
    """The files in a folder and in those below it, by their paths from there."""
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def pytest_collection_finish() -> None:
    """Keeps the garbage collector from what all tests share: it would look through it thousands of times."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A migrated database of this test session's own on the PostgreSQL server. Fails when there is none."""
    # A machine that runs all tests at once may take longer to connect than an API would wait.
    patient = make_url(POSTGRES_URL).update_query_dict({"connect_timeout": "60"})
    server = create_engine(patient, isolation_level="AUTOCOMMIT")
    name = f"eggs_test_{uuid.uuid4().hex[:12]}"
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    url = patient.set(database=name).render_as_string(hide_password=False)
    engine = make_engine(url)
    try:
        upgrade(engine)
        yield url
    finally:
        engine.dispose()
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        server.dispose()


@pytest.fixture(scope="session")
def sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database, to be copied: to migrate each test's own would take as long as many a test."""
    file = tmp_path_factory.mktemp("sqlite") / "migrated.sqlite3"
    engine = make_engine(f"sqlite:///{file}")
    upgrade(engine)
    engine.dispose()
    return file


@pytest.fixture
def sqlite_url(sqlite_file: Path, tmp_path: Path) -> str:
    """An empty, migrated database of the test's own."""
    return f"sqlite:///{shutil.copyfile(sqlite_file, tmp_path / 'test.sqlite3')}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty, migrated database, once of each kind."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite_url"))
    url = request.getfixturevalue("postgres_url")
    engine = make_engine(url)
    empty(engine)
    engine.dispose()
    return str(url)


def empty(engine: Engine) -> None:
    """Empties all tables of a PostgreSQL database.

    Row by row: TRUNCATE makes all their files anew, and takes fifty times as long for the few rows of a test.
    """
    with engine.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(table.delete())


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """Settings of an installation in a temporary folder, on each kind of database."""
    for folder in ("models", "texts"):
        (tmp_path / folder).mkdir()
    return Settings(data_dir=tmp_path, database_url=database_url, allow_hub=False)


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = make_engine(settings.database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker[Session]:
    return make_sessions(engine)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system is for root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
