"""Whole runs: what they leave behind, that they repeat to the byte, and what wrong input is told."""

import gc
import json
import math
import shutil
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from eggs_core.errors import (
    BrokenCheckpoint,
    Cancelled,
    EggsError,
    ModelNotAllowed,
    ModelNotFound,
    NoSpace,
    NotEnoughText,
    OutputExists,
    PatternDoesNotFit,
    SequenceTooLong,
    UnsafeCheckpoint,
    UnsupportedModel,
)
from eggs_core.pattern import NMPattern
from eggs_core.pipeline import prune
from eggs_core.progress import ProgressEvent
from eggs_core.report import Report
from eggs_core.spec import CalibrationSpec, EvaluationSpec, Method, PruneSpec
from tests.conftest import files_of
from tests.tiny_models import MakeModel

SHORT = {"samples": 4, "sequence_length": 48}
Edit = Callable[[Path], None]


def spec_for(model: Path | str, **changes: Any) -> PruneSpec:
    values = {"model": str(model), "calibration": CalibrationSpec(**SHORT), "evaluation": EvaluationSpec(**SHORT)}
    return PruneSpec(**values | changes)


def test_what_a_run_leaves(make_model: MakeModel, tmp_path: Path) -> None:
    out = tmp_path / "out"
    events: list[ProgressEvent] = []
    report = prune(spec_for(make_model("llama")), out, cache_dir=tmp_path / "cache", progress=events.append)

    assert Report.model_validate_json((out / "report.json").read_text()) == report
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=out, check=True)
    listed = {line.split("  ")[1] for line in (out / "SHA256SUMS").read_text().splitlines()}
    assert listed == files_of(out) - {"SHA256SUMS"}
    card = (out / "README.md").read_text()
    assert "pruned to 2:4" in card
    for origin in (report.model.fingerprint, report.calibration.fingerprint, f"eggs {report.versions['eggs']}"):
        assert origin in card
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)
    stages = {"open", "evaluate_dense", "prune", "evaluate_pruned", "pack"}
    assert {event.stage for event in events} == stages
    assert set(report.seconds) == stages | {"total"}
    assert report.bytes.dense_checkpoint == pytest.approx(report.bytes.pruned_checkpoint, rel=0.05)
    model = AutoModelForCausalLM.from_pretrained(out)
    zeros = sum(int((p == 0).sum()) for p in model.parameters())
    total = sum(p.numel() for p in model.parameters())
    assert report.model.parameters == total
    assert report.sparsity.model == pytest.approx(zeros / total, abs=1e-3)


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_same_request_same_bytes(family: str, make_model: MakeModel, tmp_path: Path) -> None:
    folder = make_model(family)
    reports = [prune(spec_for(folder), tmp_path / name, cache_dir=tmp_path) for name in ("a", "b")]
    for name in files_of(tmp_path / "a") - {"report.json", "SHA256SUMS"}:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    first, second = (r.model_dump(exclude={"seconds": True, "bytes": {"peak_resident"}}) for r in reports)
    assert first == second


def test_another_seed_draws_other_windows(make_model: MakeModel, tmp_path: Path) -> None:
    folder = make_model("llama")
    reports = [
        prune(
            spec_for(folder, calibration=CalibrationSpec(**SHORT, seed=seed), evaluation=None),
            tmp_path / str(seed),
            cache_dir=tmp_path,
        )
        for seed in (0, 1)
    ]
    assert reports[0].calibration.fingerprint != reports[1].calibration.fingerprint
    assert reports[0].model.fingerprint == reports[1].model.fingerprint


@pytest.mark.parametrize("max_shard_size", ["20KB", "5GB"])
def test_sharded_sources_give_the_same_model(max_shard_size: str, make_model: MakeModel, tmp_path: Path) -> None:
    """Where a block's tensors lie does not matter."""
    folder = make_model("llama", max_shard_size=max_shard_size)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (max_shard_size == "20KB")
    prune(spec_for(folder), tmp_path / "out", cache_dir=tmp_path)
    prune(spec_for(make_model("llama")), tmp_path / "whole", cache_dir=tmp_path)
    for file in (tmp_path / "whole").glob("*.safetensors"):
        ours = load_file(tmp_path / "out" / file.name)
        assert all(torch.equal(tensor, ours[name]) for name, tensor in load_file(file).items())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_stay_in_their_dtype(dtype: str, make_model: MakeModel, tmp_path: Path) -> None:
    report = prune(spec_for(make_model("llama", dtype=dtype)), tmp_path / "out", cache_dir=tmp_path)
    assert report.model.dtype == dtype
    for file in (tmp_path / "out").glob("*.safetensors"):
        assert {str(t.dtype) for t in load_file(file).values()} == {f"torch.{dtype}"}


def test_ignored_layers_stay_dense(make_model: MakeModel, tmp_path: Path) -> None:
    spec = spec_for(make_model("llama"), ignore=("*.layers.0.*", "*down_proj"))
    report = prune(spec, tmp_path / "out", cache_dir=tmp_path)
    assert {layer.block for layer in report.layers} == {1}
    assert "down_proj" not in {layer.type for layer in report.layers}
    assert report.notes == []
    everything = prune(spec_for(make_model("llama"), ignore=("*",)), tmp_path / "none", cache_dir=tmp_path)
    assert everything.layers == []
    assert any("No layer was pruned" in note for note in everything.notes)
    assert everything.evaluation is not None
    (text,) = everything.evaluation.texts
    assert (text.perplexity.ratio, text.kl_divergence, text.top1_agreement) == (1, 0, 1)


def test_what_mixes_and_routes_stays_dense_whatever_else_does(make_model: MakeModel, tmp_path: Path) -> None:
    spec = spec_for(make_model("gemma3n_text"), ignore=("*.down_proj", "up_proj"), evaluation=None)
    report = prune(spec, tmp_path / "out", cache_dir=tmp_path)
    types = {layer.type for layer in report.layers}
    assert not types & {"down_proj", "modality_router", "prediction_coefs", "correction_coefs"}
    assert "up_proj" in types
    assert any("No layer has a name that up_proj matches" in note for note in report.notes)


@pytest.mark.parametrize(
    ("method", "dense"), [({"effort": "fast"}, True), ({"effort": "balanced"}, False), ({"method": "ria"}, False)]
)
def test_what_a_block_is_measured_on(
    method: dict[str, Any], dense: bool, make_model: MakeModel, tmp_path: Path
) -> None:
    """What the dense blocks before it make of the text (effort fast), or the pruned ones."""
    errors = []
    for name, ignore in (("all", ()), ("last", ("*.layers.0.*",))):
        spec = spec_for(make_model("llama"), ignore=ignore, evaluation=None, permute=False, **method)
        report = prune(spec, tmp_path / name, cache_dir=tmp_path)
        errors.append([layer.relative_output_error for layer in report.layers if layer.block == 1])
    assert (errors[0] == errors[1]) is dense


@pytest.mark.parametrize("pattern", ["1:2", "1:4", "4:8", "8:8", "3:16", "20:32"])
def test_any_pattern(pattern: str, make_model: MakeModel, tmp_path: Path) -> None:
    spec = spec_for(make_model("llama"), pattern=NMPattern.parse(pattern), min_degree=1)
    report = prune(spec, tmp_path / "out", cache_dir=tmp_path)
    assert report.sparsity.pruned_layers == pytest.approx(1 - spec.pattern.density, abs=1e-6)


def test_a_callback_can_stop_the_run(make_model: MakeModel, tmp_path: Path) -> None:
    def stop(event: ProgressEvent) -> None:
        if event.stage == "prune":
            raise Cancelled

    with pytest.raises(Cancelled):
        prune(spec_for(make_model("llama")), tmp_path / "out", cache_dir=tmp_path, progress=stop)
    assert not (tmp_path / "out" / "model.safetensors.index.json").exists()


def test_seeds_repeat_the_run_and_publish_the_first(make_model: MakeModel, tmp_path: Path) -> None:
    folder = make_model("llama")
    events: list[ProgressEvent] = []
    seeded = spec_for(folder, calibration=CalibrationSpec(**SHORT, seed=5), seeds=3)
    report = prune(seeded, tmp_path / "three", cache_dir=tmp_path, progress=events.append)
    alone = [
        prune(
            spec_for(folder, calibration=CalibrationSpec(**SHORT, seed=seed)),
            tmp_path / str(seed),
            cache_dir=tmp_path,
        )
        for seed in (5, 6, 7)
    ]
    assert report.evaluation is not None
    expected = [a.evaluation.texts[0].perplexity.pruned for a in alone if a.evaluation is not None]
    assert [repeat.seed for repeat in report.evaluation.repeats] == [5, 6, 7]
    assert [repeat.perplexities for repeat in report.evaluation.repeats] == [[pytest.approx(p)] for p in expected]
    spread = report.evaluation.texts[0].over_seeds
    assert spread is not None
    assert spread.mean == pytest.approx(statistics.mean(expected))
    assert spread.standard_deviation == pytest.approx(statistics.stdev(expected))
    assert alone[0].evaluation is not None
    assert alone[0].evaluation.repeats == []
    assert alone[0].evaluation.texts[0].over_seeds is None

    assert files_of(tmp_path / "three") == files_of(tmp_path / "5"), "a repeat left something behind"
    for file in (tmp_path / "5").glob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "three" / file.name).read_bytes()
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions)
    assert fractions.index(1) == len(fractions) - 1, "the work was counted wrongly"
    assert sum(event.stage == "repeat" for event in events) == 2 * 2 * 2, "blocks pruned and evaluated, twice"


def test_a_repeat_can_be_stopped_and_leaves_nothing(make_model: MakeModel, tmp_path: Path) -> None:
    def stop(event: ProgressEvent) -> None:
        if event.stage == "repeat":
            assert list((tmp_path / "out").glob(".repeat-*"))
            raise Cancelled

    with pytest.raises(Cancelled):
        prune(spec_for(make_model("llama"), seeds=2), tmp_path / "out", cache_dir=tmp_path, progress=stop)
    assert not list((tmp_path / "out").glob(".repeat-*"))
    assert not (tmp_path / "out" / "report.json").exists()


def _pickle_only(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _truncated(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])


def _not_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)


def _without(*names: str) -> Edit:
    def edit(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        save_file({k: v for k, v in weights.items() if not k.endswith(names)}, folder / "model.safetensors")

    return edit


def _wrong_shape(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] = torch.zeros(64, 36)
    save_file(weights, folder / "model.safetensors")


def _not_finite(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 3] = torch.nan
    save_file(weights, folder / "model.safetensors")


def _missing_shard(folder: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _shard_outside(folder: Path) -> None:
    save_file({"model.norm.weight": torch.zeros(32)}, folder.parent / "stranger.safetensors")
    index = {"weight_map": {"model.norm.weight": "../stranger.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _broken_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{")


def _nested_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("[" * 100_000)


def _nested_config(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)


def _config(**changes: Any) -> Edit:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return edit


def _broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def _broken_tokenizer_config(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("[]")


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (_pickle_only, UnsafeCheckpoint, "safe_serialization=True"),
        (_truncated, BrokenCheckpoint, "Save or upload it again"),
        (_not_safetensors, BrokenCheckpoint, "Save or upload it again"),
        (
            _without("1.mlp.up_proj.weight"),
            BrokenCheckpoint,
            "lacks 1 weights, such as model.layers.1.mlp.up_proj",
        ),
        (_without("model.norm.weight"), BrokenCheckpoint, "lacks 1 weights, such as model.norm.weight"),
        (_wrong_shape, BrokenCheckpoint, r"has shape \(64, 36\).*asks for \(64, 32\)"),
        (_not_finite, BrokenCheckpoint, "not finite"),
        (_missing_shard, BrokenCheckpoint, "shard .* is missing"),
        (_shard_outside, BrokenCheckpoint, "no shard in its folder"),
        (_broken_index, BrokenCheckpoint, "not a shard index"),
        (_nested_index, BrokenCheckpoint, "not a shard index"),
        (_nested_config, UnsupportedModel, "config.json"),
        (_broken_config, UnsupportedModel, "config.json"),
        (_config(model_type="no-such-family"), UnsupportedModel, "remote code"),
        (_config(model_type="t5"), UnsupportedModel, "not a decoder-only"),
        (_config(model_type="bert"), UnsupportedModel, "not a decoder-only"),
        (_config(hidden_size="wide"), UnsupportedModel, "wrong values"),
        (_config(num_attention_heads=0), UnsupportedModel, "wrong values"),
        (_config(hidden_act="no such"), UnsupportedModel, "Check the values"),
        (_config(num_hidden_layers=0), UnsupportedModel, "No list of 0 decoder blocks"),
        (_broken_tokenizer_config, BrokenCheckpoint, "tokenizer"),
        (_config(quantization_config={"quant_method": "fp8"}), UnsupportedModel, "quantised already"),
        (_config(vocab_size=64), BrokenCheckpoint, "tokenizer"),
        (_no_tokenizer, BrokenCheckpoint, "tokenizer"),
        (_no_config, ModelNotFound, "config.json"),
    ],
)
def test_a_bad_checkpoint_is_refused_with_advice(
    edit: Edit, error: type[EggsError], message: str, make_model: MakeModel, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in make_model("llama").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    edit(folder)
    with pytest.raises(error, match=message):
        prune(spec_for(folder), tmp_path / "out", cache_dir=tmp_path)


def test_wrong_requests_are_refused_before_any_work(make_model: MakeModel, tmp_path: Path) -> None:
    folder = make_model("llama")
    out, cache = tmp_path / "out", tmp_path / "cache"
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")

    def refused(error: type[EggsError], message: str, spec: PruneSpec, **options: Any) -> None:
        with pytest.raises(error, match=message):
            prune(spec, out, cache_dir=cache, **options)
        assert not list(out.glob("*")), "work was done"

    refused(ModelNotFound, "neither a model", spec_for("no such model"))
    refused(ModelNotFound, "nor an existing folder or GGUF file", spec_for(tmp_path / "missing"))
    refused(ModelNotAllowed, "outside the folders", spec_for(folder), model_roots=[tmp_path])
    refused(PatternDoesNotFit, 'q_proj.*adding "model.layers.0', spec_for(folder, pattern=NMPattern(2, 5)))
    long = CalibrationSpec(samples=1, sequence_length=129)
    refused(SequenceTooLong, "takes at most 128", spec_for(folder, calibration=long))
    nothing = CalibrationSpec(**SHORT, source=f"file:{empty}")
    refused(NotEnoughText, "0 tokens.*need 192", spec_for(folder, calibration=nothing))
    refused(NoSpace, "Make room", spec_for(folder), disk_reserve_bytes=2**60)


def test_an_output_that_exists_is_not_touched(make_model: MakeModel, tmp_path: Path) -> None:
    (tmp_path / "keep").write_text("mine")
    with pytest.raises(OutputExists, match="Name a new folder"):
        prune(spec_for(make_model("llama")), tmp_path, cache_dir=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["keep"]


def test_min_degree_is_for_eggs_alone(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match="min_degree belongs to method eggs"):
        spec_for(make_model("llama"), method=Method.RIA, min_degree=4)


def test_a_model_that_overflows_is_told_so(make_model: MakeModel, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(make_model("llama"), folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][:] = 1e38
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(BrokenCheckpoint, match="logits that are not finite"):
        prune(spec_for(folder), tmp_path / "out", cache_dir=tmp_path)


def test_perplexity_beyond_floats_is_cut_off(make_model: MakeModel, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(make_model("llama"), folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][:] = 1e4
    save_file(weights, folder / "model.safetensors")
    report = prune(spec_for(folder), tmp_path / "out", cache_dir=tmp_path)
    assert report.evaluation is not None
    assert report.evaluation.texts[0].perplexity.dense == pytest.approx(math.exp(700))
    assert Report.model_validate_json((tmp_path / "out" / "report.json").read_text()) == report


def test_blocks_that_the_config_does_not_count_are_kept_and_noted(make_model: MakeModel, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(make_model("llama", num_hidden_layers=3), folder)
    _config(num_hidden_layers=2)(folder)
    report = prune(spec_for(folder), tmp_path / "out", cache_dir=tmp_path)
    assert {layer.block for layer in report.layers} == {0, 1}
    assert any("1 blocks more" in note for note in report.notes)
    kept = load_file(tmp_path / "out" / "model-00001-of-00003.safetensors")
    assert any(name.startswith("model.layers.2.") for name in kept)


def test_what_is_in_memory_does_not_grow_with_the_blocks(make_model: MakeModel, tmp_path: Path) -> None:
    live: dict[tuple[str, int], int] = {}

    def measure(event: ProgressEvent) -> None:
        if "block" in event.data:
            storages = {
                t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
                for t in gc.get_objects()
                if type(t) in (torch.Tensor, torch.nn.Parameter) and not t.is_meta
            }
            live[event.stage, event.data["block"]] = sum(storages.values())

    folder = make_model("llama", num_hidden_layers=12)
    prune(spec_for(folder), tmp_path / "out", cache_dir=tmp_path, progress=measure)
    block = sum(p.nbytes for p in load_file(folder / "model.safetensors").values()) / 12
    for stage in ("evaluate_dense", "prune", "evaluate_pruned"):
        of_stage = [size for (name, _), size in live.items() if name == stage]
        assert len(of_stage) == 12
        assert max(of_stage[1:]) - min(of_stage[1:]) < block / 2, stage
