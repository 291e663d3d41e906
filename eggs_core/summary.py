"""Puts a run's figures together into its report."""

import platform
import resource
from importlib.metadata import version

import torch
from torch import Tensor

from eggs_core.checkpoint import Checkpoint
from eggs_core.report import Bytes, Expansion, LayerReport, ModelInfo, Perplexity, Report, Sparsity, TextInfo
from eggs_core.skeleton import Skeleton
from eggs_core.spec import PruneSpec, TextSpec
from eggs_core.text import fingerprint

_LIBRARIES = ("eggs", "torch", "transformers", "tokenizers", "safetensors")


def report_of(
    spec: PruneSpec,
    skeleton: Skeleton,
    revision: str | None,
    layers: list[LayerReport],
    calibration: Tensor,
    held_out: Tensor | None,
    perplexity: Perplexity | None,
    pruned: Checkpoint,
    seconds: dict[str, float],
) -> Report:
    """The report of a finished run; `seconds` by stage, the other arguments as `eggs_core.pipeline` has them."""
    cuda = skeleton.device.type == "cuda"
    return Report(
        model=ModelInfo(
            reference=spec.model,
            revision=revision,
            architecture=type(skeleton.model).__name__,
            parameters=_parameters(skeleton),
            blocks=len(skeleton.blocks),
            dtype=str(skeleton.dtype).removeprefix("torch."),
            fingerprint=skeleton.checkpoint.fingerprint(),
        ),
        method=spec.method,
        pattern=spec.pattern,
        min_degree=spec.effective_min_degree,
        perplexity=perplexity,
        sparsity=_sparsity(layers, _parameters(skeleton)),
        bytes=Bytes(
            dense_checkpoint=skeleton.checkpoint.nbytes(),
            pruned_checkpoint=pruned.nbytes(),
            peak_resident=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            peak_device=torch.cuda.max_memory_allocated() if cuda else None,
        ),
        seconds={stage: round(value, 3) for stage, value in seconds.items()},
        expansion=_expansion(layers),
        layers=layers,
        notes=_notes(spec, skeleton, layers),
        calibration=_text_info(spec.calibration, calibration, seed=spec.calibration.seed),
        evaluation=None if held_out is None or spec.evaluation is None else _text_info(spec.evaluation, held_out),
        spec=spec,
        versions={"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES},
        device=torch.cuda.get_device_name() if cuda else f"cpu ({platform.machine()})",
        threads=torch.get_num_threads(),
    )


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
    if not layers:
        notes.append("No layer was pruned: the ignore patterns match them all.")
    if spec.evaluation is not None and spec.evaluation.source == spec.calibration.source != "pydocs":
        notes.append(
            "Calibration and evaluation text have the same source, so perplexity may be measured on text the "
            "model was calibrated on."
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
