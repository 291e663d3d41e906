"""Published files in a store that speaks S3."""

import hashlib
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote

from eggs_core.errors import StoreUnavailable
from eggs_core.s3 import bucket_and_key, explained, make_client

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from app.artifacts.store import StoredFile

PART_BYTES = 16 * 2**20
"""Of a larger file so much is sent at a time, unless it would come to more parts than S3 takes."""
_MOST_PARTS = 10_000
_PARTS_AT_A_TIME = 4
_URL_SECONDS = 900
# Of reads, which requests wait for, where whoever publishes has time.
_READ_SECONDS = 5
_READ_TRIES = 2
_SHA256 = "sha256"


class S3Store:
    """The `Store` of a bucket, or of what lies below a key in it.

    The store checks each part against its MD5 as it comes, and what was read for all of them is checked against
    the file's sha256 before they become an object. Parts that are there already are not sent again.
    """

    def __init__(self, url: str, public_endpoint_url: str | None = None) -> None:
        self._bucket, prefix = bucket_and_key(url)
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = make_client()
        self._reader = _impatient(self._client)
        self._signer = make_client(public_endpoint_url) if public_endpoint_url else self._client

    def put(self, folder: Path, location: str, files: Sequence["StoredFile"], check: Callable[[], None]) -> None:
        """As `Store` says. Objects appear one by one, each of them whole."""
        with explained("publishing"), ThreadPoolExecutor(_PARTS_AT_A_TIME, "parts") as pool:
            for file in files:
                check()
                key = self._key(location, file.name)
                if not self._has(key, file):
                    self._put(folder / file.name, key, file, check, pool)
                    if not self._has(key, file):
                        raise StoreUnavailable(f"The object store did not keep {file.name}. Submit the job again.")

    def find(self, location: str, file: "StoredFile") -> str:
        """As `Store` says: a presigned URL."""
        name = quote(file.name.rpartition("/")[2])
        return self._signer.generate_presigned_url(
            "get_object",
            Params={
                "Bucket": self._bucket,
                "Key": self._key(location, file.name),
                "ResponseContentType": file.media_type,
                "ResponseContentDisposition": f"attachment; filename*=utf-8''{name}",
            },
            ExpiresIn=_URL_SECONDS,
        )

    def read(self, location: str, file: "StoredFile", start: int, length: int) -> bytes:
        """As `Store` says."""
        if length == 0:
            return b""
        key = self._key(location, file.name)
        wanted = f"bytes={start}-{start + length - 1}"
        with explained("reading files"):
            try:
                return self._reader.get_object(Bucket=self._bucket, Key=key, Range=wanted)["Body"].read()
            except self._reader.exceptions.NoSuchKey as error:
                raise FileNotFoundError(key) from error

    def remove(self, location: str) -> None:
        """As `Store` says."""
        prefix = self._key(location, "")
        with explained("removing files"):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix):
                for found in page.get("Contents", []):
                    self._client.delete_object(Bucket=self._bucket, Key=found["Key"])
            for key, upload_id in self._unfinished(prefix):
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload_id)

    def _key(self, location: str, name: str) -> str:
        return f"{self._prefix}{location}/{name}"

    def _has(self, key: str, file: "StoredFile") -> bool:
        """Whether the file is there, whole."""
        try:
            head = self._client.head_object(Bucket=self._bucket, Key=key)
        except self._client.exceptions.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return False
            raise
        return head["ContentLength"] == file.bytes and head["Metadata"].get(_SHA256) == file.sha256

    def _put(
        self, path: Path, key: str, file: "StoredFile", check: Callable[[], None], pool: ThreadPoolExecutor
    ) -> None:
        about: dict[str, Any] = {
            "Bucket": self._bucket,
            "Key": key,
            "Metadata": {_SHA256: file.sha256},
            "ContentType": file.media_type,
        }
        if file.bytes <= PART_BYTES:
            content = path.read_bytes()
            _check_sha256(hashlib.sha256(content).hexdigest(), file)
            self._client.put_object(**about, Body=content, ContentMD5=_md5(content))
            return
        upload_id = next((i for k, i in self._unfinished(key) if k == key), None)
        if upload_id is None:
            upload_id = self._client.create_multipart_upload(**about)["UploadId"]
        upload: dict[str, Any] = {"Bucket": self._bucket, "Key": key, "UploadId": upload_id}
        there = self._parts(upload)
        size = max(PART_BYTES, -(-file.bytes // _MOST_PARTS))
        digest = hashlib.sha256()
        tags: dict[int, str] = {}
        sending: dict[Future[Any], int] = {}
        try:
            with path.open("rb") as stream:
                for number, part in enumerate(_in_parts(stream, size), start=1):
                    check()
                    digest.update(part)
                    tag = hashlib.md5(part, usedforsecurity=False).hexdigest()
                    if there.get(number) == tag:
                        tags[number] = tag
                        continue
                    while len(sending) >= _PARTS_AT_A_TIME:
                        _take(sending, tags)
                    sent = pool.submit(
                        self._client.upload_part, **upload, PartNumber=number, Body=part, ContentMD5=_md5(part)
                    )
                    sending[sent] = number
                while sending:
                    check()
                    _take(sending, tags)
        finally:
            for each in sending:
                each.cancel()
        _check_sha256(digest.hexdigest(), file)
        parts: list[Any] = [{"PartNumber": number, "ETag": tags[number]} for number in sorted(tags)]
        self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})

    def _parts(self, upload: dict[str, Any]) -> dict[int, str]:
        """The MD5 of each part that is there."""
        pages = self._client.get_paginator("list_parts").paginate(**upload)
        return {part["PartNumber"]: part["ETag"].strip('"') for page in pages for part in page.get("Parts", [])}

    def _unfinished(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Key and id of each upload that is not complete."""
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=prefix)
        for page in pages:
            for upload in page.get("Uploads", []):
                yield upload["Key"], upload["UploadId"]


def _impatient(client: "S3Client") -> "S3Client":
    """The same client, for who does not wait long."""
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=_READ_SECONDS,
        read_timeout=_READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": _READ_TRIES},
    )
    return boto3.client("s3", config=client.meta.config.merge(config), endpoint_url=client.meta.endpoint_url)


def _take(sending: dict[Future[Any], int], tags: dict[int, str]) -> None:
    """Waits for one part at least to be there. Raises what its request did."""
    for sent in wait(sending, return_when=FIRST_COMPLETED).done:
        tags[sending.pop(sent)] = sent.result()["ETag"]


def _in_parts(stream: IO[bytes], size: int) -> Iterator[bytes]:
    while part := stream.read(size):
        yield part


def _md5(content: bytes) -> str:
    return b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def _check_sha256(actual: str, file: "StoredFile") -> None:
    if actual != file.sha256:
        raise StoreUnavailable(f"{file.name} has changed since it was finished, and is not published.")
