"""The Hugging Face Hub: what comes from it, checkpoints without pickles and data set files, and what goes to it.

Its address is that of huggingface_hub, which HF_ENDPOINT changes.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    BadRequestError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from eggs_core.errors import EggsError, HubUnavailable, ModelNotFound, PushRefused, TextNotFound, UnsafeCheckpoint
from eggs_core.model_folder import MODEL_FILES, WEIGHTS
from eggs_core.sources import TEXT_SUFFIXES
from eggs_core.spec import HubPush

_MAIN = "main"
# Of the same weights, for other programs: what transformers loads lies at the top.
_OTHER_COPIES = ["*/*", "consolidated*"]


def model_folder(repo_id: str, revision: str | None, cache_dir: Path) -> Path:
    """Downloads a repository's safetensors, config and tokenizer; returns the snapshot, named by its commit.

    Raises `ModelNotFound`, `UnsafeCheckpoint` or `HubUnavailable`.
    """
    with _explained(repo_id, ModelNotFound):
        folder = Path(
            snapshot_download(
                repo_id,
                revision=revision,
                allow_patterns=list(MODEL_FILES),
                ignore_patterns=_OTHER_COPIES,
                cache_dir=cache_dir,
            )
        )
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


def prepare_push(push: HubPush, token: str) -> None:
    """Makes the repository and the branch where they are missing, and sees whether the token may write there.

    Raises `PushRefused` or `HubUnavailable`.
    """
    api = HfApi(token=token)
    with _pushing(push):
        api.create_repo(push.repo_id, private=push.private, exist_ok=True)
        if push.revision != _MAIN:
            api.create_branch(push.repo_id, branch=push.revision, exist_ok=True)
        # Both are content with what is there, whoever's it is. This asks how a file is to be sent, and sends none.
        nothing = CommitOperationAdd(path_in_repo="README.md", path_or_fileobj=b"")
        api.preupload_lfs_files(push.repo_id, [nothing], revision=push.revision)


def push_folder(folder: Path, push: HubPush, token: str, message: str) -> tuple[str, str]:
    """Pushes all files of a folder; returns the commit and its URL. It may be repeated: what is there is not sent.

    Raises `PushRefused` or `HubUnavailable`.
    """
    with _pushing(push):
        commit = HfApi(token=token).upload_folder(
            repo_id=push.repo_id, folder_path=folder, revision=push.revision, commit_message=message
        )
    return commit.oid, commit.commit_url


def _choose(files: list[str], part: str, source: str) -> str:
    texts = sorted(file for file in files if file.endswith(TEXT_SUFFIXES))
    if not texts:
        raise TextNotFound(f"{source} has no .txt, .jsonl or .parquet file. Name another data set.")
    splits = ("train",) if part == "calibration" else ("test", "validation")
    return next((file for split in splits for file in texts if split in file), texts[0])


@contextmanager
def _pushing(push: HubPush) -> Iterator[None]:
    with _reached(push.repo_id):
        try:
            yield
        except (HfHubHTTPError, HFValidationError) as error:
            status = error.response.status_code if isinstance(error, HfHubHTTPError) else 400
            if status >= 500 or status in (408, 429):
                raise
            raise PushRefused(
                f"It answers {status} for {push.repo_id}. Check the name, and that the token may write there."
            ) from error
        except ValueError as error:
            if not isinstance(error.__cause__, BadRequestError):
                raise
            raise PushRefused(
                "It refuses the model card, README.md. Push the job's files yourself, with a card that it takes."
            ) from error


@contextmanager
def _explained(what: str, not_found: type[EggsError]) -> Iterator[None]:
    with _reached(what):
        try:
            yield
        except GatedRepoError as error:
            raise not_found(
                f"{what} is gated. Accept its terms on the Hub and give the service a token."
            ) from error
        except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
            raise not_found(f"The Hugging Face Hub has no {what}, or no such revision. Check its name.") from error
        except RemoteEntryNotFoundError as error:
            raise not_found(f"The Hugging Face Hub has no such file in {what}. Check its name.") from error
        except (LocalEntryNotFoundError, HfHubHTTPError) as error:
            # What is not here either is told of by an error of its own, with the Hub's answer behind it.
            answer = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
            if not isinstance(answer, HfHubHTTPError) or answer.response.status_code not in (401, 403):
                raise
            raise not_found(
                f"The Hugging Face Hub answers {answer.response.status_code} for {what}: the token is wrong, or "
                "has no access to it. Give the service one that may read it."
            ) from error


@contextmanager
def _reached(what: str) -> Iterator[None]:
    """Raises `HubUnavailable` in place of what says nothing else, and is no trouble of this machine's."""
    try:
        yield
    except EggsError:
        raise
    except Exception as error:  # of the HTTP library, which differs between versions, or of threads that upload
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES):
            raise
        raise HubUnavailable(f"The Hugging Face Hub could not be reached for {what}. Try again later.") from error
