"""What calibration gathers, and what it leaves alone."""

import pytest
import torch
from torch import Tensor, nn

from eggs_core import products
from eggs_core.checkpoint import Checkpoint
from eggs_core.layers import prunable_layers
from eggs_core.skeleton import Skeleton
from eggs_core.spec import DEFAULT_IGNORE
from eggs_core.statistics import InputStatistics, gather
from eggs_core.stream import BlockCall, BlockStream
from tests.tiny_models import MakeModel


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inputs_are_left_as_they_are(dtype: torch.dtype) -> None:
    """The layer that is fed them has yet to run."""
    X = torch.randn(3, 50, 8).to(dtype)
    before = X.clone()
    statistics = InputStatistics(keep_every=7, with_gram=False)
    statistics.add(X)
    assert torch.equal(X, before)
    assert statistics.norm is not None
    assert torch.allclose(statistics.norm, X.float().flatten(0, 1).norm(dim=0))
    assert statistics.sample is not None
    assert torch.equal(statistics.sample, X.flatten(0, 1)[::7])


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "mixtral"])
def test_blocks_run_no_further_than_to_their_last_layers(family: str, make_model: MakeModel) -> None:
    """The statistics are those of whole calls, and the last product is left out where experts do not differ."""
    skeleton = Skeleton(Checkpoint(make_model(family)), torch.device("cpu"))
    tokens = torch.randint(1, 300, (3, 1024 // 8), generator=torch.Generator().manual_seed(0))
    stream = BlockStream(skeleton, tokens, batches=3)
    hidden = stream.embed()
    whole_calls = []

    def visit(index: int, block: nn.Module, call: BlockCall) -> None:
        layers = prunable_layers(block, skeleton.block_names[index], DEFAULT_IGNORE)
        finished = 0

        def counted(states: Tensor) -> Tensor:
            nonlocal finished
            output = call(states)
            finished += 1
            return output

        with gather(layers, tokens.numel(), gram_bytes=1 << 30) as fed:
            for states in hidden:
                fed.feed(counted, states)
        whole_calls.append(finished)
        with gather(layers, tokens.numel(), gram_bytes=1 << 30) as expected:
            for i, states in enumerate(hidden):
                hidden[i] = call(states)
        assert fed.keys() == expected.keys()
        for name, entry in expected.items():
            assert fed[name].tokens == entry.tokens
            assert torch.equal(fed[name].gram, entry.gram)

    with torch.no_grad():
        stream.run(visit)
    assert set(whole_calls) == ({3} if family == "mixtral" else {1})


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_experts_are_seen_where_a_processor_has_no_products_of_16_bits(
    family: str, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their products are taken in float32 then, of other tensors than the layers'."""
    skeleton = Skeleton(Checkpoint(make_model(family, dtype="bfloat16")), torch.device("cpu"))
    tokens = torch.randint(1, 300, (4, 32), generator=torch.Generator().manual_seed(0))
    seen: list[dict[str, int]] = []

    def visit(index: int, block: nn.Module, call: BlockCall) -> None:
        layers = prunable_layers(block, skeleton.block_names[index], DEFAULT_IGNORE)
        assert any(layer.expert is not None for layer in layers)
        with gather(layers, tokens.numel()) as statistics:
            for states in hidden:
                call(states)
        seen.append({layer.name: statistics[layer.name].tokens for layer in layers if layer.name in statistics})

    for native in (True, False):
        monkeypatch.setattr(products, "native", lambda dtype, native=native: native)
        stream = BlockStream(skeleton, tokens)
        hidden = stream.embed()
        stream.run(visit)
    half = len(seen) // 2
    assert [layers.keys() for layers in seen[:half]] == [layers.keys() for layers in seen[half:]]
    assert all(".experts." in " ".join(layers) for layers in seen)
