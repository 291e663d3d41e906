"""Whether what the service needs is there."""

from typing import Literal

from celery import Celery
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session, sessionmaker

from app.db import DATABASE_DOWN
from app.examples import example
from app.migrate import is_current
from app.queue import waiting_messages


class Readiness(BaseModel):
    """Whether requests can be served, and what stands in the way."""

    model_config = example({"status": "ready", "database": "ok", "migrations": "current", "broker": "ok"})

    status: Literal["ready", "not_ready"]
    database: Literal["ok", "unreachable"]
    migrations: Literal["current", "behind", "unknown"] = Field(
        description="`behind`: run `eggs migrate`, or start the service anew, which does it."
    )
    broker: Literal["ok", "unreachable"] = Field(
        description="Jobs are accepted while it is unreachable, and start once it is back."
    )


def look(readers: sessionmaker[Session], celery: Celery) -> Readiness:
    """Asks the database and the broker."""
    return judge(readers, broker=waiting_messages(celery) is not None)


def judge(readers: sessionmaker[Session], *, broker: bool) -> Readiness:
    """Ready where the database answers and its schema is current. `broker`: whether that answers."""
    database: Literal["ok", "unreachable"] = "ok"
    migrations: Literal["current", "behind", "unknown"] = "unknown"
    try:
        with readers.begin() as session:
            migrations = "current" if is_current(session.connection()) else "behind"
    except DATABASE_DOWN:
        database = "unreachable"
    return Readiness(
        status="ready" if migrations == "current" else "not_ready",
        database=database,
        migrations=migrations,
        broker="ok" if broker else "unreachable",
    )
