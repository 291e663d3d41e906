"""Commands on sweeps, by a service."""

import json
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.table import Table

from app.cli import options
from app.cli.connection import connect
from app.cli.exit_codes import ExitCode
from app.cli.options import DEFAULT_URL
from app.cli.render import age, console, listing, moment, plain, progress_bar, size, state, write_json

if TYPE_CHECKING:
    from eggs_client.models import SweepResource
    from eggs_client.requests import SweepCreate

app = typer.Typer(help="Try several settings over one model.", no_args_is_help=True)

SweepId = Annotated[str, typer.Argument(metavar="SWEEP", help="The sweep's id.")]


@app.command()
def submit(
    model: options.Model,
    key: options.Key,
    vary: Annotated[
        list[str],
        typer.Option(
            metavar="FIELD=VALUE,VALUE…",
            help="A field of the request and its values, such as method=ria,eggs:fast or pattern=2:4,4:8; given "
            "again, every combination is tried.",
        ),
    ],
    url: options.Url = DEFAULT_URL,
    fixed: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="A field that is the same in all trials, such as calibration.samples=64; may be given again.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What you call the sweep.")] = None,
    keep_models: Annotated[
        bool, typer.Option("--keep-models", help="Give every trial a job and a model of its own.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the sweep to its end and compare its trials.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Submit a sweep; prints its id."""
    request: dict[str, Any] = {"model": model, "share_calibration": not keep_models}
    if name:
        request["name"] = name
    for text in fixed or []:
        field, value = _split(text)
        _put(request, field, _value(value))
    choices = [[(field, value) for value in values.split(",")] for field, values in map(_split, vary)]
    request["trials"] = [_trial(chosen) for chosen in product(*choices)]
    with connect(url, key) as client:
        sweep = client.sweeps.submit(**cast("SweepCreate", request))
        if not as_json:
            console.print(sweep.id, highlight=False)
        if wait:
            sweep = client.sweeps.wait(sweep.id, progress=False if as_json else progress_bar("Sweep"))
    if as_json:
        write_json(sweep)
    elif wait:
        console.print(_trials(sweep))
    if wait:
        _end_by_state(sweep)


@app.command("list")
def list_sweeps(
    key: options.Key,
    url: options.Url = DEFAULT_URL,
    limit: Annotated[int, typer.Option(min=1, help="Sweeps to list.")] = 20,
    as_json: options.Json = False,
) -> None:
    """List the newest sweeps."""
    with connect(url, key) as client:
        found = list(client.sweeps.list(limit=limit))
    if as_json:
        write_json(found)
        return
    table = listing("Sweep", "State", "Age", "Jobs", "Model", "Name", whole=("Sweep", "State", "Age"))
    for sweep in found:
        jobs = ", ".join(f"{count} {of}" for of, count in sweep.jobs.items())
        table.add_row(
            sweep.id,
            state(sweep.state),
            age(sweep.created_at),
            jobs,
            plain(sweep.model),
            plain(sweep.name or ""),
        )
    console.print(table)


@app.command()
def show(sweep: SweepId, key: options.Key, url: options.Url = DEFAULT_URL, as_json: options.Json = False) -> None:
    """Compare the trials of a sweep."""
    with connect(url, key) as client:
        found = client.sweeps.get(sweep)
    if as_json:
        write_json(found)
    else:
        console.print(_trials(found))


@app.command()
def cancel(
    sweep: SweepId, key: options.Key, url: options.Url = DEFAULT_URL, as_json: options.Json = False
) -> None:
    """Cancel the jobs of a sweep that have not ended."""
    with connect(url, key) as client:
        found = client.sweeps.cancel(sweep)
    if as_json:
        write_json(found)
    else:
        console.print(f"{sweep} is {state(found.state)}.", highlight=False)


def _trial(chosen: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    trial: dict[str, Any] = {}
    for field, value in chosen:
        if field == "method":
            trial |= options.method_and_effort(value)
        else:
            _put(trial, field, _value(value))
    return trial


def _split(text: str) -> tuple[str, str]:
    field, equals, value = text.partition("=")
    if not equals or not field:
        raise typer.BadParameter(f"{text} has no value. Write FIELD=VALUE.")
    return field, value


def _value(text: str) -> Any:
    """As JSON has it, where it is JSON: `4` is a number, and `2:4` is text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _put(request: dict[str, Any], field: str, value: Any) -> None:
    *parents, last = field.split(".")
    for parent in parents:
        request = request.setdefault(parent, {})
        if not isinstance(request, dict):
            raise typer.BadParameter(f"{parent} is given a value of its own, and one for {field}. Leave one out.")
    request[last] = value


def _trials(sweep: "SweepResource") -> Table:
    sources = next(
        ([text.source for text in trial.figures.texts] for trial in sweep.trials if trial.figures is not None), []
    )
    ended = f", ended {moment(sweep.completed_at)}" if sweep.completed_at else ""
    table = Table(title=f"{sweep.id} is {state(sweep.state)}{ended}", title_justify="left")
    table.add_column("Trial", overflow="fold")
    table.add_column("Job", no_wrap=True)
    table.add_column("State")
    for source in sources:
        table.add_column(f"Perplexity, {plain(source)}", justify="right", overflow="fold")
        table.add_column("/ dense", justify="right")
    table.add_column("Packed", justify="right")
    table.add_column("Verdict")
    for place, trial in enumerate(sweep.trials):
        figures: list[str] = [""] * (2 * len(sources) + 2)
        if trial.figures is not None:
            measured = [(f"{text.pruned:.2f}", f"{text.ratio:.2f}") for text in trial.figures.texts]
            packed = trial.figures.packed_bytes
            figures = [figure for pair in measured for figure in pair]
            figures += ["" if packed is None else size(packed), str(trial.figures.verdict or "")]
        best = "  [bold green]best[/]" if place == sweep.best else ""
        table.add_row(plain(trial.label) + best, trial.job_id, state(trial.state), *figures)
    return table


def _end_by_state(sweep: "SweepResource") -> None:
    if sweep.state == "failed":
        raise typer.Exit(ExitCode.JOB_FAILED)
    if sweep.state == "cancelled":
        raise typer.Exit(ExitCode.JOB_CANCELLED)
