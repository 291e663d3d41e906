"""Options that commands share, and the request they add up to."""

from pathlib import Path
from typing import Annotated, Any

import typer

from eggs_core.spec import Effort, Method, OutputFormat

Url = Annotated[str, typer.Option("--url", envvar="EGGS_URL", help="Where the service is.")]
Key = Annotated[str, typer.Option("--key", envvar="EGGS_API_KEY", help="Your API key.", show_default=False)]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")]
Out = Annotated[Path, typer.Option("--out", help="Folder that the output goes to.", show_default=False)]

Json = Annotated[bool, typer.Option("--json", help="As JSON, for other programs.")]

Model = Annotated[str, typer.Argument(help="A model of `eggs models`, a folder or GGUF file, or a Hub id.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub model.")]
Pattern = Annotated[str | None, typer.Option(help="N:M, such as 2:4: keep 2 of 4.")]
MethodOption = Annotated[Method | None, typer.Option("--method", help="How weights are chosen.")]
EffortOption = Annotated[Effort | None, typer.Option("--effort", help="How much method eggs does.")]
MinDegree = Annotated[
    str | None, typer.Option(help="Edges that every input channel keeps (method eggs): a number, or auto.")
]
Permute = Annotated[
    bool | None, typer.Option("--permute/--no-permute", help="Reorder channels first, at no cost later.")
]
Ignore = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Leave layers dense of whose whole name this is a shell pattern, such as '*.down_proj'; may be given "
        "again.",
    ),
]
Calibration = Annotated[
    str | None,
    typer.Option(
        help="pydocs, file:PATH or hub:ORG/NAME; a service takes PATH from its own texts, not from here."
    ),
]
CalibrationSamples = Annotated[int | None, typer.Option(help="Windows of calibration text.")]
SequenceLength = Annotated[int | None, typer.Option(help="Tokens in a window, in calibration and evaluation.")]
TextField = Annotated[
    str | None, typer.Option(help="The field with the text in JSONL and Parquet, in calibration and evaluation.")
]
Seed = Annotated[int | None, typer.Option(help="Seed of the calibration windows.")]
Evaluation = Annotated[
    list[str] | None,
    typer.Option(help="Text to evaluate on, like --calibration; may be given again. none skips the evaluation."),
]
EvaluationSamples = Annotated[int | None, typer.Option(help="Windows of each evaluation text; 0 takes all.")]
EvaluationSequenceLength = Annotated[
    int | None, typer.Option(help="Tokens in a window of evaluation, if not --sequence-length.")
]
EvaluationTextField = Annotated[str | None, typer.Option(help="The field in evaluation, if not --text-field.")]
Generations = Annotated[
    int | None, typer.Option(help="Held-out windows that both models continue; loads the whole model.")
]
Seeds = Annotated[int | None, typer.Option(help="Runs with seeds that follow on --seed, to compare perplexity.")]
Compare = Annotated[
    list[str] | None,
    typer.Option(
        metavar="METHOD",
        help="A method to compare with in the same run, such as ria or eggs:fast; may be given again.",
    ),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        help="A task of lm-evaluation-harness, or file:PATH.yaml; may be given again. Loads the whole model.",
    ),
]
TaskLimit = Annotated[int | None, typer.Option(help="Examples of each task; all unless given.")]

Format = Annotated[
    OutputFormat | None,
    typer.Option("--format", help="The form in which the model is left: with zeros, or without."),
]
Speed = Annotated[bool, typer.Option("--speed", help="Time the pruned model, dense against packed.")]

DEFAULT_URL = "http://127.0.0.1:8000"


def request(
    *,
    model: str,
    revision: str | None,
    pattern: str | None,
    method: Method | None,
    effort: Effort | None,
    min_degree: str | None,
    permute: bool | None,
    ignore: list[str] | None,
    calibration: str | None,
    calibration_samples: int | None,
    sequence_length: int | None,
    text_field: str | None,
    seed: int | None,
    seeds: int | None,
    compare: list[str] | None,
    evaluation: list[str] | None,
    evaluation_samples: int | None,
    evaluation_sequence_length: int | None,
    evaluation_text_field: str | None,
    generations: int | None,
    tasks: list[str] | None,
    task_limit: int | None,
    output_format: OutputFormat | None,
    speed: bool,
) -> dict[str, Any]:
    """The request for these options; what was not given is left to the request's own defaults.

    Raises `typer.BadParameter` for an evaluation of which something is asked, and which there is to be none of.
    """
    of_evaluation = given(
        samples=evaluation_samples,
        sequence_length=evaluation_sequence_length,
        text_field=evaluation_text_field,
        generations=generations,
        tasks=tasks or None,
        task_limit=task_limit,
        speed=speed or None,
    )
    if evaluation == ["none"] and any(of_evaluation.values()):
        raise typer.BadParameter(
            "There is to be no evaluation, and so no samples, tasks, generations or speed of it. Leave out "
            "--evaluation none, or them."
        )
    of_both = given(sequence_length=sequence_length, text_field=text_field)
    evaluated = of_both | of_evaluation | given(sources=evaluation or None)
    if evaluated.get("samples") == 0:
        evaluated["samples"] = None
    fields = given(
        model=model,
        revision=revision,
        pattern=pattern,
        method=None if method is None else method.value,
        effort=None if effort is None else effort.value,
        min_degree=int(min_degree) if min_degree is not None and min_degree.isdecimal() else min_degree,
        permute=permute,
        ignore=ignore or None,
        output=given(format=None if output_format is None else output_format.value) or None,
        seeds=seeds,
        compare=[method_and_effort(text) for text in compare] if compare else None,
        calibration=given(
            source=calibration,
            samples=calibration_samples,
            sequence_length=sequence_length,
            text_field=text_field,
            seed=seed,
        ),
    )
    return fields | {"evaluation": None if evaluation == ["none"] else evaluated}


def method_and_effort(text: str) -> dict[str, Any]:
    """The fields of a method such as `ria` or `eggs:fast`."""
    method, colon, effort = text.partition(":")
    return given(method=method, effort=effort if colon else None)


def given(**fields: Any) -> dict[str, Any]:
    """The fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}
