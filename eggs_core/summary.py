"""Puts a run's figures together into its report."""

import fnmatch
import json
import os
import platform
import resource
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import distribution, version
from statistics import fmean, stdev

import torch
from torch import Tensor

from eggs_core.acceptance import judge
from eggs_core.evaluate import DenseScores, PrunedScores, exp_mean, exp_mean_interval, mean_interval
from eggs_core.layers import layer_names
from eggs_core.output import Sizes
from eggs_core.report import (
    BlockTraining,
    Bytes,
    Evaluation,
    Expansion,
    Interval,
    LayerReport,
    ModelInfo,
    Perplexity,
    Repeat,
    Report,
    Sparsity,
    Spread,
    TextEvaluation,
    TextInfo,
)
from eggs_core.skeleton import Skeleton
from eggs_core.spec import DEFAULT_IGNORE, PruneSpec, TextSpec
from eggs_core.text import fingerprint

_LIBRARIES = ("eggs", "torch", "transformers", "tokenizers", "safetensors")


def report_of(
    spec: PruneSpec,
    skeleton: Skeleton,
    model_fingerprint: str,
    revision: str | None,
    layers: list[LayerReport],
    training: list[BlockTraining],
    calibration: Tensor,
    evaluation: Evaluation | None,
    notes: list[str],
    sizes: Sizes,
    seconds: dict[str, float],
    processes: int,
) -> Report:
    """The report of a finished run: `notes` come after its own, `seconds` are by stage.

    `processes` is how many shared the work. The other arguments are as `eggs_core.pipeline` has them.
    """
    cuda = skeleton.device.type == "cuda"
    return Report(
        model=ModelInfo(
            reference=spec.model,
            revision=revision,
            architecture=type(skeleton.model).__name__,
            parameters=_parameters(skeleton),
            blocks=len(skeleton.blocks),
            dtype=str(skeleton.dtype).removeprefix("torch."),
            fingerprint=model_fingerprint,
        ),
        method=spec.method,
        pattern=spec.pattern,
        effort=spec.effective_effort,
        min_degree=least_degree(layers),
        evaluation=evaluation,
        acceptance=judge(spec, evaluation),
        sparsity=_sparsity(layers, _parameters(skeleton)),
        bytes=Bytes(
            dense_checkpoint=skeleton.checkpoint.nbytes(),
            **asdict(sizes),
            peak_resident=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            peak_device=torch.cuda.max_memory_allocated() if cuda else None,
        ),
        seconds={stage: round(value, 3) for stage, value in seconds.items()},
        expansion=_expansion(layers),
        layers=layers,
        training=training,
        notes=_notes(spec, skeleton, layers) + _training_notes(training) + notes,
        calibration=_text_info(spec.calibration, calibration, seed=spec.calibration.seed),
        spec=spec,
        versions=versions() | ({"lm_eval": version("lm_eval")} if evaluation and evaluation.tasks else {}),
        device=device_name(skeleton.device),
        threads=torch.get_num_threads(),
        processes=processes,
    )


def versions() -> dict[str, str]:
    """What the output was made with."""
    commit = _commit()
    return (
        {"python": platform.python_version()}
        | {name: version(name) for name in _LIBRARIES}
        | ({"eggs_commit": commit} if commit else {})
    )


def _commit() -> str | None:
    """Of this code, where that is known: an image was built with it, or pip has fetched it from a repository.

    A checkout says nothing: what runs there may have been changed since.
    """
    if commit := os.environ.get("EGGS_COMMIT"):
        return commit
    origin = json.loads(distribution("eggs").read_text("direct_url.json") or "{}")
    return origin.get("vcs_info", {}).get("commit_id")  # type: ignore[no-any-return]


def device_name(device: torch.device) -> str:
    """What the work is done on."""
    return torch.cuda.get_device_name() if device.type == "cuda" else f"cpu ({platform.machine()})"


def text_evaluations(
    texts: list[TextSpec], windows: list[Tensor], dense: DenseScores, pruned: PrunedScores
) -> list[TextEvaluation]:
    """How the models compare on `texts`, whose `windows`, one after the other, have these scores."""
    counts = [len(tokens) for tokens in windows]
    scores = zip(
        dense.nll.split(counts),
        pruned.nll.split(counts),
        pruned.kl.split(counts),
        pruned.agreement.split(counts),
        strict=True,
    )
    return [
        TextEvaluation(
            text=_text_info(text, tokens),
            perplexity=_perplexity(tokens, *nll),
            kl_divergence=float(kl.mean()),
            top1_agreement=float(agreement.mean()),
            kl_divergence_interval=_interval(mean_interval(kl)),
            top1_agreement_interval=_interval(mean_interval(agreement)),
        )
        for text, tokens, (*nll, kl, agreement) in zip(texts, windows, scores, strict=True)
    ]


def with_repeats(evaluation: Evaluation, repeats: list[Repeat]) -> Evaluation:
    """The evaluation with those of other seeds, the first of which it is itself."""
    by_text = zip(*(repeat.perplexities for repeat in repeats), strict=True)
    texts = [
        text.model_copy(update={"over_seeds": Spread(mean=fmean(values), standard_deviation=stdev(values))})
        for text, values in zip(evaluation.texts, by_text, strict=True)
    ]
    return evaluation.model_copy(update={"texts": texts, "repeats": repeats})


def mean_output_error(layers: Sequence[LayerReport]) -> float | None:
    """Mean of the relative output errors that are known, None where none is."""
    known = [error for layer in layers if (error := layer.relative_output_error) is not None]
    return fmean(known) if known else None


def least_degree(layers: Sequence[LayerReport]) -> int:
    """Least B of any layer, 0 where there is none."""
    return min((layer.min_degree for layer in layers), default=0)


def _perplexity(tokens: Tensor, dense_nll: Tensor, pruned_nll: Tensor) -> Perplexity:
    return Perplexity(
        dense=exp_mean(dense_nll),
        pruned=exp_mean(pruned_nll),
        ratio=exp_mean(pruned_nll - dense_nll),
        tokens=tokens.shape[0] * (tokens.shape[1] - 1),
        pruned_interval=_interval(exp_mean_interval(pruned_nll)),
        ratio_interval=_interval(exp_mean_interval(pruned_nll - dense_nll)),
    )


def _interval(bounds: tuple[float, float] | None) -> Interval | None:
    return None if bounds is None else Interval(low=bounds[0], high=bounds[1])


def _parameters(skeleton: Skeleton) -> int:
    return sum(p.numel() for p in skeleton.model.parameters())


def _sparsity(layers: list[LayerReport], parameters: int) -> Sparsity:
    def share(chosen: list[LayerReport]) -> float:
        weights = sum(layer.shape[0] * layer.shape[1] for layer in chosen)
        return _zeros(chosen) / weights if weights else 0.0

    types = dict.fromkeys(layer.type for layer in layers)
    return Sparsity(
        pruned_layers=share(layers),
        model=_zeros(layers) / parameters,
        by_layer_type={t: share([layer for layer in layers if layer.type == t]) for t in types},
    )


def _zeros(layers: list[LayerReport]) -> float:
    return sum(layer.sparsity * layer.shape[0] * layer.shape[1] for layer in layers)


def _expansion(layers: list[LayerReport]) -> Expansion:
    channels = sum(layer.shape[1] for layer in layers)
    edges = sum(layer.mean_input_degree * layer.shape[1] for layer in layers)
    return Expansion(
        min_input_degree=min((layer.min_input_degree for layer in layers), default=0),
        mean_input_degree=edges / channels if channels else 0.0,
        channels_cut_off=sum(layer.channels_cut_off for layer in layers),
        max_second_singular_value=max((layer.second_singular_value for layer in layers), default=0.0),
        max_ramanujan_ratio=max(
            (layer.second_singular_value / layer.ramanujan_bound for layer in layers if layer.ramanujan_bound),
            default=0.0,
        ),
        min_neighbourhood_ratio=min((layer.neighbourhood_ratio for layer in layers), default=0.0),
    )


def _notes(spec: PruneSpec, skeleton: Skeleton, layers: list[LayerReport]) -> list[str]:
    notes = []
    unseen = [layer.name for layer in layers if layer.calibration_tokens == 0]
    if unseen:
        notes.append(
            f"{len(unseen)} matrices, of experts that no token was routed to, saw no calibration token and were "
            f"ranked by their weights alone, such as {unseen[0]}. More calibration samples reach more experts."
        )
    if skeleton.uncounted_blocks:
        notes.append(
            f"The checkpoint holds {len(skeleton.uncounted_blocks)} blocks more than config.json counts; they "
            "were copied as they are."
        )
    blocks = zip(skeleton.blocks, skeleton.block_names, strict=True)
    names = [name for block, prefix in blocks for name in layer_names(block, prefix)]
    notes += [
        f"No layer has a name that {pattern} matches, so ignoring it has left none dense. Patterns are of whole "
        "names, such as *.down_proj."
        for pattern in spec.ignore
        if pattern not in DEFAULT_IGNORE and not any(fnmatch.fnmatchcase(name, pattern) for name in names)
    ]
    if not layers:
        notes.append("No layer was pruned: the ignore patterns match them all.")
    source = spec.calibration.source
    if spec.evaluation is not None and source in spec.evaluation.sources and source != "pydocs":
        notes.append(
            f"Calibration and evaluation text have the same source, {source}, so the model may be evaluated on "
            "text that it was calibrated on."
        )
    return notes


def _training_notes(training: list[BlockTraining]) -> list[str]:
    notes = []
    if trained := [block for block in training if block.skipped is None]:
        lowered = sum(block.epochs > 0 for block in trained)
        notes.append(
            f"Training lowered the error of what comes out of {lowered} of {len(trained)} blocks on held-out "
            "calibration text. The output errors of layers are those from before it."
        )
    if few := [block.block for block in training if block.skipped == "too-few-batches"]:
        notes.append(
            f"{len(few)} blocks were not trained, as effort best is to: the calibration text makes one batch, of "
            "which nothing can be held out. Ask for more calibration samples."
        )
    return notes


def _text_info(spec: TextSpec, tokens: Tensor, seed: int | None = None) -> TextInfo:
    return TextInfo(
        source=spec.source,
        fingerprint=fingerprint(tokens),
        windows=tokens.shape[0],
        sequence_length=tokens.shape[1],
        seed=seed,
    )
