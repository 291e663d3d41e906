"""Commands that need no service: prune here and now, and list the models that are here."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from app.cli import options
from app.cli.render import console, plain, progress_bar, report_tables, write_json
from app.settings import get_settings
from eggs_core.progress import ProgressEvent
from eggs_core.sources import ModelRef, offered_models
from eggs_core.spec import PruneSpec


def prune(
    model: options.Model,
    out: options.Out,
    revision: options.Revision = None,
    pattern: options.Pattern = None,
    method: options.MethodOption = None,
    effort: options.EffortOption = None,
    min_degree: options.MinDegree = None,
    permute: options.Permute = None,
    ignore: options.Ignore = None,
    calibration: options.Calibration = None,
    calibration_samples: options.CalibrationSamples = None,
    sequence_length: options.SequenceLength = None,
    text_field: options.TextField = None,
    seed: options.Seed = None,
    seeds: options.Seeds = None,
    compare: options.Compare = None,
    evaluation: options.Evaluation = None,
    evaluation_samples: options.EvaluationSamples = None,
    evaluation_sequence_length: options.EvaluationSequenceLength = None,
    evaluation_text_field: options.EvaluationTextField = None,
    generations: options.Generations = None,
    task: options.Tasks = None,
    task_limit: options.TaskLimit = None,
    output_format: options.Format = None,
    speed: options.Speed = False,
    offline: Annotated[bool, typer.Option("--offline", help="Take nothing from the Hugging Face Hub.")] = False,
    as_json: options.Json = False,
) -> None:
    """Prune a model on this machine, without a service. Started by torchrun, in several processes."""
    settings = get_settings()
    spec = PruneSpec.model_validate(
        options.request(
            model=_meant(model, settings.model_roots),
            revision=revision,
            pattern=pattern,
            method=method,
            effort=effort,
            min_degree=min_degree,
            permute=permute,
            ignore=ignore,
            calibration=calibration,
            calibration_samples=calibration_samples,
            sequence_length=sequence_length,
            text_field=text_field,
            seed=seed,
            seeds=seeds,
            compare=compare,
            evaluation=evaluation,
            evaluation_samples=evaluation_samples,
            evaluation_sequence_length=evaluation_sequence_length,
            evaluation_text_field=evaluation_text_field,
            generations=generations,
            tasks=task,
            task_limit=task_limit,
            output_format=output_format,
            speed=speed,
        )
    )
    with nullcontext() if as_json else progress_bar(model) as bar:

        def show(event: ProgressEvent) -> None:
            if bar is not None:
                bar.update(event.fraction, event.message)

        show(ProgressEvent("load", 0.0, "Loading"))
        # Only now: everything else on this command line works without torch.
        from eggs_core import pipeline
        from eggs_core.distributed import joined

        with joined() as group:
            report = pipeline.prune(
                spec,
                out,
                progress=show,
                cache_dir=settings.data_dir / "cache",
                allow_hub=settings.allow_hub and not offline,
                group=group,
            )
    if as_json:
        write_json(report)
        return
    console.print(report_tables(report))
    console.print(f"The pruned model and its report are in {out}", highlight=False, markup=False)


def models(as_json: options.Json = False) -> None:
    """List the models that are here without a download. Jobs take the id, `eggs prune` the path too."""
    offered = offered_models(get_settings().model_roots)
    if as_json:
        write_json([{"id": model.id, "description": model.description, "path": _path(model)} for model in offered])
        return
    table = Table()
    table.add_column("Model", overflow="fold")
    table.add_column("Description")
    table.add_column("Path", overflow="fold")
    for model in offered:
        table.add_row(plain(model.id), plain(model.description), plain(_path(model) or ""))
    console.print(table)


def _meant(name: str, roots: Sequence[Path]) -> str:
    """The path of what `eggs models` lists under this name, unless there is one of this name here."""
    if Path(name).exists():
        return name
    paths = {model.id: _path(model) for model in offered_models(roots)}
    return paths.get(name) or name


def _path(model: ModelRef) -> str | None:
    return str(model.path) if model.kind == "local" else None
