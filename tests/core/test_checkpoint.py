"""Reading and writing checkpoints, as far as whole runs do not show it."""

import errno
import json
import os
import shutil
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from eggs_core import checkpoint, memory
from eggs_core.checkpoint import Checkpoint, CheckpointWriter
from eggs_core.errors import BrokenCheckpoint, EggsError
from eggs_core.model_folder import INDEX, MAX_HEADER_BYTES
from eggs_core.pipeline import prune
from eggs_core.progress import ProgressCallback, ProgressEvent
from eggs_core.report import Report
from eggs_core.spec import PruneSpec
from tests.alterations import altered
from tests.limited import limited
from tests.tiny_models import MakeModel


def test_shards_appear_whole_and_are_read_back(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, 2)
    writer.write(0, {"a": torch.arange(6.0).view(2, 3).T})  # not contiguous
    writer.write(1, {"b": torch.ones(2, dtype=torch.bfloat16)})
    writer.finish()
    assert {file.name for file in tmp_path.iterdir()} == {
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        INDEX,
    }
    checkpoint = Checkpoint(tmp_path)
    assert torch.equal(checkpoint.read(["a"])["a"], torch.arange(6.0).view(2, 3).T)
    assert checkpoint.elements_by_dtype() == {"F32": 6, "BF16": 2}


def test_weights_may_be_read_by_whom_the_other_files_may(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        shard = CheckpointWriter(tmp_path, 1).write(0, {"w": torch.ones(1)})
    finally:
        os.umask(before)
    assert stat.S_IMODE(shard.stat().st_mode) == 0o640


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_as_one_and_not_as_too_little_memory(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(OSError, match=os.strerror(number)) as raised, memory.explained():
        checkpoint.save({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    assert raised.value.errno == number


@pytest.mark.parametrize("index", [None, "without metadata", "beside older weights"])
def test_a_copy_for_transformers_has_what_was_read(
    index: str | None, make_model: MakeModel, tmp_path: Path
) -> None:
    """Its own reading fails without an index, or its metadata, and prefers a file that the index does not name."""
    folder = Path(shutil.copytree(make_model("llama"), tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    writer = CheckpointWriter(folder, 2)
    for number, names in enumerate((sorted(tensors)[:5], sorted(tensors)[5:])):
        writer.write(number, {name: tensors[name] for name in names})
    if index is not None:
        weight_map = {name: writer.path(0 if name in sorted(tensors)[:5] else 1).name for name in tensors}
        (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    if index == "beside older weights":
        save_file(
            {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}, folder / "model.safetensors"
        )
    with Checkpoint(folder).private() as copy:
        model = AutoModelForCausalLM.from_pretrained(copy, local_files_only=True)
    for name, parameter in model.state_dict().items():
        assert name not in tensors or torch.equal(parameter, tensors[name].to(parameter.dtype))


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    CheckpointWriter(tmp_path, 1).write(0, {"a": torch.ones(4)})
    first = Checkpoint(tmp_path).fingerprint()
    assert first == Checkpoint(tmp_path).fingerprint()
    CheckpointWriter(tmp_path, 1).write(0, {"a": torch.zeros(4)})
    assert first != Checkpoint(tmp_path).fingerprint()
    assert load_file(tmp_path / "model-00001-of-00001.safetensors")["a"].sum() == 0


def test_a_folder_without_tensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    with pytest.raises(BrokenCheckpoint, match="There is no safetensors file in"):
        Checkpoint(tmp_path)
    save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(BrokenCheckpoint, match="holds no tensor"):
        Checkpoint(tmp_path)


def shard(header: Any, data: int = 64, length: int | None = None) -> bytes:
    """A safetensors file, honest or not."""
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(content) if length is None else length) + content + bytes(data)


def tensor(dtype: str = "F32", shape: tuple[Any, ...] = (16,), span: tuple[int, int] = (0, 64)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": span}


def twice(name: str) -> bytes:
    halves = [json.dumps(tensor(shape=(8,), span=(at, at + 32))) for at in (0, 32)]
    return "{{{0}: {1}, {0}: {2}}}".format(json.dumps(name), *halves).encode()


@pytest.mark.parametrize(
    "content",
    [
        shard(b"", data=0),
        shard({"a": tensor()}, length=2**63),
        shard({"a": tensor()}, length=2**64 - 1),
        shard({"a": tensor()}, length=MAX_HEADER_BYTES),
        shard({"a": tensor()}, length=MAX_HEADER_BYTES + 1),
        shard({"a": tensor(), "b": tensor()}),
        shard({"a": tensor(shape=(8,), span=(0, 32)), "b": tensor(shape=(4,), span=(48, 64))}),
        shard({"a": tensor(span=(64, 0))}),
        shard({"a": tensor(span=(0, 2**63))}),
        shard({"a": tensor(dtype="F64")}),
        shard({"a": tensor(dtype="X")}),
        shard({"a": tensor(dtype="F6_E2M3", shape=(64,), span=(0, 48))}, data=48),
        shard(twice("a")),
        shard({"a": tensor(shape=(2**62, 4, 2**40))}),
        shard({"a": tensor(shape=(0, 2**63, 2**63), span=(0, 0))}, data=0),
        shard({"a": tensor(shape=(-16,))}),
        shard({"a": tensor(shape=(16.0,))}),
        shard({"a": tensor()}, data=65),
        shard({"a": tensor()}, data=63),
        shard(b"[" * 100_000),
        shard(b'{"a":' * 100_000),
        shard([1]),
        shard(b'{"\xff": 1}'),
        shard(b'{"\\ud800": {"dtype":"F32","shape":[16],"data_offsets":[0,64]}}'),
        shard({"__metadata__": {"a": 1}, "a": tensor()}),
    ],
)
def test_a_shard_that_lies(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)

    def read() -> None:
        checkpoint = Checkpoint(tmp_path)
        checkpoint.read(checkpoint.file_of)

    outcome, peak = limited(read)
    assert outcome.startswith("BrokenCheckpoint: ")
    assert str(tmp_path) not in outcome
    assert peak < 32 << 20


def test_a_header_as_large_as_may_be_takes_bounded_memory(tmp_path: Path) -> None:
    entry = '"{:x}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}},'
    names = MAX_HEADER_BYTES // (len(entry.format(2**20)) + 1)
    header = "{" + "".join(entry.format(number) for number in range(names)) + '"z":' + json.dumps(tensor()) + "}"
    assert MAX_HEADER_BYTES * 0.9 < len(header) < MAX_HEADER_BYTES
    (tmp_path / "model.safetensors").write_bytes(shard(header.encode()))
    outcome, peak = limited(lambda: Checkpoint(tmp_path))
    assert outcome == "done"
    assert peak < 512 << 20


@pytest.fixture
def model(make_model: MakeModel, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(make_model("llama"), folder)
    return folder


def prune_quickly(model: Path, out: Path, progress: ProgressCallback | None = None) -> Report:
    request = PruneSpec(
        model=str(model), method="ria", calibration={"samples": 1, "sequence_length": 16}, evaluation=None
    )
    return prune(request, out, cache_dir=out.parent / "cache", progress=progress)


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int64, torch.complex64, torch.float64, torch.float8_e4m3fn]
)
@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_a_weight_of_another_type_than_the_others(
    name: str, dtype: torch.dtype, model: Path, tmp_path: Path
) -> None:
    weights = load_file(model / "model.safetensors")
    save_file(weights | {name: weights[name].to(dtype)}, model / "model.safetensors")
    with suppress(EggsError):
        prune_quickly(model, tmp_path / "out")


def _train_on(file: Path) -> None:
    trained = file.with_name("trained")
    save_file({name: tensor + 1 for name, tensor in load_file(file).items()}, trained, {"format": "pt"})
    trained.rename(file)


@pytest.mark.parametrize(
    "change",
    [lambda file: shutil.rmtree(file.parent), lambda file: os.truncate(file, 100), _train_on],
    ids=["removed", "truncated", "trained on"],
)
def test_a_model_that_does_not_stay_as_it_was(change: Callable[[Path], None], model: Path, tmp_path: Path) -> None:
    """What it was pruned from would be two models, and the report would name the second one alone."""

    def at(stage: str) -> ProgressCallback:
        def progress(event: ProgressEvent) -> None:
            if event.stage == stage and event.data.get("block", 0) == 0 and model.exists():
                change(model / "model.safetensors")

        return progress

    fingerprint = Checkpoint(model).fingerprint()
    shutil.copytree(model, tmp_path / "kept")
    with pytest.raises(BrokenCheckpoint, match=r"model\.safetensors was changed or removed after"):
        prune_quickly(model, tmp_path / "out", at("prune"))
    shutil.rmtree(model, ignore_errors=True)
    shutil.move(tmp_path / "kept", model)
    report = prune_quickly(model, tmp_path / "late", at("pack"))
    assert report.model.fingerprint == fingerprint


@pytest.mark.parametrize(("whole", "examples"), [(False, 1000), (True, 25)], ids=["tensors", "run"])
def test_any_change_is_refused_or_harmless(whole: bool, examples: int, model: Path, tmp_path: Path) -> None:
    file = model / "model.safetensors"

    def run() -> None:
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        prune_quickly(model, out)

    def read() -> None:
        checkpoint = Checkpoint(model)
        checkpoint.elements_by_dtype()
        checkpoint.read(checkpoint.file_of)

    act: Callable[[], None] = run if whole else read
    original = file.read_bytes()

    @settings(max_examples=examples, derandomize=True, database=None)
    @given(altered(original, told=int.from_bytes(original[:8], "little")))
    def property(content: bytes) -> None:
        file.write_bytes(content)
        with suppress(EggsError):
            act()

    outcome, peak = limited(property)
    assert outcome == "done"
    assert peak < 512 << 20
