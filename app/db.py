"""The database: engine, sessions, and what all tables share. SQLite and PostgreSQL behave alike from here on."""

import sqlite3
import time
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy import (
    JSON,
    DateTime,
    Dialect,
    Engine,
    Float,
    MetaData,
    String,
    TypeDecorator,
    create_engine,
    event,
    func,
    select,
)
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

# What says that the database cannot be asked now, and nothing of what was asked. An InternalError is PostgreSQL's
# word for one that takes no writes: a standby, or a service whose disk is full.
DATABASE_DOWN = (OperationalError, InterfaceError, InternalError, PoolTimeout)

CONNECTIONS = 20
"""Connections that a process may have at a time."""
# So long after its last use a connection is taken to be still there.
_TRUSTED_SECONDS = 1.0
_USED = "used at"

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


def utcnow() -> datetime:
    """Now, in UTC and aware of it."""
    return datetime.now(UTC)


class UTCDateTime(TypeDecorator[datetime]):
    """An aware timestamp in UTC, also where the database keeps no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("A naive datetime does not say which moment it means; pass one with a time zone.")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def now(session: Session) -> datetime:
    """Now by the database's clock, which is one for all hosts, whatever their own say; SQLite's is its host's."""
    if session.get_bind().dialect.name == "sqlite":
        return utcnow()
    return session.scalars(select(func.clock_timestamp(type_=UTCDateTime))).one()


class SecondsBetween(FunctionElement[float]):
    """The seconds from one timestamp to another, as the database counts them."""

    type = Float()
    inherit_cache = True


@compiles(SecondsBetween, "postgresql")
def _in_postgresql(element: SecondsBetween, compiler: SQLCompiler, **how: Any) -> str:
    begin, end = (compiler.process(moment, **how) for moment in element.clauses)
    return f"date_part('epoch', {end} - {begin})"


@compiles(SecondsBetween, "sqlite")
def _in_sqlite(element: SecondsBetween, compiler: SQLCompiler, **how: Any) -> str:
    begin, end = (compiler.process(moment, **how) for moment in element.clauses)
    return f"((julianday({end}) - julianday({begin})) * 86400.0)"


class TextUnder(FunctionElement[str]):
    """The text under a key of a JSON object, whatever the key holds: SQLite takes keys for paths elsewhere."""

    type = String()
    inherit_cache = True


@compiles(TextUnder, "postgresql")
def _text_in_postgresql(element: TextUnder, compiler: SQLCompiler, **how: Any) -> str:
    document, key = (compiler.process(part, **how) for part in element.clauses)
    return f"({document} ->> {key}::text)"


@compiles(TextUnder, "sqlite")
def _text_in_sqlite(element: TextUnder, compiler: SQLCompiler, **how: Any) -> str:
    document, key = (compiler.process(part, **how) for part in element.clauses)
    return f"(SELECT value FROM json_each({document}) WHERE key = {key})"  # noqa: S608 (both are compiled)


class Base(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = {  # noqa: RUF012
        datetime: UTCDateTime,
        dict[str, Any]: JSON(none_as_null=True),
        dict[str, str]: JSON(none_as_null=True),
    }


def make_engine(database_url: str) -> Engine:
    """An engine for SQLite or PostgreSQL. Connects to nothing yet."""
    url = make_url(database_url)
    if url.get_backend_name() != "sqlite":
        url = url.set(query={"connect_timeout": "5"} | dict(url.query))  # what the URL says goes before
        engine = create_engine(url, pool_size=CONNECTIONS, max_overflow=0)
        event.listen(engine, "connect", _prepare_postgresql)
        event.listen(engine, "checkin", _note_use)
        event.listen(engine, "checkout", partial(_ping, engine.dialect))
        return engine
    engine = create_engine(url, connect_args={"timeout": 30}, pool_size=CONNECTIONS, max_overflow=0)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def make_sessions(engine: Engine, *, read_only: bool = False) -> sessionmaker[Session]:
    """A factory of sessions; `with sessions.begin() as session` is one transaction.

    Read-only ones wait for no writer and hold none up, also on SQLite. On PostgreSQL each of their statements
    stands alone: it sees what was committed before it, as within a transaction there, and needs one round trip
    where a transaction needs three.
    """
    if read_only and engine.dialect.name == "sqlite":
        engine = engine.execution_options(read_only=True)
    elif read_only:
        engine = engine.execution_options(isolation_level="AUTOCOMMIT")
    return sessionmaker(engine, expire_on_commit=False)


def _note_use(_: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
    record.info[_USED] = time.monotonic()


def _ping(
    dialect: Dialect, connection: DBAPIConnection, record: ConnectionPoolEntry, _: PoolProxiedConnection
) -> None:
    # As SQLAlchemy's pool_pre_ping, which asks before each use: a round trip of every request's four.
    if time.monotonic() - record.info.get(_USED, time.monotonic()) > _TRUSTED_SECONDS:
        try:
            dialect.do_ping(connection)
        except dialect.loaded_dbapi.Error as error:
            raise DisconnectionError from error  # and the pool takes another


def _prepare_postgresql(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    # Whatever the server's own is: in one east of UTC the last hours of the year 9999 are no datetimes.
    cursor = connection.cursor()
    cursor.execute("SET TIME ZONE 'UTC'")
    cursor.close()
    connection.commit()


def _prepare_sqlite(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
    # The driver opens transactions late, at the first write. Ours are opened by _begin_sqlite instead.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    # Its own knows the letters of ASCII alone.
    connection.create_function("lower", 1, lambda text: text and str(text).lower(), deterministic=True)


def _begin_sqlite(connection: Connection) -> None:
    # Takes the write lock at once: a transaction that reads and then writes would otherwise fail with
    # "database is locked", without waiting, when another one wrote in between.
    read_only = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
