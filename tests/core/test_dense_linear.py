"""The layers that a packed model keeps dense: what they give, and when they leave it to torch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from eggs_core import products
from eggs_core.dense_linear import DenseLinear, put_dense_layers
from eggs_core.packed_linear import PackedLinear
from eggs_core.pipeline import prune
from eggs_core.spec import PruneSpec
from tests.tiny_models import MakeModel


def layer(dtype: torch.dtype = torch.bfloat16) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 96, dtype=dtype))
    weight = model[0].weight
    put_dense_layers(model)
    assert type(model[0]) is DenseLinear
    assert model[0].weight is weight
    return model[0]


def inputs(tokens: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(tokens, 64, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of each product that the operator is asked for."""
    tokens: list[int] = []
    linear = products.linear

    def counted(x: Tensor, *rest: Any) -> Tensor:
        tokens.append(len(x))
        return linear(x, *rest)

    monkeypatch.setattr(products, "linear", counted)
    return tokens


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("tokens", [1, 4, 5, 40])
def test_it_gives_what_a_linear_layer_gives(dtype: torch.dtype, tokens: int, calls: list[int]) -> None:
    dense, x = layer(dtype), inputs(tokens, dtype)
    with torch.no_grad():
        y = dense(x)
    exact = x.double() @ dense.weight.double().T + dense.bias.double()
    torch.testing.assert_close(y.double(), exact.detach(), rtol=torch.finfo(dtype).eps, atol=1e-5)
    assert calls == [tokens]


def test_gradients_and_autocast_are_left_to_torch(calls: list[int]) -> None:
    dense, x = layer(), inputs(3)
    y = dense(x)
    y.float().sum().backward()
    assert torch.equal(y, nn.functional.linear(x, dense.weight, dense.bias))
    assert dense.weight.grad is not None
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(dense(x.float()), nn.functional.linear(x, dense.weight, dense.bias))
    assert calls == []


def test_weights_of_another_kind_are_left_to_torch(calls: list[int]) -> None:
    class Quantized(Tensor):
        """As such libraries make them of a loaded model's weights."""

    dense, x = layer(), inputs(3)
    dense.weight = nn.Parameter(dense.weight.detach().as_subclass(Quantized), requires_grad=False)
    with torch.no_grad():
        assert torch.equal(dense(x), nn.functional.linear(x, dense.weight, dense.bias))
    assert calls == []


def test_it_is_compiled_in_one_graph() -> None:
    dense, x = layer(), inputs(3)
    torch.compiler.reset()
    compiled = torch.compile(dense, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(x), dense(x))
    arguments = x, dense.weight.detach(), dense.bias.detach()
    torch.library.opcheck(torch.ops.eggs.linear.default, arguments)


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_of_a_packed_model(tied: bool, make_model: MakeModel, tmp_path: Path, calls: list[int]) -> None:
    model = make_model("llama", tie_word_embeddings=tied)
    spec = PruneSpec.model_validate(
        {"model": str(model), "method": "magnitude", "evaluation": None, "output": {"format": "packed"}}
        | {"calibration": {"samples": 1, "sequence_length": 8}}
    )
    prune(spec, tmp_path / "out", cache_dir=tmp_path / "cache")
    packed = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    kinds = {type(module) for module in packed.modules() if isinstance(module, (nn.Linear, PackedLinear))}
    assert kinds == {DenseLinear, PackedLinear}
    assert (packed.lm_head.weight is packed.get_input_embeddings().weight) == tied
    with torch.no_grad():
        packed(torch.ones(2, 5, dtype=torch.int64))
    assert calls == [2]
