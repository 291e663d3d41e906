"""Clients of S3-compatible stores, and URLs `s3://BUCKET/KEY`.

Endpoint, region and credentials are those that boto3 finds: AWS_ENDPOINT_URL_S3, AWS_REGION, AWS_ACCESS_KEY_ID and
so on, a configuration file, or the role of the machine.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from eggs_core.errors import StoreUnavailable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SCHEME = "s3://"
# Of one request; in the standard mode boto3 waits longer from try to try, with jitter.
_TRIES = 5
_CONNECT_SECONDS = 5
_READ_SECONDS = 60

logger = logging.getLogger(__name__)


def bucket_and_key(url: str) -> tuple[str, str]:
    """The bucket and the key, without slashes at its ends, of an `s3://` URL. Raises `ValueError` for another."""
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(f"{url!r} is not an S3 URL. Write s3://BUCKET or s3://BUCKET/KEY.")
    return parts.netloc, parts.path.strip("/")


def make_client(endpoint_url: str | None = None) -> S3Client:
    """A client, for several threads. `endpoint_url` is another endpoint than that of the environment."""
    # Imported here: half a second, which whoever uses no S3 should not wait for.
    import boto3
    from botocore.config import Config

    config = Config(
        signature_version="s3v4",
        retries={"mode": "standard", "total_max_attempts": _TRIES},
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        # What AWS adds of its own to requests and expects of answers other stores do not all know.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    client: S3Client = boto3.client("s3", config=config, endpoint_url=endpoint_url)
    if "amazonaws.com" in client.meta.endpoint_url:
        return client
    # Other stores seldom have a host name for each bucket.
    path_style = config.merge(Config(s3={"addressing_style": "path"}))
    return boto3.client("s3", config=path_style, endpoint_url=endpoint_url)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Raises `StoreUnavailable` where the store refuses or does not answer, after all tries."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        logger.warning("The object store could not be used for %s: %s", what, error)
        raise StoreUnavailable(
            f"The object store could not be used for {what}. If it goes on, the operator finds in the log why."
        ) from error
