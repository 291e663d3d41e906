"""A comparison changes nothing of the job, and gives of every method what a run of its own would."""

import gc
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from eggs_core import prune as prune_module
from eggs_core.errors import Cancelled, NoSpace
from eggs_core.pipeline import prune
from eggs_core.progress import ProgressEvent
from eggs_core.report import Compared, Report
from eggs_core.skeleton import Skeleton
from eggs_core.spec import PruneSpec
from tests.tiny_models import MakeModel

SHORT = {"samples": 4, "sequence_length": 48}
FAST, BALANCED, BEST = ({"method": "eggs", "effort": effort} for effort in ("fast", "balanced", "best"))
PAPERS = [{"method": method} for method in ("magnitude", "wanda", "ria", "sparsegpt")]
A_FEW_MATRICES = 10_000
"""Bytes for the Gram matrices of one pass: of 4096 for most inputs of these models, of 16384 for the widest."""


def spec_for(model: Path, **changes: Any) -> PruneSpec:
    texts = {"calibration": SHORT, "evaluation": SHORT | {"sources": ("pydocs",), "generations": 0}}
    return PruneSpec.model_validate({"model": str(model)} | texts | changes)


def others(own: dict[str, Any]) -> list[dict[str, Any]]:
    return [method for method in (*PAPERS, FAST, BALANCED) if method != own]


def compared(report: Report) -> list[Compared]:
    assert report.evaluation is not None
    return report.evaluation.compared


def passes_made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The layers that wait at each pass over the text, as they come."""
    made: list[int] = []
    gather = prune_module.gather

    def gathered(layers: Any, *arguments: Any) -> Any:
        made.append(len(layers))
        return gather(layers, *arguments)

    monkeypatch.setattr(prune_module, "gather", gathered)
    return made


def assert_same_weights(first: Path, second: Path) -> None:
    files = {file.name for file in first.iterdir()}
    assert files == {file.name for file in second.iterdir()}, "something was left behind"
    for file in first.glob("*.safetensors"):
        assert file.read_bytes() == (second / file.name).read_bytes(), file.name


@pytest.mark.parametrize(
    ("family", "own", "gram_bytes"),
    [
        ("llama", BALANCED, prune_module.GRAM_BYTES),
        ("mixtral", BALANCED, A_FEW_MATRICES),
        ("gpt2", {"method": "magnitude"}, A_FEW_MATRICES),
    ],
)
def test_in_a_single_block_methods_do_what_they_do_alone(
    family: str,
    own: dict[str, Any],
    gram_bytes: int,
    make_model: MakeModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where no pruned block comes before, all see the inputs that a run of their own does."""
    monkeypatch.setattr(prune_module, "GRAM_BYTES", gram_bytes)
    folder = make_model(family, num_hidden_layers=1)
    found = compared(prune(spec_for(folder, **own, compare=others(own)), tmp_path / "out", cache_dir=tmp_path))
    assert len({entry.perplexities[0] for entry in found}) == len(found)
    for method, entry in zip(others(own), found, strict=True):
        out = tmp_path / f"alone-{entry.method}-{entry.effort}"
        alone = prune(spec_for(folder, **method, permute=False), out, cache_dir=tmp_path)
        assert alone.evaluation is not None
        assert (entry.method, entry.effort, entry.min_degree) == (alone.method, alone.effort, alone.min_degree)
        assert entry.perplexities == [text.perplexity.pruned for text in alone.evaluation.texts]
        errors = [layer.relative_output_error for layer in alone.layers]
        assert entry.mean_relative_output_error == fmean(error for error in errors if error is not None)


@pytest.mark.parametrize(
    ("family", "gram_bytes"), [("llama", prune_module.GRAM_BYTES), ("mixtral", A_FEW_MATRICES)]
)
@pytest.mark.parametrize("own", [FAST, BALANCED, BEST, {"method": "ria"}])
def test_what_is_published_stays_the_same(
    family: str,
    own: dict[str, Any],
    gram_bytes: int,
    make_model: MakeModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prune_module, "GRAM_BYTES", gram_bytes)
    folder = make_model(family)
    alone = prune(spec_for(folder, **own), tmp_path / "alone", cache_dir=tmp_path)
    made = passes_made(monkeypatch)
    report = prune(spec_for(folder, **own, compare=others(own)), tmp_path / "out", cache_dir=tmp_path)
    assert_same_weights(tmp_path / "alone", tmp_path / "out")
    assert (len(made) > 2) == (gram_bytes == A_FEW_MATRICES), "blocks are two"
    assert {layer.name: layer for layer in report.layers} == {layer.name: layer for layer in alone.layers}
    assert report.evaluation is not None
    assert alone.evaluation is not None
    assert report.evaluation.texts == alone.evaluation.texts
    assert len(compared(report)) == len(others(own))
    assert compared(alone) == []


def test_one_pass_serves_all(make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = passes_made(monkeypatch)
    for compare in ([], others(BALANCED)):
        out = tmp_path / str(len(compare))
        prune(spec_for(make_model("llama"), **BALANCED, compare=compare), out, cache_dir=tmp_path)
    assert made[:2] == made[2:]


def test_experts_that_are_left_dense_are_in_comparisons_too(make_model: MakeModel, tmp_path: Path) -> None:
    """Of a parameter that holds several."""
    folder = make_model("mixtral", num_hidden_layers=1)
    ignore = ("*.experts.*.2", "*self_attn*", "*gate")
    spec = spec_for(folder, **FAST, ignore=ignore, compare=[{"method": "ria"}])
    (found,) = compared(prune(spec, tmp_path / "out", cache_dir=tmp_path))
    alone = prune(spec_for(folder, method="ria", ignore=ignore), tmp_path / "alone", cache_dir=tmp_path)
    assert alone.evaluation is not None
    assert found.perplexities == [alone.evaluation.texts[0].perplexity.pruned]


def test_a_comparison_is_of_the_first_seed(make_model: MakeModel, tmp_path: Path) -> None:
    folder = make_model("llama")
    events: list[ProgressEvent] = []
    reports = [
        prune(
            spec_for(folder, seeds=seeds, compare=[{"method": "ria"}, FAST]),
            tmp_path / str(seeds),
            cache_dir=tmp_path,
            progress=events.append if seeds == 2 else None,
        )
        for seeds in (1, 2)
    ]
    first, second = ([entry.model_copy(update={"seconds": 0}) for entry in compared(report)] for report in reports)
    assert first == second
    assert reports[1].evaluation is not None
    assert len(reports[1].evaluation.repeats) == 2
    assert_same_weights(tmp_path / "1", tmp_path / "2")

    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions)
    assert fractions.index(1) == len(fractions) - 1, "the work was counted wrongly"
    messages = [event.message for event in events if event.stage == "compare"]
    assert messages == [
        f"Evaluating {method}, block {block} of 2" for method in ("ria", "eggs:fast") for block in (1, 2)
    ]


@pytest.mark.parametrize("stage", ["prune", "compare"])
def test_a_comparison_can_be_stopped_and_gone_on_with(stage: str, make_model: MakeModel, tmp_path: Path) -> None:
    def stop(event: ProgressEvent) -> None:
        if event.stage == stage:
            raise Cancelled

    spec = spec_for(make_model("llama"), compare=[{"method": "ria"}])
    with pytest.raises(Cancelled):
        prune(spec, tmp_path / "out", cache_dir=tmp_path, progress=stop)
    assert list((tmp_path / "out").glob(".compared/ria/*.safetensors"))
    prune(spec, tmp_path / "out", cache_dir=tmp_path)
    assert not list((tmp_path / "out").glob(".*"))


def test_models_that_are_compared_need_room(make_model: MakeModel, tmp_path: Path) -> None:
    folder = make_model("llama", intermediate_size=8192, num_hidden_layers=1)
    megabytes = (folder / "model.safetensors").stat().st_size / 2**20
    for seeds, compare, models in ((2, 0, 2), (1, 2, 3), (3, 2, 3)):
        spec = spec_for(folder, seeds=seeds, compare=PAPERS[:compare])
        with pytest.raises(NoSpace, match=f"needs {models * megabytes:.0f} MiB"):
            prune(spec, tmp_path / "out", cache_dir=tmp_path, disk_reserve_bytes=2**60)


def test_no_two_methods_have_a_block_in_memory(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 0

    def measured(work: Any) -> Any:
        def measure(*arguments: Any) -> Any:
            nonlocal most
            storages = {
                t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
                for t in gc.get_objects()
                if type(t) in (torch.Tensor, torch.nn.Parameter) and not t.is_meta
            }
            most = max(most, sum(storages.values()))
            return work(*arguments)

        return measure

    monkeypatch.setattr(prune_module, "prune_layers", measured(prune_module.prune_layers))
    monkeypatch.setattr(Skeleton, "checkpoint_tensors", measured(Skeleton.checkpoint_tensors))
    folder = make_model("llama", hidden_size=128, intermediate_size=256, num_hidden_layers=1)
    gc.freeze()  # what is there by now is not looked through, nor counted
    taken = []
    for compare in ([], [{"method": "ria"}, {"method": "sparsegpt"}, FAST]):
        most = 0
        out = tmp_path / str(len(compare))
        prune(spec_for(folder, **BALANCED, compare=compare), out, cache_dir=tmp_path)
        taken.append(most)
        shutil.rmtree(out)
    block = 4 * (2 * 128 * 128 + 2 * 64 * 128 + 3 * 256 * 128)
    assert taken[1] - taken[0] < block / 2


def test_what_the_methods_of_a_comparison_are_asked_for() -> None:
    ria, fast = spec_for(Path("m"), min_degree=3, compare=[{"method": "ria"}, FAST]).compared
    assert (ria.label, ria.effective_min_degree, ria.permutes) == ("ria", 0, False)
    assert (fast.label, fast.effective_min_degree, fast.permutes) == ("eggs:fast", 3, False)
    assert spec_for(Path("m"), method="ria", compare=[BALANCED]).compared[0].effective_min_degree == "auto"


def test_a_report_from_before_comparisons_can_be_read(make_model: MakeModel, tmp_path: Path) -> None:
    report = prune(spec_for(make_model("llama"), **FAST), tmp_path / "out", cache_dir=tmp_path)
    content = report.model_dump(mode="json")
    del content["evaluation"]["compared"], content["spec"]["compare"]
    assert Report.model_validate(content) == report
