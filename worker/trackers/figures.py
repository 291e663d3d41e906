"""A job's request and report as trackers show them: parameters and figures by name."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import count
from statistics import fmean
from typing import Any

from app.flat import flat
from eggs_core.report import Report, TextEvaluation
from eggs_core.spec import PruneSpec, method_label

# Of a layer's report, what is worth a chart over the blocks.
_OF_LAYERS = ("relative_output_error", "kept_importance", "second_singular_value")
# Names of artifacts in W&B have 128 characters at most.
_LONGEST = 100


def name_of(text: str) -> str:
    """A user's text as part of a name: what no tracker refuses, of what comes last, which tells most."""
    return re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII)[-_LONGEST:].strip("-.")


def distinct(names: Iterable[str]) -> list[str]:
    """The names, and in place of one that is empty or was there before, one that is not: with a number."""
    found: list[str] = []
    for name in names:
        free = (f"{name}-{number}".removeprefix("-") for number in count(2))
        found.append(name if name and name not in found else next(other for other in free if other not in found))
    return found


def parameters(spec: PruneSpec) -> dict[str, str]:
    """What was asked for; `calibration.samples` and the like. What is null has no entry."""
    effort = {} if spec.effective_effort is None else {"effort": spec.effective_effort.value}
    return _texts(spec.model_dump(mode="json") | effort)


def provenance(report: Report) -> dict[str, str]:
    """What the run was made of, beyond its request: the resolved model, and fingerprints of all inputs."""
    texts = [] if report.evaluation is None else report.evaluation.texts
    return _texts(
        {
            "model": report.model.model_dump(mode="json", exclude={"reference"}),
            "calibration": {"fingerprint": report.calibration.fingerprint},
            "evaluation": {
                f"fingerprint.{name}": text.text.fingerprint
                for name, text in zip(_names(texts), texts, strict=True)
            },
            "versions": report.versions,
            "device": report.device,
            "threads": report.threads,
            "processes": report.processes,
        }
    )


def figures(report: Report) -> dict[str, float]:
    """All figures of a report but those of layers, by names such as `evaluation/pydocs/perplexity/ratio`."""
    parts: dict[str, Any] = {
        name: getattr(report, name).model_dump() for name in ("sparsity", "bytes", "expansion")
    }
    parts["seconds"] = report.seconds
    if (evaluation := report.evaluation) is not None:
        parts["evaluation"] = {
            name: text.model_dump(exclude={"text"})
            for name, text in zip(_names(evaluation.texts), evaluation.texts, strict=True)
        }
        parts["compared"] = {
            method_label(other.method, other.effort): {
                "perplexity": dict(zip(parts["evaluation"], other.perplexities, strict=True)),
                "mean_relative_output_error": other.mean_relative_output_error,
            }
            for other in evaluation.compared
        }
        tasks = distinct(f"{name_of(result.name)}/{name_of(result.metric)}" for result in evaluation.tasks)
        parts["tasks"] = {
            name: {"dense": result.dense, "pruned": result.pruned}
            for name, result in zip(tasks, evaluation.tasks, strict=True)
        }
        parts["speed"] = {
            f"batch_{speed.batch}": speed.model_dump(exclude={"batch"}) for speed in evaluation.speed
        }
    return _numbers(parts)


def of_layers(report: Report) -> list[dict[str, float]]:
    """The figures of each block's layers, by names such as `layers/q_proj/relative_output_error`.

    Of layers of one type in a block, such as experts, the mean.
    """
    blocks: list[dict[str, list[float]]] = [defaultdict(list) for _ in range(report.model.blocks)]
    for layer in report.layers:
        for name in _OF_LAYERS:
            if (value := getattr(layer, name)) is not None:
                blocks[layer.block][f"layers/{layer.type}/{name}"].append(value)
    return [{name: fmean(values) for name, values in block.items()} for block in blocks]


def _names(texts: Iterable[TextEvaluation]) -> list[str]:
    return distinct(name_of(text.text.source) for text in texts)


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: json.dumps(value) if isinstance(value, list) else str(value)
        for name, value in flat(values)
        if value is not None
    }


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in flat(values, "/") if isinstance(value, int | float)}
