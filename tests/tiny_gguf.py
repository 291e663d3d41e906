"""A small random Llama as GGUF, honest or not."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from transformers import PreTrainedTokenizerFast

from tests.tiny_models import VOCABULARY

HIDDEN, MLP, HEADS, BLOCKS = 32, 64, 4, 1


def write_gguf(
    file: Path,
    tokenizer: PreTrainedTokenizerFast,
    *,
    numbers: dict[str, int] | None = None,
    without: tuple[str, ...] = (),
) -> dict[str, "np.ndarray[Any, Any]"]:
    """Writes the model and returns its tensors; `numbers` take the place of those in its metadata."""
    writer = gguf.GGUFWriter(file, "llama")
    settings = {
        "llama.block_count": BLOCKS,
        "llama.context_length": 128,
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": MLP,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": HEADS,
        "llama.rope.dimension_count": HIDDEN // HEADS,
        "llama.vocab_size": VOCABULARY,
    }
    for key, value in (settings | (numbers or {})).items():
        (writer.add_uint32 if value < 2**32 else writer.add_uint64)(key, value)
    writer.add_layer_norm_rms_eps(1e-5)
    content: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = tokenizer.get_vocab()
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(vocabulary, key=lambda token: vocabulary[token]))
    writer.add_token_merges([" ".join(merge) for merge in content["model"]["merges"]])
    writer.add_token_types([1] * len(vocabulary))
    writer.add_eos_token_id(0)
    matrix = {
        "attn_q": (HIDDEN, HIDDEN),
        "attn_k": (HIDDEN, HIDDEN),
        "attn_v": (HIDDEN, HIDDEN),
        "attn_output": (HIDDEN, HIDDEN),
        "ffn_gate": (MLP, HIDDEN),
        "ffn_up": (MLP, HIDDEN),
        "ffn_down": (HIDDEN, MLP),
        "attn_norm": (HIDDEN,),
        "ffn_norm": (HIDDEN,),
    }
    shapes = {f"blk.{block}.{name}.weight": shape for block in range(BLOCKS) for name, shape in matrix.items()}
    shapes |= {"token_embd.weight": (VOCABULARY, HIDDEN), "output_norm.weight": (HIDDEN,)}
    shapes |= {"output.weight": (VOCABULARY, HIDDEN)}
    random = np.random.default_rng(0)
    tensors = {name: random.normal(scale=0.2, size=shape).astype(np.float32) for name, shape in shapes.items()}
    for name in [name for name in tensors if name not in without]:
        if tensors[name].ndim == 2 and name.startswith("blk"):
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(tensors[name], kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensors[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors
