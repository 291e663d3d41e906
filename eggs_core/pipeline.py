"""A whole run: open the model, prune it, compare it with the dense one, and leave a folder anyone can load."""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from eggs_core import card, gguf, hub, memory
from eggs_core.checkpoint import Checkpoint, CheckpointWriter
from eggs_core.checksums import sha256, write_checksums
from eggs_core.compared import ComparedModel
from eggs_core.comparison import Advance, Comparison
from eggs_core.construction import check_vocabulary, most_positions
from eggs_core.distributed import ALONE, Group
from eggs_core.errors import BrokenCheckpoint, EggsError, NoSpace, OutputExists, SequenceTooLong
from eggs_core.journal import FOLDER, REPORT, Journal
from eggs_core.model_folder import CONFIG, TOKENIZERS, ModelFolder
from eggs_core.output import Sizes, pack_output
from eggs_core.packed_checkpoint import packing_of
from eggs_core.progress import Progress, ProgressCallback
from eggs_core.prune import passes, plan, prune_blocks
from eggs_core.report import BlockTraining, Compared, LayerReport, Repeat, Report
from eggs_core.skeleton import Skeleton
from eggs_core.sources import NO_UPLOADS, ModelRef, resolve_model
from eggs_core.spec import OutputFormat, PruneSpec, TextSpec
from eggs_core.summary import device_name, mean_output_error, report_of, versions, with_repeats
from eggs_core.tasks import TaskSuite
from eggs_core.text import Part, fingerprint, token_windows

_COMPARED = ".compared"


@contextmanager
def _panics_explained() -> Iterator[None]:
    """Libraries written in Rust give up by an exception that is no `Exception`, each by one of its own."""
    try:
        yield
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":
            raise
        raise BrokenCheckpoint(
            "The model's tokenizer or weights are such that the library which reads them gives up. Use those of "
            "the original model."
        ) from error


@memory.explained()
@_panics_explained()
def prune(
    spec: PruneSpec,
    out: Path,
    *,
    cache_dir: Path,
    progress: ProgressCallback | None = None,
    model_roots: Sequence[Path] | None = None,
    text_roots: Sequence[Path] | None = None,
    task_roots: Sequence[Path] | None = None,
    uploads: Mapping[str, Path] = NO_UPLOADS,
    allow_hub: bool = True,
    disk_reserve_bytes: int = 0,
    group: Group = ALONE,
) -> Report:
    """Prunes the model that `spec` names into the folder `out`, which must be missing or empty.

    Or it holds what an interrupted run left, of the same spec on the same machine: that is gone on with from its
    last finished block, to the same bytes.

    The folder then holds what `AutoModelForCausalLM.from_pretrained` loads, with `report.json`, a model card
    and `SHA256SUMS`. Converted and downloaded models are kept in `cache_dir`. `uploads` are references that stand
    for a path, whatever the roots. `disk_reserve_bytes` must stay free on the output's disk. The same spec on the
    same machine and thread count gives the same bytes; only times and memory in the report differ.

    Each process of a `group` calls it with the same arguments; only the first one writes, and calls `progress`.
    They share the pruning; evaluation is the first one's.

    Raises an `EggsError` for what the caller can mend, too little memory among it, or whatever `progress` raises,
    in all processes.
    """
    clock = _Clock()

    with clock.stage("open"):
        group.first(lambda: _check_new(out))
        model = resolve_model(spec.model, model_roots, allow_hub=allow_hub, uploads=uploads)
        files = group.first(lambda: _files(model, spec.revision, cache_dir))
        dense = Skeleton(Checkpoint(files), group.device)
        layers = plan(dense, spec)
        tokenizer = _tokenizer(files)

        def windows(text: TextSpec, part: Part) -> Tensor:
            _check_length(dense, text)
            tokens = group.first(
                lambda: token_windows(
                    text,
                    part,
                    tokenizer,
                    text_roots=text_roots,
                    cache_dir=cache_dir,
                    allow_hub=allow_hub,
                    uploads=uploads,
                )
            )
            check_vocabulary(dense.config, int(tokens.max()))
            return tokens

        tasks = None
        if spec.evaluation is not None and spec.evaluation.tasks:
            tasks = TaskSuite(spec.evaluation.tasks, spec.evaluation.task_limit, task_roots, allow_hub=allow_hub)
        first = spec.calibration.seed
        draws = [spec.calibration.model_copy(update={"seed": first + i}) for i in range(spec.seeds)]
        calibration, *others = [windows(draw, "calibration") for draw in draws]
        comparison, held_out = None, list[Tensor]()
        if spec.evaluation is not None:
            held_out = [windows(text, "evaluation") for text in spec.evaluation.texts]
            make_comparison = partial(Comparison, spec.evaluation, held_out, tokenizer, dense, tasks)
            comparison = group.each(make_comparison)  # whether there is memory for it may differ
        journal = Journal(out, _identity(spec, dense.checkpoint, calibration, held_out, group))
        # Beside the one that is kept lie the models that are compared, after them one repeat's at a time, and then
        # the packed one, which is smaller.
        packed = 0 if spec.output.format is OutputFormat.DENSE else 1
        needed = (1 + max(len(spec.compare), len(others[:1]), packed)) * dense.checkpoint.nbytes()
        group.first(lambda: _make_folder(out, journal, needed, disk_reserve_bytes))

    blocks = len(dense.blocks)
    work = passes(spec) * calibration.numel()
    evaluated = 0
    if comparison is not None:
        evaluated = 2 * comparison.work + (len(spec.compare) + len(others)) * comparison.perplexity_work
        repeated = blocks * work + comparison.perplexity_work
    # Packing reads and writes as pruning does, and computes next to nothing.
    to_pack = 0 if spec.output.format is OutputFormat.DENSE else blocks * calibration.shape[1]
    meter = Progress(progress, spec.seeds * blocks * work + evaluated + to_pack)
    opened = f"{blocks} blocks, {sum(map(len, layers))} layers to prune"
    group.first(lambda: meter.advance("open", 0, opened, blocks=blocks))

    def advancing(stage: str, doing: str) -> Advance:
        def advance(work: float, message: str, **data: Any) -> None:
            meter.advance(stage, work, f"{doing}, {message}", **data)

        return advance

    def prune_to(
        target: Path,
        tokens: Tensor,
        advance: Advance,
        compared: Sequence[ComparedModel] = (),
        journal: Journal | None = None,
    ) -> tuple[list[LayerReport], list[BlockTraining]]:
        figures: list[LayerReport] = []  # the first process's, as is the next
        training: list[BlockTraining] = []

        def on_block(index: int, reports: list[LayerReport], trained: BlockTraining | None) -> None:
            figures.extend(reports)
            training.extend([trained] if trained else [])
            advance(
                work,
                f"block {index + 1} of {blocks}",
                block=index,
                blocks=blocks,
                min_input_degree=min((report.min_input_degree for report in reports), default=None),
                mean_relative_output_error=mean_output_error(reports),
            )

        writer = CheckpointWriter(target, blocks + 1)
        prune_blocks(dense, spec, layers, tokens, writer, on_block, group, compared, journal)

        def complete() -> None:
            for each in (writer, *(model.writer for model in compared)):
                each.finish()
                files.copy_companions(each.folder)

        group.first(complete)
        return figures, training

    def measure(model: ComparedModel, comparison: Comparison) -> Compared:
        advance = advancing("compare", f"Evaluating {model.spec.label}")
        checkpoint = Checkpoint(model.writer.folder)
        return model.figures(comparison.perplexities(checkpoint, advance))

    def repeat(tokens: Tensor, seed: int, comparison: Comparison) -> Repeat:
        if (done := group.first(lambda: journal.recall(f"seed-{seed}"))) is not None:
            group.first(lambda: advancing("repeat", f"Seed {seed}")(repeated, "done before"))
            return Repeat.model_validate(done)
        with TemporaryDirectory(dir=out, prefix=".repeat-") as scratch:
            prune_to(Path(scratch), tokens, advancing("repeat", f"Pruning with seed {seed}"))
            advance = advancing("repeat", f"Evaluating with seed {seed}")
            perplexities = group.first(lambda: comparison.perplexities(Checkpoint(Path(scratch)), advance))
        made = Repeat(seed=seed, perplexities=perplexities)
        group.first(lambda: journal.record(f"seed-{seed}", made.model_dump(mode="json")))
        return made

    evaluation = None
    if comparison is not None:
        with clock.stage("evaluate_dense"):
            advance_dense = advancing("evaluate_dense", "Evaluating dense")
            group.first(lambda: comparison.measure_dense(advance_dense))
    compared: list[Compared] = []
    models = [ComparedModel(asked, out / _COMPARED / asked.label, blocks + 1) for asked in spec.compared]
    with clock.stage("prune"):
        figures, training = prune_to(out, calibration, advancing("prune", "Pruning"), models, journal)
        pruned = Checkpoint(out)
        fingerprint_of_dense = group.first(dense.checkpoint.fingerprint)  # which may be gone by the end
    if comparison is not None and models:
        with clock.stage("compare"):
            compared = [group.first(partial(measure, model, comparison)) for model in models]
    if comparison is not None:
        with clock.stage("evaluate_pruned"):
            advance_pruned = advancing("evaluate_pruned", "Evaluating pruned")
            evaluation = group.first(lambda: comparison.measure_pruned(pruned, advance_pruned))
        evaluation = evaluation.model_copy(update={"compared": compared})
        if others:
            published = Repeat(seed=first, perplexities=[text.perplexity.pruned for text in evaluation.texts])
            with clock.stage("repeat"):
                repeats = [repeat(tokens, first + 1 + i, comparison) for i, tokens in enumerate(others)]
            evaluation = with_repeats(evaluation, [published, *repeats])

    sizes = Sizes(pruned_checkpoint=pruned.nbytes())
    if spec.output.format is not OutputFormat.DENSE:
        with clock.stage("pack"):
            group.first(lambda: meter.advance("pack", 0, "Packing"))
            packing = packing_of(dense, [layer for block in layers for layer in block], spec.pattern)
            speed = comparison is not None and comparison.with_speed
            output = group.first(lambda: pack_output(pruned, packing, spec.output.format, dense, tokenizer, speed))
            sizes = output.sizes
            if evaluation is not None:
                evaluation = evaluation.model_copy(update={"speed": output.speed})
            group.first(lambda: meter.advance("pack", to_pack, "Packed"))

    revision = files.path.name if model.kind == "hub" else None
    notes = [] if comparison is None else comparison.notes

    def finish() -> Report:
        report = report_of(
            spec,
            dense,
            fingerprint_of_dense,
            revision,
            figures,
            training,
            calibration,
            evaluation,
            notes,
            sizes,
            clock.seconds(),
            group.size,
        )
        shutil.rmtree(out / _COMPARED, ignore_errors=True)
        (out / REPORT).write_text(report.model_dump_json(indent=2) + "\n")
        (out / "README.md").write_text(card.model_card(report))
        written = (file for file in out.rglob("*") if file.is_file() and not file.is_relative_to(out / FOLDER))
        write_checksums(out, written)
        journal.end()
        return report

    return group.first(finish)


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


def _files(model: ModelRef, revision: str | None, cache_dir: Path) -> ModelFolder:
    """Where the model's safetensors are, fetched or converted if need be."""
    if model.path is None:
        # A snapshot is a folder of links to where the cache keeps the files.
        return ModelFolder(hub.model_folder(model.id, revision, cache_dir / "hub"), [cache_dir / "hub"])
    if model.path.suffix == ".gguf":
        return ModelFolder(gguf.converted_folder(model.path, cache_dir), [cache_dir])
    return ModelFolder(model.path, model.within)


def _tokenizer(files: ModelFolder) -> Any:
    missing = BrokenCheckpoint(
        "The model has no tokenizer that transformers can read. Save its tokenizer into the same folder."
    )
    try:
        with files.private() as folder:
            if not any(fnmatch(path.name, pattern) for path in folder.iterdir() for pattern in TOKENIZERS):
                raise missing  # of some types transformers would make one that knows no word
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except EggsError:
        raise
    except Exception as error:  # a stranger's files fail in any way
        raise missing from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise missing
    return tokenizer


def _check_length(skeleton: Skeleton, text: TextSpec) -> None:
    longest = most_positions(skeleton.config)
    if longest is not None and text.sequence_length > longest:
        raise SequenceTooLong(
            f"sequence_length is {text.sequence_length}, and this model takes at most {longest} tokens. Ask for "
            f"{longest} or less."
        )


def _check_new(out: Path) -> None:
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / FOLDER).is_dir())):
        raise OutputExists(f"{out} exists and is not empty. Name a new folder.")


def _identity(
    spec: PruneSpec, checkpoint: Checkpoint, calibration: Tensor, held_out: Sequence[Tensor], group: Group
) -> dict[str, Any]:
    """All that the bytes of the output depend on, as far as it can change between two runs on one machine."""
    return {
        "spec": spec.model_dump(mode="json"),
        "weights": [[file.name, *state] for file, state in sorted(checkpoint.state_of.items())],
        "config": sha256(checkpoint.folder / CONFIG),
        "tokens": fingerprint(calibration),
        "held_out": list(map(fingerprint, held_out)),
        "versions": versions(),
        "device": device_name(group.device),
        "threads": torch.get_num_threads(),
        "processes": group.size,
    }


def _make_folder(out: Path, journal: Journal, needed: int, reserve: int) -> None:
    """Makes `out`, or leaves of an interrupted run in it what can be gone on with.

    Raises `NoSpace` where `needed` bytes do not fit into it, and `OutputExists` where the run was another.
    """
    out.mkdir(parents=True, exist_ok=True)
    if any(entry.name != FOLDER for entry in out.iterdir()) and not journal.interrupted():
        raise OutputExists(f"{out} holds what another run left when it was interrupted. Name a new folder.")
    for entry in out.iterdir():
        if entry.is_dir() and entry.name not in (FOLDER, _COMPARED):
            shutil.rmtree(entry)
        elif entry.is_file() and entry.suffix != ".safetensors":
            entry.unlink()
    there = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    free = there + shutil.disk_usage(out).free
    if free < needed + reserve:
        raise NoSpace(
            f"The output needs {needed / 2**20:.0f} MiB and {reserve / 2**20:.0f} MiB must stay free, but only "
            f"{free / 2**20:.0f} MiB are. Make room and submit again."
        )
    journal.begin()
