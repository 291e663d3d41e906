"""`eggs serve`, `eggs beat` and `eggs migrate`."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from app.cli import options
from app.cli.render import console, write_json
from app.settings import Settings, get_settings
from eggs_core.errors import WorkerNotInstalled


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default=False)] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 0 takes a free one.", show_default=False)
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder for everything kept.", show_default=False)] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes that answer requests.", show_default="1")
    ] = None,
    worker: Annotated[bool, typer.Option("--worker/--no-worker", help="Whether to run a worker too.")] = True,
    beat: Annotated[
        bool | None,
        typer.Option("--beat/--no-beat", help="Whether to do what `eggs beat` does too.", show_default="beat"),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Serve the API, and work on its jobs."""
    if worker and find_spec("torch") is None:
        raise WorkerNotInstalled
    # Only now: the commands that talk to a service start three times faster without it.
    from app import server

    given = {"host": host, "port": port, "data_dir": data_dir, "api_processes": processes, "beat": beat}
    settings = Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]

    def listening(address: str, key: str | None) -> None:
        if as_json:
            write_json({"url": address, "key": key}, indent=None)
            return
        if key is not None:
            console.print(f"API key, shown only this once: {key}", highlight=False, soft_wrap=True)
        console.print(f"The service is at {address}", highlight=False, soft_wrap=True)

    server.run(settings, with_worker=worker, listening=listening)


def beat(as_json: options.Json = False) -> None:
    """Do what recurs beside the API.

    Offers jobs again, removes what has expired, sends webhooks. `eggs serve` does so too; this goes on while the
    API is away, and beside any number of `eggs serve --no-beat`.
    """
    from app import beat

    def started() -> None:
        if as_json:
            write_json({"status": "started"}, indent=None)
        else:
            console.print("Jobs are offered again, webhooks sent, and what has expired is removed from now on.")

    beat.run(get_settings(), started=started)


def migrate(as_json: options.Json = False) -> None:
    """Bring the database's schema up to date. `eggs serve` does so by itself."""
    from app.db import make_engine
    from app.migrate import upgrade

    settings = get_settings()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    engine = make_engine(settings.database_url)
    before, after = upgrade(engine)
    engine.dispose()
    if as_json:
        write_json({"before": before, "after": after})
    else:
        console.print("The schema is up to date.")
