"""Commands on API keys. They work on the database itself, so whoever can read it needs no key to make one."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated

import typer
from rich.table import Table
from sqlalchemy.orm import Session

from app.cli.render import console, show_error
from app.db import utcnow
from app.keys import service
from app.settings import get_settings

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Option(help="What the key is for.")] = "",
    project: Annotated[str, typer.Option(help="Whose jobs it sees.")] = service.DEFAULT_PROJECT,
    scope: Annotated[
        list[service.Scope] | None,
        typer.Option(help="What it may be used for, several times if need be; by default jobs alone."),
    ] = None,
    expires_in_days: Annotated[float | None, typer.Option(min=0, help="After so long it opens nothing.")] = None,
) -> None:
    """Make a key; it is printed this once."""
    expires_at = utcnow() + timedelta(days=expires_in_days) if expires_in_days is not None else None
    with _database() as session:
        _, token = service.create(
            session, name=name, project=project, scopes=scope or service.DEFAULT_SCOPES, expires_at=expires_at
        )
    console.print(token, highlight=False, soft_wrap=True)


@app.command("list")
def list_keys() -> None:
    """List the keys."""
    table = Table()
    for heading in ("Key", "Project", "Name", "Scopes", "Created", "Last used", "Expires", "Revoked"):
        table.add_column(heading, no_wrap=heading == "Key")
    with _database() as session:
        for key in service.all_keys(session):
            moments = (key.created_at, key.last_used_at, key.expires_at, key.revoked_at)
            times = [f"{moment:%Y-%m-%d %H:%M}" if moment else "" for moment in moments]
            table.add_row(key.id, key.project, key.name, key.scopes, *times)
    console.print(table)


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The key's id, from `eggs keys list`.")],
) -> None:
    """End a key at once."""
    try:
        with _database() as session:
            service.revoke(session, key)
    except service.NoSuchKey:
        show_error("No such key", f"{key} is not the id of a key. `eggs keys list` shows them.")
        raise typer.Exit(1) from None
    console.print(f"{key} is revoked.", highlight=False)


@contextmanager
def _database() -> Iterator[Session]:
    from app.db import make_engine, make_sessions
    from app.migrate import upgrade

    settings = get_settings()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    engine = make_engine(settings.database_url)
    try:
        upgrade(engine)
        with make_sessions(engine).begin() as session:
            yield session
    finally:
        engine.dispose()
