"""What is read of a folder that a stranger filled with a model, and where its links may lead. Needs no torch."""

import json
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from eggs_core.errors import BrokenCheckpoint, ModelNotAllowed

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
WEIGHTS = "*.safetensors"
WHOLE = "model.safetensors"
# Everything besides the weights that a model needs to be loaded and used. Fetched, copied and nothing else.
TOKENIZERS = ("tokenizer*", "vocab.*", "merges.txt", "tekken.json", "*.tiktoken", "*.model")
COMPANIONS = (
    CONFIG,
    "generation_config.json",
    *TOKENIZERS,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "LICENSE*",
)
MODEL_FILES = (WEIGHTS, INDEX, *COMPANIONS)


# What is parsed takes up to thirty times its size in memory, and settings twice that, as a copy is made. The
# largest known: settings of 1.2 MB with the tokens of Gemma, an index of 15 MB for hundreds of experts, headers of
# a few, a tokenizer of 35 MB.
MAX_SETTINGS_BYTES = 4 << 20
MAX_INDEX_BYTES = 32 << 20
MAX_HEADER_BYTES = 32 << 20
"""Of a safetensors file, before its tensors."""
MAX_COMPANION_BYTES = 64 << 20
# In these transformers takes a setting of such a name for a file to read, wherever on the machine it lies, or for
# code to fetch or to run. No model needs one: what `save_pretrained` writes is found by its name, and a model that
# needs code of its own is not taken.
_SETTINGS = (CONFIG, "tokenizer_config.json", "special_tokens_map.json")
_MORE_SETTINGS = ("generation_config.json", "added_tokens.json", "chat_template.jinja")
_NAMES_OF_FILES = (
    "_file",
    "_files",
    "_spm",
    "vocab",
    "merges",
    "_implementation",
    "_implementation_internal",
    "auto_map",
)
# Where this is false, modules return tuples, and transformers' own models miss the names of what they hold.
_RETURNS_NAMES = "return_dict"


def is_model_file(name: str) -> bool:
    """Whether a file of this name, without its folders, is one of those that a model is made of."""
    return any(fnmatch(name, pattern) for pattern in MODEL_FILES)


def most_bytes(name: str) -> int | None:
    """How large a file of this name may be; None for weights, which are as large as they are."""
    if fnmatch(name, WEIGHTS):
        return None
    if name.endswith(".index.json"):
        return MAX_INDEX_BYTES
    return MAX_SETTINGS_BYTES if name in (*_SETTINGS, *_MORE_SETTINGS) else MAX_COMPANION_BYTES


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder of safetensors with config and tokenizer, none of which is trusted.

    Its files are plain ones, or links to plain ones that lie in one of the folders `within`; None lets them lie
    anywhere. transformers is never given the folder itself, which would read whatever else it finds, and names in
    the settings, but a private copy.
    """

    path: Path
    within: Sequence[Path] | None = None

    def check(self) -> None:
        """Raises `ModelNotAllowed` or `BrokenCheckpoint` where a file of it is not one that may be read."""
        self.companions()
        for file in (INDEX, *(path.name for path in self.path.glob(WEIGHTS))):
            self.file(file)

    def file(self, name: str) -> Path | None:
        """Where the file of this name lies, links resolved; None if there is none, or a folder in its place.

        Raises `ModelNotAllowed` where that is outside, whether or not something lies there; and `BrokenCheckpoint`
        for a device, a pipe or the like, which would give data without end, or none, for a file that is too large,
        and for a name that does not print.
        """
        if not name.isprintable():  # it would be published, in lists of one name a line
            raise BrokenCheckpoint(f"{name[:128]!r} is no name for a file: it has characters that do not print.")
        try:
            file = (self.path / name).resolve()
            if self.within is not None and not any(file.is_relative_to(root.resolve()) for root in self.within):
                raise ModelNotAllowed(
                    f"{name} is a link that leaves the folders that may be read from. Put the file itself into "
                    "the model's folder, or ask the operator to add that folder to EGGS_MODEL_ROOTS."
                )
            found = file.stat()
        except FileNotFoundError:
            return None
        except (OSError, RuntimeError, ValueError) as error:  # links in a circle, a name that can be none
            raise BrokenCheckpoint(f"{name[:128]!r} cannot be read. Save the model again.") from error
        if stat.S_ISDIR(found.st_mode):
            return None
        if not stat.S_ISREG(found.st_mode):
            raise BrokenCheckpoint(f"{name} is a device or a pipe. Put a plain file in its place.")
        most = most_bytes(name)
        if most is not None and found.st_size > most:
            raise BrokenCheckpoint(
                f"{name} has {found.st_size} bytes, and {most} are the most for such a file. Check that it is the "
                "model's own."
            )
        return file

    def companions(self) -> dict[str, Path]:
        """All files besides the weights, by name, and where they lie. Raises as `file` does."""
        names = sorted({path.name for pattern in COMPANIONS for path in self.path.glob(pattern)})
        return {name: file for name in names if (file := self.file(name)) is not None}

    def weights(self) -> dict[str, Path]:
        """The files of the weights, by name, and where they lie: those that the index names; where there is none,
        the one that transformers would load; and where that is missing too, all there are.

        Raises as `file` does, and `BrokenCheckpoint` for an index that cannot be read or names what is not there.
        """
        index = self.file(INDEX)
        if index is None:
            whole = self.file(WHOLE) is not None
            names = [WHOLE] if whole else sorted(path.name for path in self.path.glob(WEIGHTS))
        else:
            try:
                names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
                inside = all(Path(name).name == name and fnmatch(name, WEIGHTS) for name in names)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise BrokenCheckpoint(f"{INDEX} is not a shard index. Save the model again.") from error
            if not inside:
                raise BrokenCheckpoint(f"{INDEX} names what is no shard in its folder. Save the model again.")
        files: dict[str, Path] = {}
        for name in names:
            if (file := self.file(name)) is None:
                raise BrokenCheckpoint(f"The shard {name[:128]!r} is missing. Add it.")
            files[name] = file
        return files

    def copy_companions(self, out: Path) -> None:
        """Copies config, tokenizer and licence, without settings that name files or ask modules for tuples. Raises
        as `file` does."""
        for name, file in self.companions().items():
            if name not in _SETTINGS or not _copy_settings(file, out / name):
                shutil.copyfile(file, out / name)

    @contextmanager
    def private(self) -> Iterator[Path]:
        """A folder with nothing but copies of the companions, until the `with` ends."""
        with TemporaryDirectory(prefix="eggs-model-") as folder:
            self.copy_companions(Path(folder))
            yield Path(folder)


def _copy_settings(file: Path, out: Path) -> bool:
    """Writes what is left of the settings if not all is, or else nothing and returns False."""
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        harmless = _harmless(settings)
        if harmless == settings:
            return False
    except (ValueError, RecursionError):
        return False  # whoever reads it says what is wrong with it
    out.write_text(json.dumps(harmless, indent=2) + "\n", encoding="utf-8")
    return True


def _harmless(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _harmless(part)
            for key, part in value.items()
            if (part is None or not key.endswith(_NAMES_OF_FILES)) and (part or key != _RETURNS_NAMES)
        }
    return [_harmless(part) for part in value] if isinstance(value, list) else value
