"""`eggs compare`: several jobs side by side."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from app.cli import options
from app.cli.connection import connect
from app.cli.options import DEFAULT_URL
from app.cli.render import console, plain, size, spec_of, state, write_json
from app.flat import flat

if TYPE_CHECKING:
    from eggs_client.models import Report, TextEvaluation

Values = dict[str, list[Any]]
"""For each line of the table what each job has there; None where a job has nothing."""


_OF_A_TEXT: "dict[str, Callable[[TextEvaluation], float]]" = {
    "Perplexity, dense": lambda text: text.perplexity.dense,
    "Perplexity, pruned": lambda text: text.perplexity.pruned,
    "Pruned / dense": lambda text: text.perplexity.ratio,
    "KL divergence": lambda text: text.kl_divergence,
}


def compare(
    jobs: Annotated[list[str], typer.Argument(metavar="JOB JOB…", help="The jobs' ids, two or more.")],
    key: options.Key,
    url: options.Url = DEFAULT_URL,
    as_json: options.Json = False,
) -> None:
    """Show in what jobs differ, and what came of each. Has perplexities, sizes and times."""
    if len(jobs) < 2:
        raise typer.BadParameter("A comparison needs two jobs or more.")
    with connect(url, key) as client:
        found = [client.jobs.get(job_id) for job_id in jobs]
        reports = [job.report() if job.state == "succeeded" else None for job in found]
    differences = _differences([dict(flat(spec_of(job))) for job in found])
    figures = _figures(reports)
    if as_json:
        entries = [{"id": job.id, "name": job.name, "state": job.state} for job in found]
        write_json({"jobs": entries, "differences": differences, "figures": figures})
        return
    table = Table()
    table.add_column("", style="bold", overflow="fold")
    for job in found:
        table.add_column(plain(job.name or job.id), overflow="fold")
    table.add_row("Job", *(job.id for job in found))
    table.add_row("State", *(state(job.state) for job in found), end_section=True)
    for name, values in differences.items():
        table.add_row(name, *map(_asked, values))
    if not differences:
        table.add_row("Differences", *["none"] * len(found))
    table.add_section()
    for name, values in figures.items():
        table.add_row(plain(name), *(_figure(name, value) for value in values))
    console.print(table)


def _differences(specs: list[dict[str, Any]]) -> Values:
    names = dict.fromkeys(name for spec in specs for name in spec)
    rows = {name: [spec.get(name) for spec in specs] for name in names}
    return {name: values for name, values in rows.items() if any(value != values[0] for value in values)}


def _figures(reports: "list[Report | None]") -> Values:
    def row(figure: "Callable[[Report], Any]") -> list[Any]:
        return [None if report is None else figure(report) for report in reports]

    rows: Values = {}
    for source in dict.fromkeys(text.text.source for report in reports for text in _texts(report)):
        texts = [next((text for text in _texts(report) if text.text.source == source), None) for report in reports]
        for name, figure in _OF_A_TEXT.items():
            rows[f"{name}, {source}"] = [None if text is None else figure(text) for text in texts]
    rows["Sparsity of pruned layers"] = row(lambda report: report.sparsity.pruned_layers)
    rows["Bytes, dense"] = row(lambda report: report.bytes.dense_checkpoint)
    rows["Bytes, pruned"] = row(lambda report: report.bytes.pruned_checkpoint)
    rows["Bytes, packed"] = row(lambda report: report.bytes.packed_checkpoint)
    rows["Seconds"] = row(lambda report: report.seconds.get("total"))
    return {name: values for name, values in rows.items() if any(value is not None for value in values)}


def _texts(report: "Report | None") -> "list[TextEvaluation]":
    return [] if report is None or report.evaluation is None else report.evaluation.texts


def _asked(value: Any) -> str:
    if value is None:
        return "–"
    return plain(", ".join(map(str, value)) if isinstance(value, list) else str(value))


def _figure(name: str, value: Any) -> str:
    if value is None:
        return "–"
    return size(value) if name.startswith("Bytes") else f"{value:.4g}"
