"""Packed checkpoints: what a run leaves, what transformers makes of it, the way back, and damage."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from eggs_core import kernels
from eggs_core.checkpoint import Checkpoint
from eggs_core.errors import BrokenCheckpoint, BrokenPack, EggsError
from eggs_core.packed_checkpoint import unpack_checkpoint
from eggs_core.packed_linear import SMALL_BATCH, PackedLinear
from eggs_core.packing_config import MASK, VALUES
from eggs_core.pipeline import prune
from eggs_core.report import Report
from eggs_core.spec import OutputSpec, PruneSpec
from tests.conftest import files_of
from tests.tiny_models import MakeModel

SHORT = {"samples": 4, "sequence_length": 48}
# A family of each way in which layers are kept, and one whose experts are not packed.
FAMILIES = ["llama", "qwen2", "phi3", "gpt2", "opt", "mixtral"]


@pytest.fixture(scope="module")
def pruned(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Report]]:
    """Prunes a family's model, `pruned("llama", format="both")`, once for each way; its folder is not to be
    changed."""
    done: dict[str, tuple[Path, Report]] = {}

    def run(family: str, form: str = "both", **changes: Any) -> tuple[Path, Report]:
        key = repr((family, form, sorted(changes.items())))
        if key not in done:
            folder = tmp_path_factory.mktemp("runs")
            spec = PruneSpec.model_validate(
                {"model": str(make_model(family)), "method": "ria", "calibration": SHORT, "evaluation": None}
                | {"output": {"format": form}}
                | changes
            )
            done[key] = folder / "out", prune(spec, folder / "out", cache_dir=folder)
        return done[key]

    return run


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()


def bytes_in_memory(model: Any) -> int:
    """Of all storages of a loaded model."""
    storages = [tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def config_of(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text())


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_packed_model_is_the_dense_one(family: str, pruned: Any, tmp_path: Path) -> None:
    out, report = pruned(family)
    dense, packed = load(out), load(out / "packed")
    layers = {name: m for name, m in packed.named_modules() if isinstance(m, PackedLinear)}
    assert layers
    for name, module in layers.items():
        own = dense.get_submodule(name)
        W = own.weight.T if type(own).__name__ == "Conv1D" else own.weight
        assert torch.equal(module.weight, W), name
    tokens = torch.randint(1, 300, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for length in (1, 3, SMALL_BATCH, 40):  # by the kernel, and by tiles
            a, b = dense(tokens[:, :length]).logits, packed(tokens[:, :length]).logits
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    unpacked = unpack_checkpoint(out / "packed", tmp_path / "unpacked")
    expected = tensors_of(out)
    assert unpacked.file_of.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors_of(tmp_path / "unpacked").items())
    assert config_of(tmp_path / "unpacked") == config_of(out)
    sizes = report.bytes
    assert sizes.packed_checkpoint == Checkpoint(out / "packed").nbytes() < sizes.pruned_checkpoint
    assert (sizes.pruned_in_memory, sizes.packed_in_memory) == (bytes_in_memory(dense), bytes_in_memory(packed))


def test_packing_loads_no_model(make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run without generations, tasks and speed never holds more than a block, packing included."""
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("a whole model"))
    spec = PruneSpec.model_validate(
        {"model": str(make_model("llama")), "effort": "fast", "calibration": SHORT}
        | {"evaluation": {"samples": 2, "sequence_length": 48, "generations": 0}}
    )
    assert prune(spec, tmp_path / "out", cache_dir=tmp_path).bytes.packed_in_memory


def test_every_dtype_and_pattern_survives_a_job(make_model: MakeModel, tmp_path: Path) -> None:
    for dtype, pattern in (("bfloat16", "1:4"), ("float16", "3:8"), ("float32", "16:32")):
        spec = PruneSpec.model_validate(
            {"model": str(make_model("llama", dtype=dtype)), "pattern": pattern, "calibration": SHORT}
            | {"evaluation": None, "effort": "fast"}
        )
        out = tmp_path / dtype
        prune(spec, out, cache_dir=tmp_path)
        unpack_checkpoint(out / "packed", tmp_path / f"{dtype}-unpacked")
        expected = tensors_of(out)
        for name, tensor in tensors_of(tmp_path / f"{dtype}-unpacked").items():
            assert torch.equal(tensor.view(torch.uint8), expected[name].view(torch.uint8)), name


def test_what_each_format_leaves(pruned: Any) -> None:
    names: dict[str, set[str]] = {}
    for form in ("dense", "packed", "both"):
        out, report = pruned("llama", form)
        names[form] = files_of(out)
        subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=out, check=True)
        listed = {line.split("  ")[1] for line in (out / "SHA256SUMS").read_text().splitlines()}
        assert listed == names[form] - {"SHA256SUMS"}
        assert (report.bytes.packed_checkpoint is None) == (form == "dense")
    assert names["dense"] == names["packed"]
    assert {name for name in names["both"] if "/" not in name} == names["dense"]
    dense, packed = (config_of(pruned("llama", form)[0]) for form in ("dense", "packed"))
    assert "quantization_config" not in dense
    assert packed["quantization_config"]["pattern"] == "2:4"
    assert isinstance(load(pruned("llama", "packed")[0]).model.layers[0].mlp.up_proj, PackedLinear)


def test_transformers_learns_of_packed_models_whichever_is_imported_first(pruned: Any) -> None:
    out, _ = pruned("llama")
    for first, second in (("eggs_core", "transformers"), ("transformers", "eggs_core")):
        program = (
            f"import {first}, {second}\n"
            "from transformers import AutoModelForCausalLM\n"
            f"model = AutoModelForCausalLM.from_pretrained({str(out / 'packed')!r})\n"
            "print(type(model.model.layers[0].mlp.up_proj).__name__)"
        )
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert run.stdout.strip() == "PackedLinear"


def test_it_is_generated_from_compiled_saved_and_differentiated(pruned: Any, tmp_path: Path) -> None:
    out, _ = pruned("llama")
    dense, packed = load(out), load(out / "packed")
    prompt = torch.randint(1, 300, (1, 20), generator=torch.Generator().manual_seed(0))
    options = {"max_new_tokens": 16, "do_sample": False, "attention_mask": torch.ones_like(prompt)}
    assert torch.equal(dense.generate(prompt, **options), packed.generate(prompt, **options))
    with torch.no_grad():
        compiled = torch.compile(packed, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(prompt).logits, packed(prompt).logits)
    packed.save_pretrained(tmp_path / "again")
    assert torch.equal(load(tmp_path / "again")(prompt).logits, packed(prompt).logits)
    gradients = []
    for model in (dense, packed):
        embedded = model.get_input_embeddings()(prompt).detach().requires_grad_()
        model(inputs_embeds=embedded).logits.square().sum().backward()
        gradients.append(embedded.grad)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)
    embedded = packed.get_input_embeddings()(prompt).detach().requires_grad_()
    compiled(inputs_embeds=embedded).logits.square().sum().backward()
    torch.testing.assert_close(embedded.grad, gradients[1])


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_a_loaded_model_becomes_the_dense_one(family: str, pruned: Any, tmp_path: Path) -> None:
    """By transformers' own name for it, and to the bit: what it saves is the dense checkpoint."""
    out, _ = pruned(family)
    model = load(out / "packed").dequantize()
    assert not any(isinstance(module, PackedLinear) for module in model.modules())
    model.save_pretrained(tmp_path)
    saved, expected = tensors_of(tmp_path), tensors_of(out)
    assert saved.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in saved.items())
    assert "quantization_config" not in config_of(tmp_path)
    tokens = torch.randint(1, 300, (1, 20), generator=torch.Generator().manual_seed(0))
    model(tokens, labels=tokens).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert load(out / "packed").dequantize(torch.float64)(tokens).logits.dtype is torch.float64


def test_a_dtype_that_packed_weights_do_not_have_is_not_called_damage(pruned: Any) -> None:
    out, _ = pruned("llama")
    with pytest.raises(TypeError, match="Packed weights cannot be torch"):
        AutoModelForCausalLM.from_pretrained(out / "packed", dtype=torch.float64)


def test_the_operator_keeps_torchs_rules(pruned: Any) -> None:
    out, _ = pruned("llama")
    layer = load(out / "packed").model.layers[0].mlp.up_proj
    for x in (torch.randn(2, 3, layer.in_features), torch.randn(20, layer.in_features)):
        arguments = (x, layer.weight_values.data, layer.weight_mask, None, 2, 4)
        torch.library.opcheck(torch.ops.eggs.nm_linear.default, arguments)


def test_without_a_compiler_torch_computes_and_says_so(pruned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = pruned("llama")
    dense, packed = load(out), load(out / "packed")
    monkeypatch.setattr(kernels, "_compiled", None)
    prompt = torch.arange(1, 9)[None]
    with torch.no_grad(), pytest.warns(UserWarning, match="without a C compiler"):
        torch.testing.assert_close(packed(prompt).logits, dense(prompt).logits)


Damage = Callable[[Path], None]


def _config(**changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        config = config_of(folder)
        config["quantization_config"] |= changes
        (folder / "config.json").write_text(json.dumps(config))

    return damage


def _tensor(name: str, change: Callable[[Tensor], Tensor]) -> Damage:
    def damage(folder: Path) -> None:
        file = Checkpoint(folder).file_of[name]
        tensors = load_file(file)
        tensors[name] = change(tensors[name].clone()).contiguous()
        save_file(tensors, file, {"format": "pt"})

    return damage


def _first_byte_of_mask(byte: int) -> Damage:
    return _tensor(f"{LAYER}{MASK}", lambda mask: mask.index_fill(1, torch.tensor([0]), byte))


def _without(name: str) -> Damage:
    def damage(folder: Path) -> None:
        file = Checkpoint(folder).file_of[name]
        tensors = load_file(file)
        del tensors[name]
        save_file(tensors, file, {"format": "pt"})

    return damage


def _layers(change: Callable[[dict[str, str]], dict[str, str]]) -> Damage:
    return lambda folder: _config(layers=change(config_of(folder)["quantization_config"]["layers"]))(folder)


def _reshaped(folder: Path) -> None:
    for part, columns in ((VALUES, 16), (MASK, 3)):
        _tensor(f"{LAYER}{part}", lambda tensor, columns=columns: tensor.reshape(-1, columns))(folder)


def _truncated(folder: Path) -> None:
    file = max(folder.glob("*.safetensors"), key=lambda file: file.stat().st_size)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


LAYER = "model.layers.1.mlp.down_proj"
SQUARE = "model.layers.1.self_attn.q_proj"
NORM = "model.layers.1.input_layernorm.weight"
DAMAGES: dict[str, tuple[Damage, str]] = {
    "a later version": (_config(version=3), "reads 2"),
    "an earlier version": (_config(version=1), "reads 2"),
    "no version": (_config(version=None), "reads 2"),
    "no pattern": (_config(pattern="4:2"), "pattern"),
    "another entry": (_config(blocks=3), "blocks"),
    "another kind": (_config(layers={LAYER: "embedding"}), "layers"),
    "another pattern": (_config(pattern="1:4"), "q_proj.*shapes"),
    "groups that keep all": (_first_byte_of_mask(0b01101101), "down_proj"),
    "groups that keep none": (_first_byte_of_mask(0), "down_proj"),
    "a row too few": (_tensor(f"{LAYER}.weight_values", lambda values: values[1:]), "down_proj"),
    "no values": (_tensor(f"{LAYER}.weight_values", lambda values: values[:, :0]), "down_proj"),
    "another shape, which both agree on": (_reshaped, "down_proj.* has shape"),
    "lacking values": (_without(f"{LAYER}.weight_values"), "lacks 1 weights, such as .*down_proj.weight_values"),
    "values of whole numbers": (_tensor(f"{LAYER}.weight_values", lambda v: v.view(torch.int32)), "down_proj"),
    "another weight of whole numbers": (_tensor(NORM, lambda weight: weight.view(torch.int32)), NORM),
    "another weight of another shape": (_tensor(NORM, lambda weight: weight[1:]), f"{NORM} has shape"),
    "lacking another weight": (_without(NORM), f"lacks 1 weights, such as {NORM}"),
    "a layer that is not named": (_layers(lambda layers: {SQUARE: layers[SQUARE]}), "does not name"),
    "a layer that is stored the other way round": (_layers(lambda all: all | {SQUARE: "conv1d"}), "q_proj.*is a"),
    "a norm as a layer": (_layers(lambda all: all | {"model.norm": "linear"}), "model.norm.*no such layer"),
    "a table as a layer": (_layers(lambda all: all | {"model.embed_tokens": "linear"}), "no such layer"),
    "an entry called self": (_config(self=1), "quantization_config.self"),
    "a file that ends too early": (_truncated, "safetensors is not a readable"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_refused_with_the_place(name: str, pruned: Any, tmp_path: Path) -> None:
    damage, place = DAMAGES[name]
    folder = tmp_path / "damaged"
    shutil.copytree(pruned("llama")[0] / "packed", folder)
    damage(folder)
    with pytest.raises((BrokenPack, BrokenCheckpoint), match=place):
        unpack_checkpoint(folder, tmp_path / "unpacked")
    assert files_of(tmp_path) == {f"damaged/{name}" for name in files_of(folder)}
    with pytest.raises((BrokenPack, BrokenCheckpoint), match=place):
        load(folder)


def test_other_folders_are_told_from_packed_ones(pruned: Any, tmp_path: Path) -> None:
    out, _ = pruned("llama")
    with pytest.raises(BrokenPack, match="not say that"):
        unpack_checkpoint(out, tmp_path / "unpacked")
    folder = tmp_path / "damaged"
    shutil.copytree(out / "packed", folder)
    (folder / "config.json").write_text("[1]")
    with pytest.raises(BrokenCheckpoint):
        unpack_checkpoint(folder, tmp_path / "unpacked")
    (folder / "config.json").write_text("[" * 200_000)
    with pytest.raises(BrokenCheckpoint):
        unpack_checkpoint(folder, tmp_path / "unpacked")
    (folder / "config.json").unlink()
    with pytest.raises(BrokenCheckpoint, match=r"no config\.json"):
        unpack_checkpoint(folder, tmp_path / "unpacked")
    os.mkfifo(folder / "config.json")
    with pytest.raises(BrokenCheckpoint, match="a pipe"):
        unpack_checkpoint(folder, tmp_path / "unpacked")
    (folder / "config.json").unlink()
    shutil.copyfile(out / "packed" / "config.json", folder / "config.json")
    _truncated(folder)
    with pytest.raises(EggsError):
        unpack_checkpoint(folder, tmp_path / "unpacked")
    file = Checkpoint(out / "packed").file_of[f"{LAYER}.weight_mask"]
    shutil.copytree(out / "packed", tmp_path / "lacking")
    tensors = load_file(file)
    del tensors[f"{LAYER}.weight_mask"]
    save_file(tensors, tmp_path / "lacking" / file.name, {"format": "pt"})
    with pytest.raises(BrokenCheckpoint, match=f"lacks 1 weights, such as {LAYER}.weight_mask"):
        unpack_checkpoint(tmp_path / "lacking", tmp_path / "unpacked")


def test_formats_are_asked_for_by_name() -> None:
    assert OutputSpec().format == "both"
    with pytest.raises(ValueError, match="format"):
        OutputSpec.model_validate({"format": "zip"})
