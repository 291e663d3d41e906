"""Reading and writing checkpoints, as far as whole runs do not show it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from eggs_core.checkpoint import Checkpoint, CheckpointWriter
from eggs_core.errors import BrokenCheckpoint
from eggs_core.model_folder import INDEX


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


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    CheckpointWriter(tmp_path, 1).write(0, {"a": torch.ones(4)})
    first = Checkpoint(tmp_path).fingerprint()
    assert first == Checkpoint(tmp_path).fingerprint()
    CheckpointWriter(tmp_path, 1).write(0, {"a": torch.zeros(4)})
    assert first != Checkpoint(tmp_path).fingerprint()
    assert load_file(tmp_path / "model-00001-of-00001.safetensors")["a"].sum() == 0


def test_a_folder_without_tensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BrokenCheckpoint, match="holds no tensor"):
        Checkpoint(tmp_path)
