"""Commands that need no service: prune here and now, and list the models that are here."""

from typing import Annotated

import typer
from rich.table import Table

from app.cli import options
from app.cli.render import ProgressBar, console, report_tables
from app.settings import get_settings
from eggs_core.sources import offered_models
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
    seed: options.Seed = None,
    seeds: options.Seeds = None,
    compare: options.Compare = None,
    evaluation: options.Evaluation = None,
    evaluation_samples: options.EvaluationSamples = None,
    generations: options.Generations = None,
    task: options.Tasks = None,
    task_limit: options.TaskLimit = None,
    output_format: options.Format = None,
    speed: options.Speed = False,
    offline: Annotated[bool, typer.Option("--offline", help="Take nothing from the Hugging Face Hub.")] = False,
) -> None:
    """Prune a model on this machine, without a service; started by torchrun, in several processes."""
    spec = PruneSpec.model_validate(
        options.request(
            model=model,
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
            seed=seed,
            seeds=seeds,
            compare=compare,
            evaluation=evaluation,
            evaluation_samples=evaluation_samples,
            generations=generations,
            tasks=task,
            task_limit=task_limit,
            output_format=output_format,
            speed=speed,
        )
    )
    settings = get_settings()
    with ProgressBar(model) as bar:
        bar.update(0.0, "Loading")
        # Only now: everything else on this command line works without torch.
        from eggs_core import pipeline
        from eggs_core.distributed import joined

        with joined() as group:
            report = pipeline.prune(
                spec,
                out,
                progress=lambda event: bar.update(event.fraction, event.message),
                cache_dir=settings.data_dir / "cache",
                allow_hub=settings.allow_hub and not offline,
                group=group,
            )
    console.print(report_tables(report))
    console.print(f"The pruned model and its report are in {out}", highlight=False, markup=False)


def models() -> None:
    """List the models that are here without a download: a service takes the id, `eggs prune` the path too."""
    table = Table()
    table.add_column("Model", overflow="fold")
    table.add_column("Description")
    table.add_column("Path", overflow="fold")
    for model in offered_models(get_settings().model_roots):
        table.add_row(model.id, model.description, str(model.path) if model.kind == "local" else "")
    console.print(table)
