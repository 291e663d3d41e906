"""Options that commands share, and the request they add up to."""

from pathlib import Path
from typing import Annotated, Any

import typer

from eggs_core.spec import Method

Url = Annotated[str, typer.Option("--url", envvar="EGGS_URL", help="Where the service is.")]
Key = Annotated[str, typer.Option("--key", envvar="EGGS_API_KEY", help="Your API key.", show_default=False)]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")]
Out = Annotated[Path, typer.Option("--out", help="Folder that the output goes to.", show_default=False)]

Model = Annotated[str, typer.Argument(help="A model of `eggs models`, a folder or GGUF file, or a Hub id.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub model.")]
Pattern = Annotated[str | None, typer.Option(help="N:M, such as 2:4: keep 2 of 4.")]
MethodOption = Annotated[Method | None, typer.Option("--method", help="How weights are chosen.")]
MinDegree = Annotated[int | None, typer.Option(help="Edges that every input channel keeps (method eggs).")]
Ignore = Annotated[list[str] | None, typer.Option(help="Leave layers of this name dense; may be given again.")]
Calibration = Annotated[
    str | None,
    typer.Option(
        help="pydocs, file:PATH or hub:ORG/NAME; a service takes PATH from its own texts, not from here."
    ),
]
CalibrationSamples = Annotated[int | None, typer.Option(help="Windows of calibration text.")]
SequenceLength = Annotated[int | None, typer.Option(help="Tokens in a window, in calibration and evaluation.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the calibration windows.")]
Evaluation = Annotated[str | None, typer.Option(help="Text to evaluate on, like --calibration; none skips it.")]
EvaluationSamples = Annotated[int | None, typer.Option(help="Windows of evaluation text; 0 takes all of it.")]

DEFAULT_URL = "http://127.0.0.1:8000"


def request(
    *,
    model: str,
    revision: str | None,
    pattern: str | None,
    method: Method | None,
    min_degree: int | None,
    ignore: list[str] | None,
    calibration: str | None,
    calibration_samples: int | None,
    sequence_length: int | None,
    seed: int | None,
    evaluation: str | None,
    evaluation_samples: int | None,
) -> dict[str, Any]:
    """The request for these options; what was not given is left to the request's own defaults."""
    evaluated = _given(source=evaluation, samples=evaluation_samples, sequence_length=sequence_length)
    if evaluated.get("samples") == 0:
        evaluated["samples"] = None
    fields = _given(
        model=model,
        revision=revision,
        pattern=pattern,
        method=None if method is None else method.value,
        min_degree=min_degree,
        ignore=ignore or None,
        calibration=_given(
            source=calibration, samples=calibration_samples, sequence_length=sequence_length, seed=seed
        ),
    )
    return fields | {"evaluation": None if evaluation == "none" else evaluated}


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
