"""Pushes a job's files to the Hugging Face Hub."""

import logging
from pathlib import Path

from app import problems
from app.jobs.leases import Lease
from app.jobs.schemas import PushResource
from app.secrets import Secrets, UnreadableSecret
from app.settings import Settings
from eggs_core.errors import EggsError, PushRefused

logger = logging.getLogger(__name__)


def hub_token(settings: Settings, lease: Lease) -> str | None:
    """The token to push the job's files with; None for a job that asks for no push. Raises `PushRefused`."""
    if lease.push is None:
        return None
    try:
        if lease.hub_token is not None:
            return Secrets(settings).decrypt(lease.hub_token)
    except UnreadableSecret as error:
        raise PushRefused(
            "The worker cannot read the token that came with the job: it has another EGGS_SECRET_KEY than the "
            "API. Tell the operator."
        ) from error
    if settings.hub_token is None:
        raise PushRefused("Neither the job nor the worker has a token. Submit the job again, with a hub_token.")
    return settings.hub_token.get_secret_value()


def prepare(lease: Lease, token: str) -> None:
    """Sees before the work whether its result can be pushed. Raises `PushRefused` or `HubUnavailable`."""
    from eggs_core.hub import prepare_push  # not earlier, as the library costs a second

    assert lease.push is not None
    prepare_push(lease.push, token)


def push_files(settings: Settings, lease: Lease, token: str, folder: Path) -> PushResource:
    """Pushes a folder, and says what came of it.

    Raises `HubUnavailable` where the job may be tried again. What is refused after all does not cost the job the
    rest of its result.
    """
    from eggs_core.hub import push_folder

    assert lease.push is not None
    try:
        commit, url = push_folder(folder, lease.push, token, f"Prune {lease.spec.model} to {lease.spec.pattern}")
    except EggsError as error:
        if error.transient and lease.retries < settings.max_retries:
            raise
        logger.warning("%s could not be pushed: %s", lease.job_id, error)
        return lease.push.model_copy(update={"error": problems.from_error(error)})
    return lease.push.model_copy(update={"commit": commit, "url": url})
