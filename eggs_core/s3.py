"""S3-compatible stores: clients of them, and the models and texts that they hold, by URLs `s3://BUCKET/KEY`.

Endpoint, region and credentials are those that boto3 finds: AWS_ENDPOINT_URL_S3, AWS_REGION, AWS_ACCESS_KEY_ID and
so on, a configuration file, or the role of the machine.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from filelock import FileLock

from eggs_core.errors import EggsError, ModelNotFound, NoSpace, StoreUnavailable, TextNotFound
from eggs_core.model_folder import is_model_file
from eggs_core.sources import TEXT_SUFFIXES

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectTypeDef

SCHEME = "s3://"
_MOST_KEY_BYTES = 1024  # S3 keeps no longer ones
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
    key = parts.path.strip("/")
    if len(key.encode(errors="replace")) > _MOST_KEY_BYTES:
        raise ValueError(f"The key of an S3 URL has {_MOST_KEY_BYTES} bytes at most.")
    return parts.netloc, key


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
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, Boto3Error, ClientError) as error:
        logger.warning("The object store could not be used for %s: %s", what, error)
        raise StoreUnavailable(
            f"The object store could not be used for {what}. If it goes on, the operator finds in the log why."
        ) from error


def model_at(url: str, cache_dir: Path, *, reserve: int = 0) -> Path:
    """The model at a URL, a GGUF file or what lies below a key, as a file or folder in `cache_dir`.

    Of a folder only safetensors, config and tokenizer are fetched. What is there already is not fetched again
    unless it has changed; `reserve` bytes of the disk stay free. Raises `ModelNotFound`, `NoSpace` or
    `StoreUnavailable`.
    """
    if url.endswith(".gguf"):
        return _file(url, cache_dir, reserve, ModelNotFound)
    bucket, key = bucket_and_key(url)
    prefix = f"{key}/" if key else ""

    with _found(url, ModelNotFound):
        found = {name: o for name, o in _below(bucket, prefix).items() if is_model_file(name)}
    return _fetched(bucket, found, cache_dir, reserve, url, ModelNotFound)


def text_at(url: str, cache_dir: Path, *, reserve: int = 0) -> Path:
    """The text file at a URL, otherwise as `model_at`. Raises `TextNotFound`, `NoSpace` or `StoreUnavailable`."""
    if not url.endswith(TEXT_SUFFIXES):
        raise TextNotFound(f"{url} is not a text this service reads. Give a .txt, .jsonl or .parquet file.")
    return _file(url, cache_dir, reserve, TextNotFound)


def _file(url: str, cache_dir: Path, reserve: int, not_found: type[EggsError]) -> Path:
    bucket, key = bucket_and_key(url)
    folder, _, name = key.rpartition("/")
    with _found(url, not_found):
        found = {n: o for n, o in _below(bucket, f"{folder}/" if folder else "", name).items() if n == name}
    return _fetched(bucket, found, cache_dir, reserve, url, not_found) / name


def _below(bucket: str, prefix: str, start: str = "") -> dict[str, ObjectTypeDef]:
    """The objects whose key begins with prefix and start, by what follows the prefix, but not what lies deeper."""
    pages = make_client().get_paginator("list_objects_v2")
    return {
        found["Key"].removeprefix(prefix): found
        for page in pages.paginate(Bucket=bucket, Prefix=prefix + start, Delimiter="/")
        for found in page.get("Contents", [])
    }


def _fetched(
    bucket: str,
    found: dict[str, ObjectTypeDef],
    cache_dir: Path,
    reserve: int,
    url: str,
    not_found: type[EggsError],
) -> Path:
    """A folder with these objects, as they are now; another one where any of them changes."""
    if not found:
        raise not_found(f"There is nothing at {url}. Check the URL.")
    version = "".join(f"{o['Key']}\0{o['ETag']}\0{o['Size']}\n" for _, o in sorted(found.items()))
    digest = hashlib.sha256(f"{bucket}\0{version}".encode()).hexdigest()
    folder = cache_dir / "s3" / digest
    if folder.is_dir():
        return folder
    partial = folder.with_suffix(".partial")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):  # of several processes one fetches, and the others wait for it
        if folder.is_dir():
            return folder
        partial.mkdir(exist_ok=True)
        for broken_off in partial.iterdir():  # under a name of its own, of a process that was killed
            if broken_off.name not in found:
                broken_off.unlink()
        missing = {name: o for name, o in found.items() if not (partial / name).is_file()}
        needed = sum(o["Size"] for o in missing.values())
        if shutil.disk_usage(partial).free < needed + reserve:
            raise NoSpace(f"{url} needs {needed / 2**20:.0f} MiB. Make room and submit again.")
        client = make_client()
        with _found(url, not_found):
            for name, o in missing.items():
                client.download_file(bucket, o["Key"], str(partial / name))  # appears there when it is whole
            for name, o in found.items():
                if client.head_object(Bucket=bucket, Key=o["Key"])["ETag"] != o["ETag"]:
                    (partial / name).unlink()
                    raise not_found(f"{url} has changed while it was fetched. Submit again once it is whole.")
        partial.rename(folder)
    return folder


@contextmanager
def _found(url: str, not_found: type[EggsError]) -> Iterator[None]:
    """Raises `not_found` where the store has nothing there, or nothing for us."""
    from botocore.exceptions import ClientError

    with explained(url):
        try:
            yield
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (403, 404):
                raise not_found(
                    f"{url} cannot be read. Check the URL, and whether the service may read it."
                ) from error
            raise
