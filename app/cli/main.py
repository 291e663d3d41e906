"""`eggs`: the command line."""

import io
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from app.cli import compare, demo, doctor, failures, jobs, keys, packed, prune, serve, sweeps, webhooks, workers
from app.cli.render import console


def _version(asked: bool) -> None:
    if asked:
        console.print(version("eggs"), highlight=False)
        raise typer.Exit


app = typer.Typer(
    help="Pruning as a service for large language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _everywhere(
    shown: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


app.command("serve")(serve.serve)
app.command("beat")(serve.beat)
app.command("migrate")(serve.migrate)
app.command("doctor")(doctor.doctor)
app.add_typer(keys.app, name="keys")
app.command("prune")(prune.prune)
app.command("models")(prune.models)
app.command("submit")(jobs.submit)
app.command("list")(jobs.list_jobs)
app.command("status")(jobs.status)
app.command("watch")(jobs.watch)
app.command("cancel")(jobs.cancel)
app.command("report")(jobs.report)
app.command("download")(jobs.download)
app.command("compare")(compare.compare)
app.add_typer(sweeps.app, name="sweeps")
app.add_typer(webhooks.app, name="webhooks")
app.command("workers")(workers.workers)
app.command("demo")(demo.demo)
app.command("unpack")(packed.unpack)
app.command("generate")(packed.generate)
app.command("serve-model")(packed.serve_model)
app.add_typer(packed.bench, name="bench")


def main() -> None:
    """Runs the command line; docs/cli.md has what it ends with."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # there is none where it was closed
            stream.reconfigure(errors="replace")  # of names and texts a terminal may not know every letter
    try:
        app()
    except Exception as error:
        sys.exit(failures.show(error))
