"""Alembic's environment: runs revisions on the connection it is handed, or on the configured database."""

from alembic import context
from sqlalchemy import Connection

from app.db import make_engine
from app.settings import get_settings
from app.tables import Base

config = context.config


def run(connection: Connection) -> None:
    """Runs the revisions that were asked for, in one transaction."""
    # SQLite cannot alter most things in place; "batch" lets Alembic rebuild the table there.
    context.configure(
        connection=connection, target_metadata=Base.metadata, render_as_batch=True, compare_server_default=True
    )
    with context.begin_transaction():
        context.run_migrations()


if (given := config.attributes.get("connection")) is not None:
    run(given)
else:
    settings = get_settings()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with make_engine(settings.database_url).begin() as opened:
        run(opened)
