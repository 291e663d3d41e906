"""What the command line shows: progress, reports, tables and errors."""

import json
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table

from eggs_core.report import BlockTraining, Evaluation, Interval, LayerReport, Report, Speed, TextEvaluation
from eggs_core.spec import method_label

if TYPE_CHECKING:
    from eggs_client import Job
    from eggs_client.progress import ProgressBar

# Of the processes that torchrun starts, the first one speaks for all.
_quiet = "TORCHELASTIC_RUN_ID" in os.environ and os.environ["RANK"] != "0"
_NO_TERMINAL = 1000


def _console(*, stderr: bool = False) -> Console:
    made = Console(stderr=stderr, quiet=_quiet)
    if not made.is_terminal:
        made.width = _NO_TERMINAL  # whoever reads it has lines of its own, and could not put broken ones together
    return made


console = _console()
errors = _console(stderr=True)

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
_MARKS = {"accepted": " [green]✓[/]", "rejected": " [red]✗[/]"}
_STATE_COLOURS = {"queued": "yellow", "running": "cyan", "succeeded": "green", "failed": "red", "cancelled": "dim"}


def plain(text: str) -> str:
    """Text of whoever wrote it, as it is: nothing in it is markup, or anything else that a terminal obeys."""
    return escape(_CONTROLS.sub("", text))


def show_error(title: str, detail: str) -> None:
    """Says on standard error what went wrong and what to do."""
    errors.print(f"[bold red]{plain(title)}[/]\n{plain(detail)}", highlight=False)


def progress_bar(title: str) -> "ProgressBar":
    """A progress bar on standard output."""
    from eggs_client.progress import ProgressBar

    return ProgressBar(title, console)


def report_tables(report: Report) -> RenderableType:
    """A report as tables: what was run, what was lost, what it weighs, and how the masks expand."""
    facts = _facts("Report")
    facts.add_row("Model", plain(f"{report.model.reference} ({report.model.architecture})"))
    effort = f", effort {report.effort}" if report.effort else ""
    degree = f", every input channel keeps {report.min_degree} edges or more" if report.min_degree else ""
    facts.add_row("Pruned", f"{report.pattern} by {report.method}{effort}{degree}")
    if report.evaluation is None:
        facts.add_row("Evaluation", "not asked for")
    if report.acceptance is not None:
        unmet = [
            f"{check.criterion} on {check.source} is {check.value:.4g}, and {check.limit:.4g} was asked for"
            for check in report.acceptance.checks
            if not check.met
        ]
        facts.add_row("Verdict", plain("\n".join([report.acceptance.verdict, *unmet])))
    facts.add_row(
        "Sparsity", f"{report.sparsity.pruned_layers:.1%} of pruned layers, {report.sparsity.model:.1%} of all"
    )
    facts.add_row("Checkpoint, dense", size(report.bytes.dense_checkpoint))
    facts.add_row("Checkpoint, pruned", size(report.bytes.pruned_checkpoint))
    if report.bytes.packed_checkpoint is not None:
        facts.add_row("Checkpoint, packed", size(report.bytes.packed_checkpoint))
    if report.bytes.pruned_in_memory is not None and report.bytes.packed_in_memory is not None:
        facts.add_row("In memory, pruned", size(report.bytes.pruned_in_memory))
        facts.add_row("In memory, packed", size(report.bytes.packed_in_memory))
    facts.add_row("Peak memory", size(report.bytes.peak_resident))
    if report.bytes.peak_device is not None:
        facts.add_row("Peak memory, device", size(report.bytes.peak_device))
    facts.add_row("Device", f"{report.device}, {report.threads} threads")
    for stage, seconds in report.seconds.items():
        facts.add_row(f"Time, {stage}", f"{seconds:.1f} s")

    expansion = _facts("Expansion")
    expansion.add_row("Fewest edges of an input channel", str(report.expansion.min_input_degree))
    expansion.add_row("Edges of an input channel, mean", f"{report.expansion.mean_input_degree:.1f}")
    expansion.add_row("Input channels cut off", str(report.expansion.channels_cut_off))
    expansion.add_row("Second singular value, largest", f"{report.expansion.max_second_singular_value:.3f}")
    expansion.add_row("The same / Ramanujan bound", f"{report.expansion.max_ramanujan_ratio:.3f}")
    expansion.add_row("Neighbourhood ratio, smallest", f"{report.expansion.min_neighbourhood_ratio:.3f}")

    layers = Table(title="Layers by type", title_justify="left")
    layers.add_column("Type")
    for heading in ("Layers", "Sparsity", "Importance kept", "Output error", "Fewest edges"):
        layers.add_column(heading, justify="right")
    for kind, sparsity in report.sparsity.by_layer_type.items():
        of_kind = [layer for layer in report.layers if layer.type == kind]
        layers.add_row(
            plain(kind),
            str(len(of_kind)),
            f"{sparsity:.1%}",
            _mean(layer.kept_importance for layer in of_kind),
            _output_error(of_kind),
            str(min((layer.min_input_degree for layer in of_kind), default="")),
        )
    evaluated = [] if report.evaluation is None else _evaluation_tables(report, report.evaluation)
    trained = [block for block in report.training if block.skipped is None]
    training = [_training_table(trained)] if trained else []
    return Group(
        facts, *evaluated, layers, *training, expansion, *(f"Note: {plain(note)}" for note in report.notes)
    )


def _evaluation_tables(report: Report, evaluation: Evaluation) -> Iterator[Table]:
    yield from map(_text_table, evaluation.texts)
    if evaluation.compared:
        yield _compared_table(report, evaluation)
    if evaluation.speed:
        yield speed_table(evaluation.speed)
    if any(speed.products for speed in evaluation.speed):
        yield products_table(evaluation.speed)
    if evaluation.tasks:
        table = Table(title="Tasks", title_justify="left")
        for heading in ("Task", "Metric"):
            table.add_column(heading, overflow="fold")
        for heading in ("Examples", "Dense", "Pruned"):
            table.add_column(heading, justify="right")
        for result in evaluation.tasks:
            table.add_row(
                plain(result.name),
                plain(result.metric),
                f"{result.examples:,}",
                _score(result.dense, result.dense_stderr),
                _score(result.pruned, result.pruned_stderr),
            )
        yield table
    if evaluation.generations:
        table = Table(title="Greedy decoding", title_justify="left", show_lines=True)
        for heading in ("Held-out text", "Dense", "Pruned"):
            table.add_column(heading, overflow="fold", ratio=1)
        for said in evaluation.generations:
            table.add_row(plain(said.prompt), plain(said.dense), plain(said.pruned))
        yield table


def _text_table(measured: TextEvaluation) -> Table:
    p = measured.perplexity
    table = _facts(f"On {plain(measured.text.source)}, {p.tokens:,} tokens")
    table.add_row("Perplexity, dense", f"{p.dense:.2f}")
    table.add_row("Perplexity, pruned", f"{p.pruned:.2f}{_between(p.pruned_interval)}")
    if measured.over_seeds is not None:
        spread = measured.over_seeds
        table.add_row("Perplexity, over seeds", f"{spread.mean:.2f} ± {spread.standard_deviation:.2f}")
    table.add_row("Pruned / dense", f"{p.ratio:.2f}{_between(p.ratio_interval)}")
    divergence, agreement = measured.kl_divergence_interval, measured.top1_agreement_interval
    table.add_row("KL divergence", f"{measured.kl_divergence:.4f} nats a token{_between(divergence, '.4f')}")
    table.add_row("Same likeliest token", f"{measured.top1_agreement:.1%} of tokens{_between(agreement, '.1%')}")
    return table


def _training_table(trained: list[BlockTraining]) -> Table:
    table = _facts("Training, on calibration text held out of it")
    table.add_row("Blocks trained", str(len(trained)))
    table.add_row("Error of their outputs, before", _mean(block.error_before for block in trained))
    table.add_row("After", _mean(block.error_after for block in trained))
    return table


def _compared_table(report: Report, evaluation: Evaluation) -> Table:
    table = Table(title="Methods compared", title_justify="left")
    table.add_column("Method")
    for text in evaluation.texts:
        table.add_column(f"Perplexity, {plain(text.text.source)}", justify="right", overflow="fold")
    table.add_column("Output error", justify="right")
    own = (f"{text.perplexity.pruned:.2f}" for text in evaluation.texts)
    table.add_row(
        f"{method_label(report.method, report.effort)}, the job's own", *own, _output_error(report.layers)
    )
    for other in evaluation.compared:
        perplexities = (f"{perplexity:.2f}" for perplexity in other.perplexities)
        error = _score(other.mean_relative_output_error, None)
        table.add_row(method_label(other.method, other.effort), *perplexities, error)
    return table


def speed_table(speeds: Iterable[Speed]) -> Table:
    """Dense against packed, a size of batch a line."""
    table = Table(title="Speed of the pruned model", title_justify="left")
    for heading in ("Batch", "Tokens/s, dense", "packed", "packed / dense", "Prefill, dense", "packed "):
        table.add_column(heading, justify="right")
    for speed in speeds:
        table.add_row(
            str(speed.batch),
            f"{speed.dense.tokens_per_second:.1f}",
            f"{speed.packed.tokens_per_second:.1f}",
            f"{speed.ratio:.2f}",
            f"{speed.dense.prefill_seconds:.2f} s",
            f"{speed.packed.prefill_seconds:.2f} s",
        )
    return table


def products_table(speeds: Iterable[Speed]) -> Table:
    """How the packed form multiplied, a shape of layers and a size of batch a line."""
    table = Table(title="Products of the packed form", title_justify="left")
    for heading in ("Batch", "Shape", "Layers"):
        table.add_column(heading, justify="right")
    for heading in ("Prefill", "Decode"):
        table.add_column(heading)
    for speed in speeds:
        for products in speed.products:
            rows, columns = products.shape
            shape = f"{rows} × {columns}"
            table.add_row(str(speed.batch), shape, str(products.layers), products.prefill, products.decode)
    return table


def _score(value: float | None, error: float | None) -> str:
    return "–" if value is None else f"{value:.4f}" + ("" if error is None else f" ± {error:.4f}")


def _between(interval: Interval | None, form: str = ".2f") -> str:
    return "" if interval is None else f"  ({interval.low:{form}} to {interval.high:{form}})"


def listing(*headings: str, whole: Collection[str]) -> Table:
    """A table to fill with an entry a line. On a narrow terminal the columns in `whole` stay, and others fold."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(heading, no_wrap=heading in whole, overflow="fold")
    return table


def jobs_table(jobs: "Iterable[Job]") -> Table:
    """Jobs, one a line."""
    table = listing("Job", "State", "Run", "Age", "Model", "Name", whole=("Job", "State", "Run", "Age"))
    for job in jobs:
        spec = spec_of(job)
        done = f" {job.progress:.0%}" if job.state == "running" else ""
        table.add_row(
            job.id,
            state(job.state) + done + _MARKS.get(job.verdict or "", ""),
            f"{spec['pattern']} {spec['method']}",
            age(job.created_at),
            plain(spec["model"]),
            plain(job.name or ""),
        )
    return table


def job_facts(job: "Job") -> Table:
    """One job in full."""
    table = _facts(job.id)
    table.add_row("State", state(job.state))
    table.add_row("Progress", f"{job.progress:.1%}" + (f", {plain(job.stage)}" if job.stage else ""))
    if job.estimated_seconds_left is not None:
        table.add_row("Time left", f"about {job.estimated_seconds_left:.0f} s")
    spec = spec_of(job)
    table.add_row("Model", plain(spec["model"]))
    table.add_row("Run", f"{spec['pattern']} by {spec['method']}")
    if job.verdict:
        table.add_row("Verdict", plain(job.verdict))
    if job.name:
        table.add_row("Name", plain(job.name))
    if job.metadata:
        table.add_row("Tags", plain("\n".join(f"{key}={value}" for key, value in job.metadata.items())))
    if job.priority:
        table.add_row("Priority", str(job.priority))
    if job.attempt > 1:
        table.add_row("Attempt", str(job.attempt))
    for label, at in (("Created", job.created_at), ("Started", job.started_at), ("Finished", job.finished_at)):
        if at:
            table.add_row(label, moment(at))
    if job.error:
        table.add_row("Error", plain(f"{job.error.get('title', '')}\n{job.error.get('detail', '')}"))
    return table


def spec_of(job: "Job") -> dict[str, Any]:
    """The run of a job as JSON has it, also where another version of the service has stored it."""
    return job.spec if isinstance(job.spec, dict) else job.spec.model_dump(mode="json")


def moment(at: datetime | None) -> str:
    """A time to the second."""
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def age(at: datetime | None) -> str:
    """How long ago it was, for a column."""
    return "" if at is None else _rough((datetime.now(UTC) - at).total_seconds())


def time_left(at: datetime | None) -> str:
    """How long it is until then, for a column."""
    return "" if at is None else f"in {_rough((at - datetime.now(UTC)).total_seconds())}"


def _rough(seconds: float) -> str:
    """In whole ones of the largest unit."""
    unit, length = next((one for one in _UNITS if seconds >= one[1]), _UNITS[-1])
    return f"{max(seconds, 0) // length:.0f} {unit}"


def state(text: str) -> str:
    """A job's state in its colour."""
    return f"[{_STATE_COLOURS.get(text, 'default')}]{text}[/]"


def write_json(content: Any, *, indent: int | None = 2) -> None:
    """Writes JSON to standard output, for other programs; models in it as the service has them."""
    text = json.dumps(content, indent=indent, ensure_ascii=False, default=_dumped)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _dumped(model: Any) -> Any:
    return model.model_dump(mode="json")


def _facts(title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _mean(values: Iterable[float | None]) -> str:
    """Of those that are known."""
    known = [value for value in values if value is not None]
    return f"{fmean(known):.4f}" if known else "–"


def _output_error(layers: list[LayerReport]) -> str:
    return _mean(layer.relative_output_error for layer in layers)


def size(count: int) -> str:
    """A number of bytes, for people."""
    size, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.4g} {units[0]}"
