"""Brings the schema up to date, from wherever the service is started.

Alembic is imported where it is used: it takes as long as all of FastAPI, and most processes never need it.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, text

import migrations

if TYPE_CHECKING:
    from alembic.config import Config

_LOCK_KEY = 0x65676773  # "eggs"


def alembic_config(connection: Connection) -> "Config":
    """Alembic's configuration, for commands that run on this connection."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", next(iter(migrations.__path__)).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(engine: Engine) -> tuple[str | None, str | None]:
    """Upgrades to the newest revision. Of several processes that start together, one does it and the rest wait.

    Does nothing where a newer version of the service has upgraded it further; see `is_current`. Returns the
    revision before and the one after; None is an empty database.
    """
    from alembic import command

    with exclusive(engine), engine.begin() as connection:
        before = _revision(connection)
        if not is_current(connection):
            command.upgrade(alembic_config(connection), "head")
        return before, _revision(connection)


def is_current(connection: Connection) -> bool:
    """Whether the schema has all that this version needs.

    While a newer one takes over, those that still run see its schema. They can go on, as a revision only adds to
    what the version before it uses. Revisions are numbered.
    """
    from alembic.script import ScriptDirectory

    head = ScriptDirectory.from_config(alembic_config(connection)).get_current_head()
    revision = _revision(connection)
    return head is not None and revision is not None and revision >= head


def _revision(connection: Connection) -> str | None:
    from alembic.runtime.migration import MigrationContext

    return MigrationContext.configure(connection).get_current_revision()


@contextmanager
def exclusive(engine: Engine) -> Iterator[None]:
    """Has other processes that prepare this database wait."""
    if engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK_KEY})
            try:
                yield
            finally:
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK_KEY})
    else:
        path = Path(str(engine.url.database))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f"{path.name}.migrating").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
