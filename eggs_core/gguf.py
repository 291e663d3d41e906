"""GGUF files, converted once into a folder of safetensors and kept."""

import shutil
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from eggs_core.checksums import sha256
from eggs_core.errors import BrokenCheckpoint

MAGIC = b"GGUF"


def converted_folder(file: Path, cache_dir: Path) -> Path:
    """The checkpoint that `file` holds, dequantised to bfloat16, in `cache_dir` under the file's sha256.

    transformers reads the file whole, so this needs memory for the model once. The folder appears complete or
    not at all; of two conversions at once one wins. Raises `BrokenCheckpoint`.
    """
    with file.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise BrokenCheckpoint(f"{file.name} is not a GGUF file. Download or upload it again.")
    folder = cache_dir / "gguf" / sha256(file)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    try:
        try:
            options = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
            with tempfile.TemporaryDirectory(prefix="eggs-model-") as alone:
                # transformers would read what else lies in the file's folder: settings, an adapter.
                Path(alone, file.name).symlink_to(file.resolve())
                model = AutoModelForCausalLM.from_pretrained(alone, dtype=torch.bfloat16, **options)
                tokenizer = AutoTokenizer.from_pretrained(alone, **options)
        except Exception as error:  # the reader fails in any way on a stranger's file
            raise BrokenCheckpoint(
                f"{file.name} cannot be converted from GGUF. Check that it is whole, and that transformers reads "
                "its architecture."
            ) from error
        # The weights are dequantised, so what the config says of their quantisation holds no more.
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.hf_quantizer = None  # type: ignore[assignment]
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
        return folder
    finally:
        shutil.rmtree(partial, ignore_errors=True)
