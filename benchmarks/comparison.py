"""Several methods on one model, the same calibration tokens and the same held-out windows, in one table."""

import argparse
import json
import shlex
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from benchmarks.results import RESULTS, keep, short
from eggs_core.checkpoint import Checkpoint
from eggs_core.evaluate import perplexity
from eggs_core.gguf import converted_folder
from eggs_core.pattern import NMPattern
from eggs_core.skeleton import Skeleton
from eggs_core.sources import resolve_model
from eggs_core.spec import CalibrationSpec, EvaluationSpec, TextSpec
from eggs_core.text import Part, fingerprint, token_windows

MODEL = "smollm2-135m-instruct"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# What perplexities and times are given as multiples of, where the run has these methods.
PERPLEXITY_OF = ("sparsegpt", "llm-compressor sparsegpt")
SECONDS_OF = ("ria", "llm-compressor wanda", "llm-compressor sparsegpt")

Row = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """What every method is given; `tokens` (windows, L) int64 are the windows that `calibration` draws."""

    model: Path
    pattern: NMPattern
    calibration: CalibrationSpec
    tokens: Tensor


@dataclass(frozen=True)
class Figures:
    """What a method took, in seconds and bytes of resident memory, and what it holds its masks to."""

    min_degree: int
    fewest_edges: int
    seconds: float
    peak_resident: int


Prune = Callable[[Task, Path], Figures]
"""Prunes into an empty folder, in a process of its own, so that peak memory is that of the method alone."""


def compare(name: str, methods: Mapping[str, Prune], description: str | None, note: str) -> None:
    """Runs `methods` as the command line asks, evaluates what each leaves, and keeps the table."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", default="pydocs", metavar="SOURCE")
    parser.add_argument("--evaluation", default=["pydocs"], nargs="+", metavar="SOURCE")
    parser.add_argument("--samples", type=int, default=24, help="calibration windows")
    parser.add_argument("--windows", type=int, default=32, help="held-out windows of each evaluation text")
    parser.add_argument("--length", type=int, default=1024, help="tokens in a window")
    parser.add_argument("--pattern", default="2:4")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", choices=methods, default=list(methods), metavar="METHOD")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was interrupted")
    arguments = parser.parse_args()
    pattern = NMPattern.parse(arguments.pattern)
    result = f"{name}-{_stem(arguments.calibration)}-{pattern.n}-{pattern.m}"
    kept = _PartialRows(RESULTS / f"{result}.partial.json", resume=arguments.resume)

    with tempfile.TemporaryDirectory() as cache:
        model = resolve_model(MODEL, None)
        assert model.path is not None
        folder = converted_folder(model.path, Path(cache))
        tokenizer = AutoTokenizer.from_pretrained(folder)

        def windows(text: TextSpec, part: Part) -> Tensor:
            return token_windows(text, part, tokenizer, text_roots=None, cache_dir=Path(cache))

        length = arguments.length
        evaluation = EvaluationSpec(
            sources=arguments.evaluation, samples=arguments.windows, sequence_length=length
        )
        held_out = {_stem(text.source): windows(text, "evaluation") for text in evaluation.texts}
        texts = "+".join(fingerprint(tokens)[:16] for tokens in held_out.values())
        rows = [kept.row(f"dense {texts}", lambda: _row("dense", None, None, _perplexities(folder, held_out)))]
        for seed in arguments.seeds:
            calibration = CalibrationSpec(
                source=arguments.calibration, samples=arguments.samples, sequence_length=length, seed=seed
            )
            task = Task(folder, pattern, calibration, windows(calibration, "calibration"))
            for method in arguments.methods:
                key = f"{method} {pattern} seed {seed} {fingerprint(task.tokens)[:16]} {texts}"
                rows.append(kept.row(key, partial(_measure, method, methods[method], task, held_out)))

    command = (
        f"python -m benchmarks.{name} --calibration {short(arguments.calibration)} "
        f"--evaluation {' '.join(map(short, arguments.evaluation))} --samples {arguments.samples} "
        f"--windows {arguments.windows} --length {length} --pattern {pattern} "
        f"--seeds {' '.join(map(str, arguments.seeds))}"
    )
    if arguments.methods != list(methods):
        command += f" --methods {shlex.join(arguments.methods)}"
    keep(result, command, _with_ratios(rows, list(held_out)), note, means=_means(rows, list(held_out)))
    kept.remove()


def _measure(method: str, prune: Prune, task: Task, held_out: Mapping[str, Tensor]) -> Row:
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "pruned")
        figures = prune(task, out)
        return _row(method, task.calibration.seed, figures, _perplexities(out, held_out))


def _perplexities(folder: Path, held_out: Mapping[str, Tensor]) -> dict[str, float]:
    skeleton = Skeleton(Checkpoint(folder), DEVICE)
    return {name: perplexity(skeleton, tokens)[0] for name, tokens in held_out.items()}


def _row(method: str, seed: int | None, figures: Figures | None, perplexities: dict[str, float]) -> Row:
    return {
        "method": method,
        "seed": seed,
        "B": figures and figures.min_degree,
        "fewest edges": figures and figures.fewest_edges,
        **perplexities,
        "seconds": figures and figures.seconds,
        "peak MiB": figures and figures.peak_resident / 2**20,
    }


def _with_ratios(rows: list[Row], texts: list[str]) -> list[Row]:
    """The rows, with every perplexity over that of the reference methods for the same seed."""
    found = {(row["method"], row["seed"]): row for row in rows}
    references = [method for method in PERPLEXITY_OF if any(row["method"] == method for row in rows)]
    return [
        row
        | {
            f"{text} / {reference}": row[text] / found[reference, row["seed"]][text]
            if row["seed"] is not None
            else None
            for text in texts
            for reference in references
        }
        for row in rows
    ]


def _means(rows: list[Row], texts: list[str]) -> list[Row]:
    """For each method, over the seeds: mean and standard deviation of perplexity, median time, largest memory."""
    by_method: dict[str, list[Row]] = {}
    for row in rows:
        if row["seed"] is not None:
            by_method.setdefault(row["method"], []).append(row)

    def mean(method: str, text: str) -> float:
        return statistics.mean(float(row[text]) for row in by_method[method])

    def seconds(method: str) -> float:
        return statistics.median(float(row["seconds"]) for row in by_method[method])

    means = []
    for method, own in by_method.items():
        entry: Row = {"method": method, "seeds": len(own)}
        for text in texts:
            entry[text] = mean(method, text)
            entry[f"{text} ±"] = statistics.stdev(row[text] for row in own) if len(own) > 1 else None
            for reference in PERPLEXITY_OF:
                if reference in by_method:
                    entry[f"{text} / {reference}"] = mean(method, text) / mean(reference, text)
        entry["seconds"] = seconds(method)
        for reference in SECONDS_OF:
            if reference in by_method:
                entry[f"seconds / {reference}"] = seconds(method) / seconds(reference)
        entry["peak MiB"] = max(row["peak MiB"] for row in own)
        means.append(entry)
    return means


class _PartialRows:
    """Rows on disk as they come. A key names all that a row depends on, besides the code."""

    def __init__(self, file: Path, *, resume: bool) -> None:
        self._file = file
        self._rows: dict[str, Row] = json.loads(file.read_text()) if resume and file.is_file() else {}

    def row(self, key: str, measure: Callable[[], Row]) -> Row:
        if key not in self._rows:
            self._rows[key] = measure()
            self._file.parent.mkdir(exist_ok=True)
            self._file.write_text(json.dumps(self._rows, indent=2) + "\n")
            print(self._rows[key], flush=True)
        return self._rows[key]

    def remove(self) -> None:
        self._file.unlink(missing_ok=True)


def _stem(source: str) -> str:
    return Path(source.removeprefix("file:")).stem
