"""The schema: up, down and up again, nothing for autogenerate to find, and many starting at once."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, MetaData, Table, inspect, select, text
from sqlalchemy.orm import Session

from app.db import Base, make_engine
from app.files.models import UploadedFile
from app.keys.limits import NONE, KeyLimits
from app.keys.models import ApiKey
from app.migrate import alembic_config, is_current, upgrade
from app.sweeps.models import Sweep
from app.webhooks.models import WebhookDelivery


@pytest.fixture
def own_database(engine: Engine) -> Iterator[Engine]:
    """A database whose tables no other test needs: PostgreSQL's is emptied, and is built up again afterwards."""
    with engine.begin() as connection:
        command.downgrade(alembic_config(connection), "base")
    yield engine
    upgrade(engine)


def tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names())


def test_up_down_and_up_again(own_database: Engine) -> None:
    assert tables(own_database) == {"alembic_version"}
    with own_database.begin() as connection:
        assert not is_current(connection)
        command.upgrade(alembic_config(connection), "head")
        assert is_current(connection)
    assert tables(own_database) == {"alembic_version", *Base.metadata.tables}
    with own_database.begin() as connection:
        command.downgrade(alembic_config(connection), "base")
    assert tables(own_database) == {"alembic_version"}


def test_autogenerate_finds_no_difference(engine: Engine) -> None:
    with engine.begin() as connection:
        command.check(alembic_config(connection))  # raises where it finds one


def test_autogenerate_would_find_a_difference(own_database: Engine) -> None:
    with own_database.begin() as connection:
        command.upgrade(alembic_config(connection), "head")
        connection.execute(text("ALTER TABLE jobs ADD COLUMN forgotten INTEGER"))
        with pytest.raises(Exception, match="New upgrade operations detected"):
            command.check(alembic_config(connection))
        connection.rollback()
    upgrade(own_database)


def test_a_schema_that_a_newer_version_has_made_is_left_alone(own_database: Engine) -> None:
    """While that version takes over, the one before it goes on, and can be started again."""
    upgrade(own_database)
    with own_database.begin() as connection:
        now = connection.scalar(text("SELECT version_num FROM alembic_version"))
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        connection.execute(text("ALTER TABLE jobs ADD COLUMN newer INTEGER"))
    upgrade(own_database)
    with own_database.begin() as connection:
        assert is_current(connection)
        connection.execute(text("ALTER TABLE jobs DROP COLUMN newer"))
        connection.execute(text("UPDATE alembic_version SET version_num = :now"), {"now": now})


def test_sweeps_that_have_ended_are_not_told_of(own_database: Engine) -> None:
    now = datetime(2026, 5, 4, 9, 20, tzinfo=UTC)
    with own_database.begin() as connection:
        command.upgrade(alembic_config(connection), "0016")
        key, sweep, job = (
            Table(name, MetaData(), autoload_with=connection, resolve_fks=False)
            for name in ("api_keys", "sweeps", "jobs")
        )
        of_key = {"id": "key", "name": "", "project": "a", "token_hash": "", "created_at": now}
        connection.execute(key.insert(), of_key)
        common = {"project": "a", "key_id": "key", "metadata": {}, "created_at": now}
        of_job = {"spec": {}, "progress": 0.0, "attempt": 0, "last_sequence": 0}
        for sweep_id, states in {"ended": ("failed", "succeeded"), "running": ("succeeded", "running")}.items():
            connection.execute(sweep.insert(), common | {"id": sweep_id, "model": "", "trials": []})
            for minutes, state in enumerate(states):
                ends = {
                    "state": state,
                    "finished_at": None if state == "running" else now + timedelta(minutes=minutes),
                }
                made = common | of_job | ends | {"id": f"{sweep_id} {minutes}", "sweep_id": sweep_id}
                connection.execute(job.insert(), made)
        command.upgrade(alembic_config(connection), "head")
        found = {row.id: row.completed_at for row in connection.execute(select(Sweep.id, Sweep.completed_at))}
        assert found == {"ended": now + timedelta(minutes=1), "running": None}
        assert connection.execute(select(WebhookDelivery.id)).all() == []
        command.downgrade(alembic_config(connection), "base")


def test_an_earlier_version_makes_keys_and_files_while_a_newer_one_takes_over(own_database: Engine) -> None:
    now = datetime(2026, 5, 4, 9, 20, tzinfo=UTC)
    of_key = {"name": "", "project": "a", "token_hash": "", "created_at": now}
    of_file = {"project": "a", "name": "", "suffix": "", "type": "", "bytes": 1, "stored_bytes": 1, "sha256": ""}
    of_file |= {"media_type": "", "created_at": now}
    with own_database.begin() as connection:
        command.upgrade(alembic_config(connection), "0017")
        key, file = (Table(name, MetaData(), autoload_with=connection) for name in ("api_keys", "files"))
        for made in ("before", "meanwhile"):
            connection.execute(key.insert(), of_key | {"id": made})
            connection.execute(file.insert(), of_file | {"id": made})
            command.upgrade(alembic_config(connection), "head")
    with Session(own_database) as session:
        assert [KeyLimits.of(key) for key in session.scalars(select(ApiKey))] == [NONE, NONE]
        assert session.scalars(select(UploadedFile.key_id)).all() == [None, None]
    with own_database.begin() as connection:
        command.downgrade(alembic_config(connection), "base")


def test_revisions_are_numbered_in_their_order(engine: Engine) -> None:
    with engine.begin() as connection:
        script = ScriptDirectory.from_config(alembic_config(connection))
        found = [revision.revision for revision in script.walk_revisions()]
    assert found == sorted(found, reverse=True)
    assert all(len(revision) == 4 and revision.isdecimal() for revision in found)


def _upgrade(url: str) -> None:
    engine = make_engine(url)
    upgrade(engine)
    engine.dispose()


def test_processes_that_start_together_do_not_collide(own_database: Engine) -> None:
    url = own_database.url.render_as_string(hide_password=False)
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        list(pool.map(_upgrade, [url] * 4))
    with own_database.begin() as connection:
        assert is_current(connection)
