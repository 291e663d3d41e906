"""A report's charts as SVG files."""

from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eggs_core.report import Report, TextEvaluation
from worker.trackers.figures import of_layers

_OF_LAYERS = ("relative_output_error", "kept_importance")


def draw(report: Report, folder: Path) -> dict[str, Path]:
    """Writes the charts into a folder; returns them by their paths in a tracker."""
    charts = {name: _over_blocks(of_layers(report), name) for name in _OF_LAYERS}
    if report.evaluation is not None:
        charts["perplexity"] = _perplexity(report.evaluation.texts)
    files = {f"charts/{name}.svg": folder / f"{name}.svg" for name in charts}
    # Text stays text, which is smaller, and the same report gives the same bytes.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "eggs"}):
        for figure, file in zip(charts.values(), files.values(), strict=True):
            figure.savefig(file, format="svg", metadata={"Date": None})
    return files


def _over_blocks(blocks: list[dict[str, float]], name: str) -> Figure:
    """A line for each type of layer."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for key in dict.fromkeys(key for block in blocks for key in block if key.endswith(f"/{name}")):
        points = [(index, block[key]) for index, block in enumerate(blocks) if key in block]
        axes.plot(*zip(*points, strict=True), marker=".", label=key.split("/")[1])
    axes.set(xlabel="block", ylabel=name.replace("_", " "))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside right upper")
    return figure


def _perplexity(texts: list[TextEvaluation]) -> Figure:
    """The dense and the pruned model on each text, the latter with its interval."""
    figure = Figure(figsize=(8, 1.5 + 0.6 * len(texts)), layout="constrained")
    axes = figure.subplots()
    for place, text in enumerate(texts):
        perplexity = text.perplexity
        axes.barh(place - 0.2, perplexity.dense, 0.4, color="C0", label=None if place else "dense")
        axes.barh(place + 0.2, perplexity.pruned, 0.4, color="C1", label=None if place else "pruned")
        if (interval := perplexity.pruned_interval) is not None:
            axes.hlines(place + 0.2, interval.low, interval.high, color="black")
    axes.set_yticks(range(len(texts)), [text.text.source for text in texts], parse_math=False)
    axes.invert_yaxis()
    axes.set(xlabel="perplexity")
    figure.legend(loc="outside right upper")
    return figure
