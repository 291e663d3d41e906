"""`eggs serve` and `eggs migrate`."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.render import console
from app.settings import Settings, get_settings


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
) -> None:
    """Serve the API, and work on its jobs."""
    # Only now: the commands that talk to a service start three times faster without it.
    from app import server

    given = {"host": host, "port": port, "data_dir": data_dir, "api_processes": processes}
    settings = Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    server.run(settings, with_worker=worker)


def migrate() -> None:
    """Bring the database's schema up to date; `eggs serve` does so by itself."""
    from app.db import make_engine
    from app.migrate import upgrade

    settings = get_settings()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    engine = make_engine(settings.database_url)
    upgrade(engine)
    engine.dispose()
    console.print("The schema is up to date.")
