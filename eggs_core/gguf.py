"""GGUF files, converted once into a folder of safetensors and kept."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from eggs_core.checksums import sha256
from eggs_core.construction import check_layers, check_size
from eggs_core.errors import BrokenCheckpoint, EggsError
from eggs_core.gguf_header import Header, read_header


def converted_folder(file: Path, cache_dir: Path) -> Path:
    """The checkpoint that `file` holds, dequantised to bfloat16, in `cache_dir` under the file's sha256.

    transformers reads the file whole, so this needs memory for the model once. The folder appears complete or
    not at all. Raises `BrokenCheckpoint`, or `UnsupportedModel` where its config asks for far more than the file
    has weights for.
    """
    header = read_header(file)
    folder = cache_dir / "gguf" / sha256(file)
    if folder.is_dir():
        return folder
    partial = folder.with_suffix(".partial")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):  # of several processes one converts, and the others wait for it
        if folder.is_dir():
            return folder
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        try:
            model, tokenizer = _read(file, header)
            # The weights are dequantised, so what the config says of their quantisation holds no more.
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            model.hf_quantizer = None
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _read(file: Path, header: Header) -> tuple[Any, Any]:
    """The model and its tokenizer, as transformers reads them."""
    options = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    try:
        # In a folder of its own: beside the file transformers would read settings, and an adapter.
        with tempfile.TemporaryDirectory(prefix="eggs-model-") as alone:
            Path(alone, file.name).symlink_to(file.resolve())
            check_layers(header.numbers)
            config = AutoConfig.from_pretrained(alone, **options)
            check_size(config, tensors=header.tensors, elements=header.elements)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                alone, config=config, dtype=torch.bfloat16, output_loading_info=True, **options
            )
            model, loading = loaded
            if missing := sorted(loading["missing_keys"]):  # transformers has filled them at random
                raise BrokenCheckpoint(
                    f"{file.name} lacks {len(missing)} weights, such as {missing[0]}. Download it again."
                )
            return model, AutoTokenizer.from_pretrained(alone, **options)
    except EggsError:
        raise
    except Exception as error:  # the reader fails in any way on a stranger's file
        raise BrokenCheckpoint(
            f"{file.name} cannot be converted from GGUF. Check that it is whole, and that transformers reads its "
            "architecture."
        ) from error
