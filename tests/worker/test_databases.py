"""Databases that go away in the middle of work, and come back: the API says so, and no work is lost."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread, Timer
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.db import make_engine, make_sessions
from app.jobs import leases
from app.main import create_app
from app.migrate import upgrade
from app.settings import Settings
from tests.app.build import events_of, make_job, make_key, read_job
from tests.conftest import free_port, wait_for
from tests.tiny_models import MakeModel
from tests.worker.conftest import fill
from worker.runner import run_job

SHORT = {"samples": 2, "sequence_length": 32}


class Postgres:
    """A server of the test's own, which can be stopped and started again. Fails where it is not installed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        binaries = subprocess.run(["pg_config", "--bindir"], check=True, capture_output=True, text=True)
        self._binaries = Path(binaries.stdout.strip())
        self._port = free_port()
        self.url = f"postgresql+psycopg://eggs@127.0.0.1:{self._port}/postgres"
        folder.mkdir()
        if os.geteuid() == 0:  # whom the server refuses to run for
            shutil.chown(folder, "postgres")
        self._run("initdb", "--username=eggs", "--auth=trust", "--no-sync")

    def start(self) -> None:
        options = f"-p {self._port} -k '' -c listen_addresses=127.0.0.1"
        self._run("pg_ctl", "start", "--wait", f"--log={self._folder / 'log'}", f"--options={options}")

    def stop(self) -> None:
        """As a crash would."""
        self._run("pg_ctl", "stop", "--mode=immediate")

    @contextmanager
    def refusing_writes(self) -> Iterator[None]:
        """As a standby does that took over a name too early, and a service whose disk is full."""
        engine = create_engine(self.url, isolation_level="AUTOCOMMIT")

        def set_read_only(value: str) -> None:
            with engine.connect() as connection:
                connection.execute(text(f"ALTER SYSTEM SET default_transaction_read_only = {value}"))
                connection.execute(text("SELECT pg_reload_conf()"))

        set_read_only("on")
        try:
            yield
        finally:
            set_read_only("off")
            engine.dispose()

    def _run(self, program: str, *arguments: str) -> None:
        user = ["runuser", "--user", "postgres", "--"] if os.geteuid() == 0 else []
        command = [*user, str(self._binaries / program), *arguments]
        environment = os.environ | {"PGDATA": str(self._folder / "data")}
        subprocess.run(command, check=True, env=environment, cwd="/", stdout=subprocess.DEVNULL)


def let_in(folder: Path) -> None:
    """Lets the server's user come to a folder: pytest's are for their owner alone."""
    for parent in folder.parents:
        if parent.is_relative_to("/tmp") and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o011)
    folder.chmod(0o755)


@pytest.fixture
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    folder = tmp_path_factory.mktemp("postgres")
    let_in(folder)
    server = Postgres(folder / "server")
    server.start()
    yield server
    server.stop()


def prepared(postgres: Postgres, data: Path, model: Path) -> tuple[Settings, Engine]:
    """Settings of a service on that server, which has its tables now."""
    engine = make_engine(postgres.url)
    upgrade(engine)
    settings = Settings(
        data_dir=data, database_url=postgres.url, model_roots=[model.parent], allow_hub=False, lease_seconds=60
    )
    return settings, engine


def test_postgresql_is_restarted_in_the_middle_of_a_job(
    postgres: Postgres, tmp_path: Path, make_model: MakeModel
) -> None:
    model = make_model("llama", num_hidden_layers=40)
    settings, engine = prepared(postgres, tmp_path, model)
    sessions = make_sessions(engine)
    _, token = make_key(sessions)
    job_id = make_job(sessions, model=str(model), calibration=SHORT, evaluation=None)
    with TestClient(create_app(settings), headers={"Authorization": f"Bearer {token}"}) as client:
        worker = Thread(target=run_job, args=(job_id, settings, sessions, Event()))
        worker.start()
        wait_for(lambda: read_job(sessions, job_id).stage == "prune")
        before = client.get(f"/v1/jobs/{job_id}").json()
        postgres.stop()
        try:
            for answer in (client.get(f"/v1/jobs/{job_id}"), client.post("/v1/jobs", json={"model": str(model)})):
                assert (answer.status_code, answer.json()["type"]) == (
                    503,
                    "urn:eggs:problem:database-unavailable",
                )
                assert int(answer.headers["Retry-After"]) > 0
            assert client.get("/readyz").json()["database"] == "unreachable"
            assert client.get("/healthz").status_code == 200
        finally:
            postgres.start()
        after = client.get(f"/v1/jobs/{job_id}")
        assert after.status_code == 200
        assert after.json()["progress"] >= before["progress"]
        worker.join()
    job = read_job(sessions, job_id)
    assert (job.state, job.attempt, job.error) == ("succeeded", 1, None)
    engine.dispose()


def test_postgresql_takes_no_writes_for_a_while(
    postgres: Postgres, tmp_path: Path, make_model: MakeModel, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be stored is answered as where the server is away; the job goes on, and its end waits."""
    model = make_model("llama", num_hidden_layers=40)
    settings, engine = prepared(postgres, tmp_path, model)
    sessions = make_sessions(engine)
    _, token = make_key(sessions)
    job_id = make_job(sessions, model=str(model), calibration=SHORT, evaluation=None)
    with TestClient(create_app(settings), headers={"Authorization": f"Bearer {token}"}) as client:
        worker = Thread(target=run_job, args=(job_id, settings, sessions, Event()))
        worker.start()
        wait_for(lambda: read_job(sessions, job_id).stage == "prune")
        with postgres.refusing_writes():
            answer = client.post("/v1/jobs", json={"model": str(model)})
            assert (answer.status_code, answer.json()["type"]) == (503, "urn:eggs:problem:database-unavailable")
            assert client.get(f"/v1/jobs/{job_id}").json()["state"] == "running"
            wait_for(lambda: "The end of an attempt is not recorded yet" in caplog.text)
        worker.join()
    job = read_job(sessions, job_id)
    assert (job.state, job.attempt, job.error) == ("succeeded", 1, None)
    engine.dispose()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_postgresql_goes_away_at_the_moment_of_publication(
    moment: str, postgres: Postgres, tmp_path: Path, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the transaction was committed or not: the job succeeds, once, and its files are there."""
    model = make_model("llama")
    settings, engine = prepared(postgres, tmp_path, model)
    sessions = make_sessions(engine)
    job_id = make_job(sessions, model=str(model), calibration=SHORT, evaluation=None)
    succeed = leases.succeed
    outages: list[Timer] = []

    def cut(*_: object) -> None:
        if not outages:
            postgres.stop()
            outages.append(Timer(2, postgres.start))
            outages[0].start()
            if moment == "after":
                raise OperationalError("COMMIT", None, Exception("the connection was lost"))

    def succeed_in_an_outage(session: Session, *arguments: Any, **options: Any) -> None:
        if moment == "before":
            cut()
        else:
            event.listen(session, "after_commit", cut)
        succeed(session, *arguments, **options)

    monkeypatch.setattr(leases, "succeed", succeed_in_an_outage)
    run_job(job_id, settings, sessions, Event())
    outages[0].join()
    job = read_job(sessions, job_id)
    assert (job.state, job.attempt) == ("succeeded", 1)
    assert [e.type for e in events_of(sessions, job_id)].count("job.succeeded") == 1
    assert (settings.artifacts_dir / str(job.artifacts_dir) / "report.json").is_file()
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def url_on_small_disk(request: pytest.FixtureRequest, small_disk: Path) -> str:
    """An empty database, once of each kind, whose tables lie on the small disk."""
    if request.param == "sqlite":
        return f"sqlite:///{small_disk / 'eggs.sqlite3'}"
    server: Postgres = request.getfixturevalue("postgres")
    let_in(small_disk)
    shutil.chown(small_disk, "postgres")
    engine = create_engine(server.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE TABLESPACE small LOCATION '{small_disk}'"))
        connection.execute(text("CREATE DATABASE small TABLESPACE small"))
    engine.dispose()
    return make_url(server.url).set(database="small").render_as_string()


def test_a_full_disk(url_on_small_disk: str, small_disk: Path, tmp_path: Path, make_model: MakeModel) -> None:
    """What cannot be stored is answered as such; reading goes on, and storing once there is room."""
    model = make_model("llama")
    settings = Settings(
        data_dir=tmp_path, database_url=url_on_small_disk, model_roots=[model.parent], allow_hub=False
    )
    engine = make_engine(url_on_small_disk)
    upgrade(engine)
    sessions = make_sessions(engine)
    writer, reader = ({"Authorization": f"Bearer {make_key(sessions)[1]}"} for _ in range(2))
    body: dict[str, Any] = {"model": str(model), "metadata": {"filler": "x" * 500}}
    with TestClient(create_app(settings)) as client:
        fill(small_disk / "ballast")
        answers = [client.post("/v1/jobs", json=body, headers=writer) for _ in range(30)]
        stored = [answer.json()["id"] for answer in answers if answer.status_code == 201]
        full = [answer for answer in answers if answer.status_code != 201]
        assert full
        assert {(a.status_code, a.json()["type"], a.headers["Content-Type"]) for a in full} == {
            (503, "urn:eggs:problem:database-unavailable", "application/problem+json")
        }
        page = client.get("/v1/jobs?limit=100", headers=reader)  # a key of which no use was noted yet
        assert page.status_code == 200, page.text
        assert [job["id"] for job in page.json()["data"]] == stored[::-1], (
            "what was answered with success, no more"
        )
        (small_disk / "ballast").unlink()
        again = client.post("/v1/jobs", json=body, headers=writer)
        assert again.status_code == 201, again.text
        page = client.get("/v1/jobs?limit=100", headers=reader)
        assert [job["id"] for job in page.json()["data"]] == [again.json()["id"], *stored[::-1]]
    engine.dispose()
