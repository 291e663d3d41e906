"""Brings tensors of a checkpoint into the modules of a model, by transformers' own loader.

So renamed and fused weights (a Mixtral checkpoint's experts, say) need no code here.
"""

import inspect
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
)
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils import logging as transformers_logging

from eggs_core.errors import BrokenCheckpoint

_TENSOR_PARALLEL_PLAN = "tp_plan" in inspect.signature(convert_and_load_state_dict_in_model).parameters


class Names(NamedTuple):
    """Where a checkpoint's tensors go: `target_of` the checkpoint's name is the model's, and the tensors in
    `converted` get there in another layout."""

    target_of: dict[str, str]
    converted: set[str]


def names_in(model: PreTrainedModel, stored: Collection[str], transforms: Sequence[Any]) -> Names:
    """Where the `stored` names lead in `model`, whose conversions are `transforms`."""
    renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
    converters = [t for t in transforms if isinstance(t, WeightConverter)]
    own_names = model.state_dict()
    names = Names({}, set())
    for name in stored:
        target, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, own_names)
        if target not in own_names and name in own_names:
            target, pattern = name, None
        names.target_of[name] = target
        if pattern is not None:
            names.converted.add(name)
    return names


def load_tensors(
    model: PreTrainedModel,
    tensors: dict[str, Tensor],
    transforms: list[Any],
    dtype: torch.dtype,
    device: str = "cpu",
) -> set[str]:
    """Puts `tensors`, by the checkpoint's names, into `model`. Returns the model's names that none of them led to.

    Raises `BrokenCheckpoint` for a shape that is not the model's.
    """
    load_config = LoadStateDictConfig(device_map={"": device}, dtype=dtype, weight_mapping=transforms)
    extra: dict[str, Any] = {"tp_plan": None} if _TENSOR_PARALLEL_PLAN else {}
    with quiet():
        told: Any = convert_and_load_state_dict_in_model(
            model=model, state_dict=tensors, load_config=load_config, **extra
        )
    if len(told) == 5:  # of transformers 5.0
        missing, _, mismatched, _, errors = told
    else:
        missing, mismatched = told[0].missing_keys, told[0].mismatched_keys
        errors = told[0].conversion_errors or told[0].error_msgs
    if mismatched:
        name, stored, wanted = sorted(mismatched, key=str)[0]
        raise BrokenCheckpoint(
            f"{name} has shape {tuple(stored)} in the checkpoint, where config.json asks for {tuple(wanted)}."
        )
    if errors:
        raise BrokenCheckpoint(f"transformers cannot load these weights: {next(iter(errors))}")
    return cast(set[str], missing)


def refuse_missing(names: Sequence[str]) -> None:
    """Raises `BrokenCheckpoint` where there is a name."""
    if names:
        raise BrokenCheckpoint(f"The checkpoint lacks {len(names)} weights, such as {names[0]}. Save it again.")


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers from drawing a progress bar whenever it loads something."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
