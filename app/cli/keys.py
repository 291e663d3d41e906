"""Commands on API keys. They work on the database itself, so whoever can read it needs no key to make one.

With `--url` they ask a service instead, as whoever has a key with the scope `admin` may.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from app.cli import options
from app.cli.connection import connect
from app.cli.exit_codes import ExitCode
from app.cli.render import age, console, errors, listing, plain, show_error, time_left, write_json
from app.keys.limits import MOST, KeyLimits
from app.keys.scopes import DEFAULT_SCOPES, Scope
from app.settings import get_settings

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from app.keys.models import ApiKey
    from eggs_client import requests
    from eggs_client.models import CreatedKey, KeyResource

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)

# Not EGGS_URL, which most users have set: it must be meant.
Url = Annotated[
    str | None,
    typer.Option("--url", show_default=False, help="Ask this service, and not the database of this installation."),
]
Key = Annotated[
    str,
    typer.Option(
        "--key", envvar="EGGS_API_KEY", show_default=False, help="For --url: a key with the scope admin."
    ),
]


@app.command()
def create(
    name: Annotated[str, typer.Option(help="What the key is for.")] = "",
    project: Annotated[
        str | None,
        typer.Option(help="Whose jobs it sees: default unless given, and with --url that of the key that asks."),
    ] = None,
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help="What it may be used for, several times if need be; by default jobs alone."),
    ] = None,
    expires_in_days: Annotated[
        float | None,
        typer.Option(min=0.001, max=36_500, help="After so long it opens nothing."),
    ] = None,
    max_queued_jobs: Annotated[
        int | None,
        typer.Option(min=0, max=MOST, help="Jobs that may wait, beside those that may run."),
    ] = None,
    max_running_jobs: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Jobs that may run at a time; the others wait.")
    ] = None,
    max_upload_bytes: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Bytes of an uploaded file.")
    ] = None,
    max_stored_bytes: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Bytes that the files it uploads may take together.")
    ] = None,
    url: Url = None,
    key: Key = "",
    as_json: options.Json = False,
) -> None:
    """Make a key; it is printed this once. Limits of its own only tighten what the installation allows."""
    expires_at = datetime.now(UTC) + timedelta(days=expires_in_days) if expires_in_days is not None else None
    scopes = scope or list(DEFAULT_SCOPES)
    limits = KeyLimits(
        queued_jobs=max_queued_jobs,
        running_jobs=max_running_jobs,
        upload_bytes=max_upload_bytes,
        stored_bytes=max_stored_bytes,
    )
    if url is not None:
        if project is not None:
            raise typer.BadParameter("A service makes keys of the project of the key that asks; leave it out.")
        with connect(url, key) as client:
            created = client.keys.create(
                name=name,
                scopes=[one.value for one in scopes],
                expires_at=None if expires_at is None else expires_at.isoformat(),
                limits=cast("requests.KeyLimits", limits.model_dump(exclude_none=True)),
            )
        shown, token = _of_service(created), created.token
    else:
        from app.keys import service

        with _database() as session:
            made, token = service.create(
                session,
                name=name,
                project=project or service.DEFAULT_PROJECT,
                scopes=scopes,
                expires_at=expires_at,
                limits=limits,
            )
            shown = _of_database(made)
    if as_json:
        write_json(shown | {"token": token})
    else:
        console.print(token, highlight=False, soft_wrap=True)


@app.command("list")
def list_keys(url: Url = None, key: Key = "", as_json: options.Json = False) -> None:
    """List the keys."""
    if url is not None:
        with connect(url, key) as client:
            found = [_of_service(one) for one in client.keys.list()]
    else:
        from app.keys import service

        with _database() as session:
            found = [_of_database(one) for one in service.all_keys(session)]
    if as_json:
        write_json(found)
        return
    headings = ("Key", "Age", "Used", "Ends", "Name", "Project", "Scopes", "Limits")
    table = listing(*headings, whole=("Key", "Age", "Used", "Ends"))
    for one in found:
        limits = [f"{name} {limit}" for name, limit in one["limits"].items() if limit is not None]
        times = [age(_moment(one["created_at"])), age(_moment(one["last_used_at"])), _end(one)]
        about = [one.get("project", ""), " ".join(one["scopes"]), ", ".join(limits)]
        table.add_row(one["id"], *times, plain(one["name"]), *about)
    console.print(table)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="The key's id, from `eggs keys list`.")],
    url: Url = None,
    key: Key = "",
    as_json: options.Json = False,
) -> None:
    """End a key at once."""
    if url is not None:
        with connect(url, key) as client:
            revoked = _of_service(client.keys.revoke(key_id))
    else:
        from app.keys import service

        try:
            with _database() as session:
                revoked = _of_database(service.revoke(session, key_id))
        except service.NoSuchKey:
            show_error("No such key", f"{key_id} is not the id of a key. `eggs keys list` shows them.")
            raise typer.Exit(ExitCode.REFUSED) from None
    if as_json:
        write_json(revoked)
    else:
        console.print(f"{key_id} is revoked.", highlight=False)


def _of_service(key: "KeyResource | CreatedKey") -> dict[str, Any]:
    return key.model_dump(mode="json", exclude={"token"})


def _end(key: dict[str, Any]) -> str:
    expires = _moment(key["expires_at"])
    if key["revoked_at"]:
        return "revoked"
    return "expired" if expires is not None and expires <= datetime.now(UTC) else time_left(expires)


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _of_database(key: "ApiKey") -> dict[str, Any]:
    from app.keys.schemas import KeyResource

    return KeyResource.of(key).model_dump(mode="json") | {"project": key.project}


@contextmanager
def _database() -> Iterator["Session"]:
    from app.db import make_engine, make_sessions
    from app.migrate import upgrade

    settings = get_settings()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    engine = make_engine(settings.database_url)
    try:
        before, _ = upgrade(engine)
        if before is None:
            errors.print(
                f"The database {plain(engine.url.render_as_string())} is new. A service that has another one "
                "knows none of its keys: EGGS_DATA_DIR and EGGS_DATABASE_URL say which.",
                highlight=False,
            )
        with make_sessions(engine).begin() as session:
            yield session
    finally:
        engine.dispose()
