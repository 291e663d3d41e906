"""What streaming keeps of the blocks it has run, and what it gives of them."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from eggs_core.checkpoint import Checkpoint
from eggs_core.skeleton import Skeleton
from eggs_core.stream import BlockCall, BlockStream
from tests.tiny_models import MakeModel


def test_attention_of_all_blocks_is_not_held(make_model: MakeModel) -> None:
    skeleton = Skeleton(Checkpoint(make_model("gptj", rotary_dim=4)), torch.device("cpu"))
    stream = BlockStream(skeleton, torch.arange(1, 33)[None])
    returned: list[Any] = []

    def visit(index: int, block: nn.Module, call: BlockCall) -> None:
        nonlocal hidden
        hidden = [call(states) for states in hidden]
        returned.append(call.output)

    hidden = stream.embed()
    stream.run(visit)
    assert any(isinstance(part, Tensor) for output in returned for part in output[1:]), "this family returns more"
    assert not [part for _, rest in stream._forms for part in rest if isinstance(part, Tensor)]
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(skeleton.checkpoint.folder)(torch.arange(1, 33)[None])
    torch.testing.assert_close(stream.logits(0, hidden[0]), expected.logits)
