"""The whole model in memory, for what goes through it token by token: generating text, and zero-shot tasks."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from eggs_core import memory
from eggs_core.checkpoint import Checkpoint
from eggs_core.construction import check_vocabulary, most_new_tokens
from eggs_core.errors import BrokenCheckpoint, EggsError, NotEnoughMemory, NotEnoughText
from eggs_core.large_batches import choose_products
from eggs_core.loading import quiet, refuse_missing
from eggs_core.model_folder import CONFIG
from eggs_core.packing_config import VALUES
from eggs_core.skeleton import Skeleton

PROMPT_TOKENS = 32
NEW_TOKENS = 32
# Weights take their size on disk; caches and activations of a few short sequences come on top.
_HEADROOM = 1.2


def check_memory(dense: Skeleton, models: int = 1) -> None:
    """Raises `NotEnoughMemory` unless the whole model, so many times, fits into what is free now."""
    needed = int(models * dense.checkpoint.nbytes() * _HEADROOM)
    free = psutil.virtual_memory().available
    if dense.device.type == "cuda":
        free = min(free, torch.cuda.mem_get_info(dense.device)[0])
    if needed > free:
        raise NotEnoughMemory(
            f"Generations, tasks and speed load whole models, which needs {needed / 2**30:.1f} GiB, and only "
            f"{free / 2**30:.1f} GiB of memory are free. Ask for none of them, or use a machine with more memory."
        )


@contextmanager
def whole_model(checkpoint: Checkpoint, like: Skeleton, tokenizer: Any) -> Iterator[Any]:
    """The checkpoint as transformers loads it, in the dtype and on the device of `like`."""
    with quiet(), checkpoint.private() as folder:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=like.dtype, trust_remote_code=False, local_files_only=True, use_safetensors=True
        )
    # A checkpoint's own settings may ask for sampling, penalties and the like: greedy decoding has none.
    end = tokenizer.eos_token_id
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=0 if end is None else end)
    try:
        yield _placed(model, like.device)
    finally:
        del model
        memory.give_back()
        if like.device.type == "cuda":
            torch.cuda.empty_cache()


def load(folder: Path) -> tuple[Any, Any]:
    """The model in `folder`, packed or not, and its tokenizer; on a GPU where there is one.

    Raises `BrokenCheckpoint` where they cannot be read, or a weight is missing.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, tokenizer = _read(folder)
    return _placed(model, device), tokenizer


def check(folder: Path) -> None:
    """Raises `BrokenCheckpoint` where `load` would, as far as names, types and shapes tell: no weight is read."""
    _read(folder, "meta")


def _read(folder: Path, device: str | None = None) -> tuple[Any, Any]:
    checkpoint = Checkpoint(folder)
    with quiet(), checkpoint.private() as copy:
        try:
            tokenizer = AutoTokenizer.from_pretrained(copy, trust_remote_code=False, local_files_only=True)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                copy,
                dtype="auto",
                device_map=device,
                output_loading_info=True,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
            )
        except EggsError:
            raise
        except Exception as error:  # a stranger's files fail in any way
            told = str(error).replace(str(copy), str(folder))
            raise BrokenCheckpoint(
                f"{folder} holds no model with a tokenizer that transformers can load. {told}"
            ) from error
    model, loading = loaded
    if any(name.endswith(VALUES) for name in checkpoint.file_of) and not hasattr(model, "hf_quantizer"):
        raise BrokenCheckpoint(
            f"{folder} holds packed weights, and its {CONFIG} has no quantization_config that tells of them. Copy "
            "that of the packed model again."
        )
    refuse_missing(sorted(loading["missing_keys"]))  # transformers has filled them at random
    return model, tokenizer


def _placed(model: Any, device: torch.device) -> Any:
    model.eval().to(device)
    choose_products(model)
    return model


def continuation(model: Any, tokenizer: Any, prompt: str, new_tokens: int) -> tuple[str, int]:
    """What comes after `prompt` by greedy decoding, by the model's own settings; and of how many tokens it is.

    Raises `SequenceTooLong` where the prompt leaves no room for any, `NotEnoughText` for one without tokens, and
    `BrokenCheckpoint` for one with tokens that the model does not have.
    """
    inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
    length = inputs["input_ids"].shape[1]
    if length == 0:
        raise NotEnoughText("The prompt has no token. Give a text to go on with.")
    check_vocabulary(model.config, int(inputs["input_ids"].max()))
    new_tokens = most_new_tokens(model.config, length, new_tokens)
    ids = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
    added = ids[:, length:]
    return as_text(added, tokenizer)[0], added.shape[1]


def prompts_of(windows: list[Tensor], count: int) -> Tensor:
    """The beginnings of up to `count` windows, taken from each text in turn, (count, P) int64.

    P is 32 tokens, or half a window where windows are shorter than 64.
    """
    longest = max(len(tokens) for tokens in windows)
    in_turn = [tokens[i] for i in range(longest) for tokens in windows if i < len(tokens)]
    length = min(PROMPT_TOKENS, windows[0].shape[1] // 2)
    return torch.stack(in_turn[:count])[:, :length] if count else windows[0][:0, :length]


@torch.no_grad()
def continuations(model: Any, prompts: Tensor, new_tokens: int, tokenizer: Any) -> list[str]:
    """Up to `new_tokens` tokens after each prompt by greedy decoding, as text."""
    prompts = prompts.to(model.device)
    ids = model.generate(
        input_ids=prompts, attention_mask=torch.ones_like(prompts), do_sample=False, max_new_tokens=new_tokens
    )
    return as_text(ids[:, prompts.shape[1] :], tokenizer)


def as_text(ids: Tensor, tokenizer: Any) -> list[str]:
    """The texts of token ids, (n, tokens), without special tokens."""
    return [tokenizer.decode(row, skip_special_tokens=True) for row in ids.tolist()]
