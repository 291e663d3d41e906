"""Packed checkpoints of strangers, with anything done to their files: refused by name, or loaded as they say."""

import json
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from eggs_core.checkpoint import Checkpoint, save
from eggs_core.errors import BrokenCheckpoint, BrokenPack
from eggs_core.loading import quiet
from eggs_core.masks import top_n_mask
from eggs_core.model_folder import INDEX
from eggs_core.packed_checkpoint import pack_checkpoint, unpack_checkpoint
from eggs_core.packed_linear import PackedLinear
from eggs_core.packing import unpack
from eggs_core.packing_config import MASK, VALUES, WEIGHT, PackingConfig
from eggs_core.pattern import NMPattern
from eggs_core.whole import load
from tests.alterations import altered
from tests.tiny_models import MakeModel

SHARD = "model-00001-of-00001.safetensors"
PATTERN = NMPattern(2, 4)
LAYER = "model.layers.0.mlp.down_proj"
SQUARE = "model.layers.0.self_attn.q_proj"  # which its transpose has the shape of


@dataclass(frozen=True, repr=False)
class Pack:
    """A packed model: its folder, the bytes of its shard, and the shapes of its dense tensors."""

    folder: Path
    content: bytes
    shapes: dict[str, torch.Size]

    @property
    def header(self) -> dict[str, Any]:
        (length,) = struct.unpack("<Q", self.content[:8])
        header: dict[str, Any] = json.loads(self.content[8 : 8 + length])
        return header

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = json.loads((self.folder / "config.json").read_text())
        return config

    def with_header(self, header: Any) -> bytes:
        """The shard with another header before the same data."""
        (length,) = struct.unpack("<Q", self.content[:8])
        written = json.dumps(header).encode()
        return struct.pack("<Q", len(written)) + written + self.content[8 + length :]

    @contextmanager
    def damaged(
        self, content: bytes | None = None, config: Any = None, index: bytes | None = None
    ) -> Iterator[Path]:
        """A copy with another shard, another config or another shard index."""
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent, "packed")
            shutil.copytree(self.folder, folder)
            if content is not None:
                (folder / SHARD).write_bytes(content)
            if config is not None:
                (folder / "config.json").write_text(json.dumps(config))
            if index is not None:
                (folder / INDEX).write_bytes(index)
            yield folder


@pytest.fixture(scope="module")
def pack(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    model = make_model("llama", num_hidden_layers=1, hidden_size=16, vocab_size=24, dtype="bfloat16")
    dense, folder = tmp_path_factory.mktemp("packs") / "dense", tmp_path_factory.mktemp("packs") / "packed"
    shutil.copytree(model, dense)
    tensors = load_file(dense / "model.safetensors")
    layers = [name.removesuffix(WEIGHT) for name in tensors if "proj" in name]
    for layer in layers:
        W = tensors[layer + WEIGHT]
        W[~top_n_mask(W.float().abs(), PATTERN)] = 0
    save(tensors, dense / "model.safetensors")
    packing = PackingConfig(pattern=PATTERN, layers=dict.fromkeys(layers, "linear"))
    pack_checkpoint(Checkpoint(dense), folder, packing)
    return Pack(folder, (folder / SHARD).read_bytes(), {name: tensor.shape for name, tensor in tensors.items()})


def same(a: Tensor, b: Tensor) -> bool:
    """Bit for bit, so that NaN is NaN."""
    return a.shape == b.shape and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def dense_of(folder: Path) -> dict[str, Tensor]:
    """What the folder's shard says, by the names of dense tensors, as docs/packed-format.md reads it."""
    stored = load_file(folder / SHARD)
    for name in [name for name in stored if name.endswith(VALUES)]:
        layer = name.removesuffix(VALUES)
        stored[layer + WEIGHT] = unpack(stored.pop(name), stored.pop(layer + MASK), PATTERN)
    return stored


def loaded_or_refused(
    pack: Pack, folder: Path, load: Callable[[Path], Any] = AutoModelForCausalLM.from_pretrained
) -> str | None:
    """Has transformers `load` the folder and eggs unpack it: both give what it says, in the shapes of before, or
    both refuse it, for the reason that is returned."""
    out = folder.with_name("unpacked")
    try:
        with quiet():
            model = load(folder)
    except (BrokenPack, BrokenCheckpoint) as error:
        with pytest.raises((BrokenPack, BrokenCheckpoint)):
            unpack_checkpoint(folder, out)
        assert [path.name for path in folder.parent.iterdir()] == [folder.name]
        return str(error)
    unpack_checkpoint(folder, out)
    found, expected = load_file(out / SHARD), dense_of(folder)
    assert found.keys() == expected.keys()
    assert all(same(found[name], tensor) for name, tensor in expected.items())
    for name, shape in pack.shapes.items():
        module = model.get_submodule(name.removesuffix(WEIGHT))
        assert isinstance(module, PackedLinear) == ("proj" in name)
        assert module.weight.shape == found[name].shape == shape, name
        assert same(module.weight, found[name].to(module.weight.dtype)), name
    return None


@st.composite
def shards(draw: st.DrawFn, pack: Pack) -> bytes:
    """The shard with other bytes, fewer, more, cut off, or with another header."""
    content = pack.content
    told = 8 + len(json.dumps(pack.header))
    place = st.one_of(st.integers(0, told), st.integers(0, len(content)))
    match draw(st.sampled_from(["changed", "removed", "inserted", "truncated", "header"])):
        case "changed":
            return draw(altered(content, told))
        case "removed":
            first = draw(place)
            return content[:first] + content[first + draw(st.integers(1, 64)) :]
        case "inserted":
            first = draw(place)
            return content[:first] + draw(st.binary(min_size=1, max_size=64)) + content[first:]
        case "truncated":
            return content[: draw(place)]
    header = pack.header
    names = st.sampled_from(sorted(header.keys() - {"__metadata__"}))
    for _ in range(draw(st.integers(1, 3))):
        name = draw(names)
        if not isinstance(entry := header.get(name), dict):
            continue  # renamed, or damaged before
        match draw(st.sampled_from(["dtype", "shape", "turn", "layer", "offsets", "name", "swap", "lack", "any"])):
            case "dtype":
                entry["dtype"] = draw(st.sampled_from(DTYPES))
            case "shape":
                entry["shape"] = draw(st.lists(st.integers(-1, 2**64), max_size=4))
            case "turn":
                shape = entry["shape"]
                entry["shape"] = draw(st.sampled_from([shape[::-1], [*shape, 1], [1, *shape]]))
            case "layer":  # another shape, which values and mask agree on
                layer = name.removesuffix(VALUES).removesuffix(MASK)
                for part in (layer + VALUES, layer + MASK):
                    if isinstance(header.get(part), dict):
                        rows, columns = pack.header[part]["shape"]
                        header[part]["shape"] = [rows * 2, columns // 2]
            case "offsets":
                entry["data_offsets"] = draw(st.lists(st.integers(-1, len(content)), max_size=3))
            case "name":
                header[draw(st.text(max_size=8) | names)] = header.pop(name)
            case "swap":
                other = draw(names)
                header[name], header[other] = header.get(other, entry), entry
            case "lack":
                del header[name]
            case "any":
                header[name] = draw(ANYTHING)
                break
    return pack.with_header(header)


DTYPES = ["F16", "BF16", "I16", "U16", "F32", "U8", "I8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4"]
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def entries(draw: st.DrawFn, pack: Pack) -> dict[str, Any]:
    """`quantization_config` with other entries, more or fewer. `quant_method` stays: transformers reads it before
    it knows that the checkpoint is this project's."""
    result: dict[str, Any] = pack.config["quantization_config"]
    layers = result["layers"]
    for _ in range(draw(st.integers(1, 2))):
        match draw(st.sampled_from(["set", "add", "lack", "layer", "pattern", "version"])):
            case "set":
                result[draw(st.sampled_from(["version", "pattern", "layers"]))] = draw(ANYTHING)
            case "add":
                result[draw(st.sampled_from(["self", "dequantize"]) | st.text(max_size=8))] = draw(ANYTHING)
            case "lack":
                result.pop(draw(st.sampled_from(["version", "pattern", "layers"])), None)
            case "pattern":
                result["pattern"] = draw(st.sampled_from(["1:4", "4:8", "8:16", "2:4 ", "4:4", "1:2", "0:4", "x"]))
            case "version":
                result["version"] = draw(st.sampled_from([0, 1.0, 2, True, "1", None]))
            case "layer":
                names = st.sampled_from([*layers, "lm_head", "model.norm", "model.embed_tokens", "model", "", "."])
                kind = draw(st.sampled_from(["linear", "conv1d", "embedding"]))
                if draw(st.booleans()):
                    layers[draw(names | st.text(max_size=8))] = kind
                else:
                    layers.pop(draw(names), None)
    return result


@st.composite
def indexes(draw: st.DrawFn, pack: Pack) -> bytes:
    """The shard index with other bytes, cut off, or with other entries."""
    content = (pack.folder / INDEX).read_bytes()
    match draw(st.sampled_from(["changed", "truncated", "entries", "any"])):
        case "changed":
            return draw(altered(content, len(content)))
        case "truncated":
            return content[: draw(st.integers(0, len(content)))]
        case "any":
            return json.dumps(draw(ANYTHING)).encode()
    index = json.loads(content)
    names = st.sampled_from(sorted(index["weight_map"]))
    for _ in range(draw(st.integers(1, 3))):
        match draw(st.sampled_from(["part", "lack", "add", "file", "no layer"])):
            case "part":
                index[draw(st.sampled_from(["metadata", "weight_map"]))] = draw(ANYTHING)
                break
            case "lack":
                index["weight_map"].pop(draw(names), None)
            case "add":
                index["weight_map"][draw(st.text(max_size=8))] = SHARD
            case "file":
                others = st.sampled_from(["model-00002-of-00002.safetensors", "config.json", f"../{SHARD}", ""])
                index["weight_map"][draw(names)] = draw(others | st.text(max_size=8))
            case "no layer":
                index["weight_map"] = {}
    return json.dumps(index).encode()


def test_what_is_whole_loads(pack: Pack) -> None:
    with pack.damaged() as folder:
        assert loaded_or_refused(pack, folder) is None


@settings(max_examples=100)
@given(data=st.data())
def test_whatever_is_done_to_the_weights(pack: Pack, data: st.DataObject) -> None:
    with pack.damaged(data.draw(shards(pack))) as folder:
        loaded_or_refused(pack, folder)


@settings(max_examples=100)
@given(data=st.data())
def test_whatever_config_json_says_of_the_packing(pack: Pack, data: st.DataObject) -> None:
    with pack.damaged(config=pack.config | {"quantization_config": data.draw(entries(pack))}) as folder:
        loaded_or_refused(pack, folder)


@settings(max_examples=100)
@given(data=st.data())
def test_whatever_the_shard_index_says(pack: Pack, data: st.DataObject) -> None:
    """As `eggs generate` and `eggs serve-model` load it: transformers itself fails in any way."""
    with pack.damaged(index=data.draw(indexes(pack))) as folder:
        loaded_or_refused(pack, folder, lambda folder: load(folder)[0])


def test_a_shard_index_without_metadata_is_whole(pack: Pack) -> None:
    index = json.loads((pack.folder / INDEX).read_text())
    del index["metadata"]
    with pack.damaged(index=json.dumps(index).encode()) as folder:
        assert loaded_or_refused(pack, folder, lambda folder: load(folder)[0]) is None
