"""Builds the modules of a model from the config of a stranger, whose numbers may ask for any amount of them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import init_empty_weights
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedModel

from eggs_core.errors import BrokenCheckpoint, EggsError, SequenceTooLong, UnsupportedModel
from eggs_core.model_folder import CONFIG, ModelFolder

# A config makes lists as long as it counts layers before there is any module.
MAX_LAYERS = 10_000
_COUNTS_LAYERS = ("layer", "depth", "block_count")
_LENGTH_LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len")
# What is computed and not stored, such as rotary tables: megabytes, or a gigabyte for a mask of 32768 positions.
MAX_BUFFER_BYTES = 1 << 30
# What a model may have for what its checkpoint has. In the families of transformers it is no more than 3 modules
# and parameters for a tensor, and as many weights as elements, where what is tied may be stored once. The rest is
# for small ones.
_PARTS, _PARTS_FOR_A_TENSOR = 1000, 16
_WEIGHTS, _WEIGHTS_FOR_AN_ELEMENT = 1 << 24, 2


def read_config(files: ModelFolder) -> Any:
    """The config of a decoder-only model as transformers has it. Raises `UnsupportedModel` for any other."""
    try:
        with files.private() as folder:
            check_layers(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except EggsError:
        raise
    except Exception as error:  # a stranger's config fails in any way
        raise UnsupportedModel(
            "config.json names no model type that transformers can build without remote code, or has wrong values."
        ) from error
    # Encoders can be built with a causal head too, and would be measured as what they are not.
    encoder = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    if config.is_encoder_decoder or encoder:
        raise UnsupportedModel(f"{config.model_type} is not a decoder-only language model.")
    return config


def most_positions(config: Any) -> int | None:
    """The longest sequence, in tokens, that a model of this config takes; None where it does not say."""
    found = (getattr(config.get_text_config(), name, None) for name in _LENGTH_LIMITS)
    return next((most for most in found if isinstance(most, int) and most > 0), None)  # XLNet has -1 for none


def most_new_tokens(config: Any, prompt: int, wanted: int) -> int:
    """How many tokens, of as many as are wanted, a model of this config can add to a prompt of so many.

    Raises `SequenceTooLong` where the prompt leaves room for none.
    """
    most = most_positions(config)
    if most is None:
        return wanted
    if prompt >= most:
        raise SequenceTooLong(f"The prompt has {prompt} tokens, and the model takes {most} with what it adds.")
    return min(wanted, most - prompt)


def check_vocabulary(config: Any, token: int) -> None:
    """Raises `BrokenCheckpoint` where a model of this config has no such token, which its tokenizer gave."""
    size = config.get_text_config().vocab_size
    if token >= size:
        raise BrokenCheckpoint(
            f"The tokenizer gives token {token}, and the model has {size} tokens: they do not belong together. "
            "Put the model's own tokenizer into its folder."
        )


def build(config: Any, dtype: torch.dtype, *, tensors: int, elements: int) -> PreTrainedModel:
    """The config's model with parameters on the meta device and buffers in memory.

    Raises `UnsupportedModel` where transformers has none, and as `check_size` does.
    """
    check_size(config, tensors=tensors, elements=elements)
    with _explained(config), init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model


def check_size(config: Any, *, tensors: int, elements: int) -> None:
    """Raises `UnsupportedModel` where the config's model does not belong to as many tensors, with as many elements
    together: it has far more parts, weights or tables, and is not built to find out."""
    most = _PARTS + _PARTS_FOR_A_TENSOR * tensors
    with _explained(config), _counted(most), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    weights = sum(parameter.numel() for parameter in model.parameters())
    if weights > _WEIGHTS + _WEIGHTS_FOR_AN_ELEMENT * elements:
        raise UnsupportedModel(
            f"The config asks for {weights} weights, and the checkpoint has {elements}. Check its values, or "
            "complete the checkpoint."
        )
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    if buffers > MAX_BUFFER_BYTES:
        raise UnsupportedModel(
            f"The config asks for tables of {buffers / 2**30:.1f} GiB beside the weights, and "
            f"{MAX_BUFFER_BYTES / 2**30:g} GiB are the most. Check how many positions it gives the model."
        )


def check_layers(config: Any) -> None:
    """Raises `UnsupportedModel` for a config, as JSON has it, that counts layers as no model does."""
    if isinstance(config, list):
        for part in config:
            check_layers(part)
    elif isinstance(config, dict):
        for key, part in config.items():
            counts = "size" not in key and any(word in key for word in _COUNTS_LAYERS)
            if counts and isinstance(part, int | float) and part > MAX_LAYERS:
                raise UnsupportedModel(
                    f"The config asks for more than {MAX_LAYERS} layers by {key[:64]!r}. Check its value."
                )
            check_layers(part)


@contextmanager
def _explained(config: Any) -> Iterator[None]:
    try:
        yield
    except EggsError:
        raise
    except Exception as error:  # a stranger's config makes the model's constructor fail in any way
        raise UnsupportedModel(
            f"transformers can build no causal language model of type {config.model_type!r} from "
            "config.json without remote code. Check the values in it."
        ) from error


@contextmanager
def _counted(most: int) -> Iterator[None]:
    """Lets as many modules and parameters be added to modules, and no more."""
    count = 0

    def count_one(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > most:
            raise UnsupportedModel(
                "The config asks for far more layers or experts than the checkpoint has weights for. Check its "
                "values, or complete the checkpoint."
            )

    hooks = [
        register_module_module_registration_hook(count_one),
        register_module_parameter_registration_hook(count_one),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
