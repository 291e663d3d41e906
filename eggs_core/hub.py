"""What comes from the Hugging Face Hub: checkpoints without pickles, and data set files."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from eggs_core.errors import EggsError, HubUnavailable, ModelNotFound, TextNotFound, UnsafeCheckpoint
from eggs_core.sources import COMPANIONS, TEXT_SUFFIXES, WEIGHTS


def model_folder(repo_id: str, revision: str | None, cache_dir: Path) -> Path:
    """Downloads a repository's safetensors, config and tokenizer; returns the snapshot, named by its commit.

    Raises `ModelNotFound`, `UnsafeCheckpoint` or `HubUnavailable`.
    """
    with _explained(repo_id, ModelNotFound):
        patterns = [WEIGHTS, "*.safetensors.index.json", *COMPANIONS]
        folder = Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns, cache_dir=cache_dir))
    if not any(folder.glob(WEIGHTS)):
        raise UnsafeCheckpoint(
            f"{repo_id} has no safetensors file, and pickled weights can run code when read. Choose a revision "
            "or a repository that has safetensors."
        )
    return folder


def dataset_file(source: str, part: str, cache_dir: Path) -> Path:
    """The file that `hub:ORG/NAME/FILE` names; for `hub:ORG/NAME` the first of a fitting split.

    That is a train split for calibration, and a test or validation split, where there is one, for evaluation.
    Raises `TextNotFound` or `HubUnavailable`.
    """
    owner, name, *file = source.removeprefix("hub:").split("/")
    repo_id = f"{owner}/{name}"
    with _explained(source, TextNotFound):
        filename = "/".join(file) or _choose(HfApi().list_repo_files(repo_id, repo_type="dataset"), part, source)
        return Path(hf_hub_download(repo_id, filename, repo_type="dataset", cache_dir=cache_dir))


def _choose(files: list[str], part: str, source: str) -> str:
    texts = sorted(file for file in files if file.endswith(TEXT_SUFFIXES))
    if not texts:
        raise TextNotFound(f"{source} has no .txt, .jsonl or .parquet file. Name another data set.")
    splits = ("train",) if part == "calibration" else ("test", "validation")
    return next((file for split in splits for file in texts if split in file), texts[0])


@contextmanager
def _explained(what: str, not_found: type[EggsError]) -> Iterator[None]:
    try:
        yield
    except GatedRepoError as error:
        raise not_found(f"{what} is gated. Accept its terms on the Hub and give the service a token.") from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise not_found(f"The Hugging Face Hub has no {what}, or no such revision. Check its name.") from error
    except LocalEntryNotFoundError as error:
        raise HubUnavailable(f"The Hugging Face Hub could not be reached for {what}. Try again later.") from error
    except EntryNotFoundError as error:
        raise not_found(f"The Hugging Face Hub has no such file in {what}. Check its name.") from error
    except EggsError:
        raise
    except Exception as error:  # of the HTTP library, which differs between versions of huggingface_hub
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES):
            raise  # this machine's trouble, not the Hub's
        raise HubUnavailable(f"The Hugging Face Hub could not be reached for {what}. Try again later.") from error
