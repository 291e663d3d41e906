"""What streaming keeps of the blocks it has run, and what it gives of them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from eggs_core.checkpoint import Checkpoint
from eggs_core.errors import UnsupportedModel
from eggs_core.evaluate import perplexity
from eggs_core.skeleton import Skeleton
from eggs_core.stream import MAX_BATCH_TOKENS, BlockCall, BlockStream
from tests.tiny_models import MakeModel


def test_attention_of_all_blocks_is_not_held(make_model: MakeModel) -> None:
    skeleton = Skeleton(Checkpoint(make_model("gptj", rotary_dim=4)), torch.device("cpu"))
    stream = BlockStream(skeleton, torch.arange(1, 33)[None])
    returned: list[Any] = []

    def visit(index: int, block: nn.Module, call: BlockCall) -> None:
        nonlocal hidden
        hidden = [call(states) for states in hidden]
        returned.extend(call.outputs)

    hidden = stream.embed()
    stream.run(visit)
    assert any(isinstance(part, Tensor) for output in returned for part in output[1:]), "this family returns more"
    assert not [part for _, rest in stream._forms for part in rest if isinstance(part, Tensor)]
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(skeleton.checkpoint.folder)(torch.arange(1, 33)[None])
    torch.testing.assert_close(stream.logits(0, hidden[0]), expected.logits)


@torch.no_grad()
def test_what_dense_states_leave_for_later_blocks_is_kept_apart(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MAX_BATCH_TOKENS, "cpu", 20)
    tokens = torch.randint(1, 300, (3, 20), generator=torch.Generator().manual_seed(1))
    stream = BlockStream(Skeleton(Checkpoint(make_model("gemma4_text")), torch.device("cpu")), tokens)
    dense = stream.embed()
    hidden = [states * 2 for states in dense]
    expected = list(dense)

    def alone(index: int, block: nn.Module, call: BlockCall) -> None:
        expected[:] = [call(states, i) for i, states in enumerate(expected)]

    def beside_others(index: int, block: nn.Module, call: BlockCall) -> None:
        dense[:] = [call(states, i, dense=True) for i, states in enumerate(dense)]
        hidden[:] = [call(states, i) for i, states in enumerate(hidden)]
        assert call.leaves == (index < 2)

    stream.run(alone)
    stream.run(beside_others)
    assert all(map(torch.equal, dense, expected))
    assert not any(map(torch.equal, hidden, expected))


def test_blocks_that_are_given_what_several_before_them_return_are_refused(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first one is given is the same for all windows."""
    monkeypatch.setitem(MAX_BATCH_TOKENS, "cpu", 20)
    folder = make_model("inkling2_text", head_dim=8, num_experts_per_tok=2, moe_intermediate_size=16)
    tokens = torch.randint(1, 300, (3, 20), generator=torch.Generator().manual_seed(1))
    with pytest.raises(UnsupportedModel, match="of what blocks before them return"):
        perplexity(Skeleton(Checkpoint(folder), torch.device("cpu")), tokens)


def test_blocks_that_share_keys_without_being_given_them_are_refused(make_model: MakeModel) -> None:
    """As those of Gemma 3n are by transformers before 5.6; without them a block makes up keys of its own."""
    folder = make_model("llama", num_kv_shared_layers=1)
    tokens = torch.randint(1, 300, (1, 20), generator=torch.Generator().manual_seed(1))
    with pytest.raises(UnsupportedModel, match="share keys and values"):
        perplexity(Skeleton(Checkpoint(folder), torch.device("cpu")), tokens)
