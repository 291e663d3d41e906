"""Small random models of every family, with a tokenizer, saved as a user's checkpoint would be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

# Threads cost more than they save on matrices this small, above all on a busy machine.
torch.set_num_threads(1)

VOCABULARY = 384
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
# Of those whose blocks are given the text itself, and the keys and values of others.
_GIVEN_THE_TEXT = {
    "head_dim": 8,
    "hidden_size_per_layer_input": 16,
    "vocab_size_per_layer_input": VOCABULARY,
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "sliding_window": 16,
}
# What each family's config calls things differently, or wants besides.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"head_dim": 8, "sliding_window": 16},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8},
    "gemma3_text": {"head_dim": 8, "sliding_window": 16, "num_hidden_layers": 3, "sliding_window_pattern": 2},
    "gemma3n_text": {
        **_GIVEN_THE_TEXT,
        "intermediate_size": [64] * 4,
        "activation_sparsity_pattern": [0.0] * 4,
        "laurel_rank": 8,
    },
    "gemma4_text": {**_GIVEN_THE_TEXT, "global_head_dim": 8},
    "phi3": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_inner": 64},
    "gpt_neox": {},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "stablelm": {},
    "olmo2": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16},
    "qwen3_moe": {
        "head_dim": 8,
        "moe_intermediate_size": 16,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
    },
}

MakeModel = Callable[..., Path]


def bring_code(folder: Path, trace: Path) -> None:
    """Gives a model code of its own for config, model and tokenizer, as the Hub has it; run, it makes `trace`."""
    code = f"import pathlib\n\npathlib.Path({str(trace)!r}).touch()\n\n\nclass Own:\n    pass\n"
    (folder / "own.py").write_text(code)
    for name, classes in (
        ("config.json", {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["own.Own", "own.Own"]}),
    ):
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(settings | {"auto_map": classes}))


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on the topics of Python's help."""
    from pydoc_data.topics import topics

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(topics.values(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> MakeModel:
    """Makes a checkpoint of a family, `make_model("llama", num_hidden_layers=3)`; equal calls share one."""
    made: dict[str, Path] = {}

    def make(family: str, *, max_shard_size: str = "5GB", dtype: str = "float32", **changes: Any) -> Path:
        key = repr((family, max_shard_size, dtype, sorted(changes.items())))
        if key not in made:
            values = COMMON | FAMILIES.get(family, {}) | changes
            config = AutoConfig.for_model(family, **values)
            transformers.set_seed(0)
            model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
            # The families' own initialisation is so small that rounding would hide mistakes.
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.ndim >= 2:
                        parameter.normal_(std=0.2)
            folder = tmp_path_factory.mktemp(family)
            model.save_pretrained(folder, max_shard_size=max_shard_size)
            tokenizer.save_pretrained(folder)
            made[key] = folder
        return made[key]

    return make
