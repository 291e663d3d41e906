"""A whole run: open the model, prune it, compare it with the dense one, and leave a folder anyone can load."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from eggs_core import card, gguf, hub
from eggs_core.checkpoint import Checkpoint, CheckpointWriter, copy_companions, sha256
from eggs_core.errors import BrokenCheckpoint, NoSpace, OutputExists, SequenceTooLong
from eggs_core.evaluate import perplexity
from eggs_core.progress import Progress, ProgressCallback
from eggs_core.prune import PASSES, plan, prune_blocks
from eggs_core.report import LayerReport, Perplexity, Report
from eggs_core.skeleton import Skeleton
from eggs_core.sources import ModelRef, resolve_model
from eggs_core.spec import PruneSpec, TextSpec
from eggs_core.summary import report_of
from eggs_core.text import Part, token_windows

CHECKSUMS = "SHA256SUMS"
_LENGTH_LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len")
_DOING = {
    "evaluate_dense": "Evaluating dense",
    "prune": "Pruning",
    "evaluate_pruned": "Evaluating pruned",
}


def prune(
    spec: PruneSpec,
    out: Path,
    *,
    cache_dir: Path,
    progress: ProgressCallback | None = None,
    model_roots: Sequence[Path] | None = None,
    text_roots: Sequence[Path] | None = None,
    allow_hub: bool = True,
    disk_reserve_bytes: int = 0,
) -> Report:
    """Prunes the model that `spec` names into the folder `out`, which must be missing or empty.

    The folder then holds what `AutoModelForCausalLM.from_pretrained` loads, with `report.json`, a model card
    and `SHA256SUMS`. Converted and downloaded models are kept in `cache_dir`. `disk_reserve_bytes` must stay
    free on the output's disk. The same spec on the same machine and thread count gives the same bytes; only
    times and memory in the report differ.

    Raises an `EggsError` for what the caller can mend, or whatever `progress` raises.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputExists(f"{out} exists and is not empty. Name a new folder.")
    clock = _Clock()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    with clock.stage("open"):
        model = resolve_model(spec.model, model_roots, allow_hub=allow_hub)
        folder = _folder(model, spec.revision, cache_dir)
        dense = Skeleton(Checkpoint(folder), device)
        layers = plan(dense, spec)
        tokenizer = _tokenizer(folder)

        def windows(text: TextSpec, part: Part) -> Tensor:
            _check_length(dense, text)
            tokens = token_windows(
                text, part, tokenizer, text_roots=text_roots, cache_dir=cache_dir, allow_hub=allow_hub
            )
            _check_vocabulary(dense, tokens)
            return tokens

        calibration = windows(spec.calibration, "calibration")
        held_out = None if spec.evaluation is None else windows(spec.evaluation, "evaluation")
        out.mkdir(parents=True, exist_ok=True)
        _check_space(out, dense.checkpoint.nbytes(), disk_reserve_bytes)

    blocks = len(dense.blocks)
    evaluations = 0 if held_out is None else 2 * held_out.numel()
    meter = Progress(progress, blocks * (PASSES * calibration.numel() + evaluations))
    meter.advance("open", 0, f"{blocks} blocks, {sum(map(len, layers))} layers to prune", blocks=blocks)
    figures: list[LayerReport] = []

    def evaluate(skeleton: Skeleton, tokens: Tensor, stage: str) -> tuple[float, int]:
        def on_block(index: int) -> None:
            message = f"{_DOING[stage]}, block {index + 1} of {blocks}"
            meter.advance(stage, tokens.numel(), message, block=index, blocks=blocks)

        with clock.stage(stage):
            return perplexity(skeleton, tokens, on_block)

    def on_pruned_block(index: int, reports: list[LayerReport]) -> None:
        figures.extend(reports)
        meter.advance(
            "prune",
            PASSES * calibration.numel(),
            f"{_DOING['prune']}, block {index + 1} of {blocks}",
            block=index,
            blocks=blocks,
            min_input_degree=min((report.min_input_degree for report in reports), default=None),
            mean_relative_output_error=_mean([report.relative_output_error for report in reports]),
        )

    dense_perplexity = evaluate(dense, held_out, "evaluate_dense") if held_out is not None else None
    with clock.stage("prune"):
        writer = CheckpointWriter(out, blocks + 1)
        prune_blocks(dense, spec, layers, calibration, writer, on_pruned_block)
        writer.finish()
        copy_companions(folder, out)
    pruned = Checkpoint(out)
    comparison = None
    if held_out is not None and dense_perplexity is not None:
        pruned_perplexity, _ = evaluate(Skeleton(pruned, device), held_out, "evaluate_pruned")
        comparison = Perplexity(
            dense=dense_perplexity[0],
            pruned=pruned_perplexity,
            ratio=pruned_perplexity / dense_perplexity[0],
            tokens=dense_perplexity[1],
        )

    revision = folder.name if model.kind == "hub" else None
    report = report_of(spec, dense, revision, figures, calibration, held_out, comparison, pruned, clock.seconds())
    (out / "report.json").write_text(report.model_dump_json(indent=2) + "\n")
    (out / "README.md").write_text(card.model_card(report))
    _write_checksums(out)
    return report


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


class _Clock:
    """Seconds by stage, and in total since it was made."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._stages: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._stages[name] = time.monotonic() - started

    def seconds(self) -> dict[str, float]:
        return self._stages | {"total": time.monotonic() - self._started}


def _folder(model: ModelRef, revision: str | None, cache_dir: Path) -> Path:
    """Where the model's safetensors are, fetched or converted if need be."""
    if model.path is None:
        return hub.model_folder(model.id, revision, cache_dir / "hub")
    return gguf.converted_folder(model.path, cache_dir) if model.path.suffix == ".gguf" else model.path


def _tokenizer(folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # a stranger's files fail in any way
        raise BrokenCheckpoint(
            "The model has no tokenizer that transformers can read. Save its tokenizer into the same folder."
        ) from error


def _check_length(skeleton: Skeleton, text: TextSpec) -> None:
    config = skeleton.config.get_text_config()
    longest = next((n for name in _LENGTH_LIMITS if isinstance(n := getattr(config, name, None), int)), None)
    if longest is not None and text.sequence_length > longest:
        raise SequenceTooLong(
            f"sequence_length is {text.sequence_length}, and this model takes at most {longest} tokens. Ask for "
            f"{longest} or less."
        )


def _check_vocabulary(skeleton: Skeleton, tokens: Tensor) -> None:
    size = skeleton.config.get_text_config().vocab_size
    if int(tokens.max()) >= size:
        raise BrokenCheckpoint(
            f"The tokenizer gives token {int(tokens.max())}, and the model has {size} tokens: they do not belong "
            "together. Put the model's own tokenizer into its folder."
        )


def _check_space(out: Path, needed: int, reserve: int) -> None:
    free = shutil.disk_usage(out).free
    if free < needed + reserve:
        raise NoSpace(
            f"The output needs {needed / 2**20:.0f} MiB and {reserve / 2**20:.0f} MiB must stay free, but only "
            f"{free / 2**20:.0f} MiB are. Make room and submit again."
        )


def _write_checksums(out: Path) -> None:
    """SHA256SUMS of every file, as `sha256sum --check` reads it."""
    files = sorted(file for file in out.iterdir() if file.is_file())
    (out / CHECKSUMS).write_text("".join(f"{sha256(file)}  {file.name}\n" for file in files))
