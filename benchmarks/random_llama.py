"""A randomly initialised Llama of any size on disk, with the byte-level vocabulary of its tokenizer."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, PreTrainedTokenizerFast

from eggs_core.checkpoint import CheckpointWriter


def save_model(
    folder: Path, *, blocks: int, hidden: int, inner: int, head: int, length: int, vocabulary: int = 256
) -> None:
    """Writes it in bfloat16, a block at a time, without ever holding it whole.

    `head` is the size of an attention head, `length` the longest text it takes, in tokens; its tokenizer knows 256
    of the tokens in its `vocabulary`.
    """
    alphabet = {token: i for i, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=blocks,
        num_attention_heads=hidden // head,
        max_position_embeddings=length,
        tie_word_embeddings=True,
        dtype="bfloat16",
    ).save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).mul_(0.02).bfloat16()

    writer = CheckpointWriter(folder, blocks + 1)
    ones = torch.ones(hidden, dtype=torch.bfloat16)
    writer.write(0, {"model.embed_tokens.weight": random(vocabulary, hidden), "model.norm.weight": ones})
    for i in range(blocks):
        attention = {f"self_attn.{name}_proj": random(hidden, hidden) for name in "qkvo"}
        mlp = {
            "gate_proj": random(inner, hidden),
            "up_proj": random(inner, hidden),
            "down_proj": random(hidden, inner),
        }
        layers = attention | {f"mlp.{name}": weight for name, weight in mlp.items()}
        tensors = {f"model.layers.{i}.{name}.weight": weight for name, weight in layers.items()}
        tensors[f"model.layers.{i}.input_layernorm.weight"] = ones
        tensors[f"model.layers.{i}.post_attention_layernorm.weight"] = ones.clone()
        writer.write(i + 1, tensors)
    writer.finish()
