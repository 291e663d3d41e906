"""The service over HTTP, as the command line uses it: resumes what breaks off and verifies what it downloads."""

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

import httpx
from httpx_sse import SSEError, connect_sse

ENDS = ("job.succeeded", "job.failed", "job.cancelled")
_CHUNK = 1 << 20

Json = dict[str, Any]


class ApiError(Exception):
    """The service has refused, or cannot be reached. `status` is 0 where there was no answer at all."""

    def __init__(self, title: str, detail: str, status: int = 0) -> None:
        super().__init__(f"{title}: {detail}")
        self.title = title
        self.detail = detail
        self.status = status


class Client:
    """One service and one key. `patience` is for how many seconds a lost connection is tried again."""

    def __init__(self, url: str, key: str, *, patience: float = 60) -> None:
        # Longer than the pause between a stream's keep-alive comments.
        self._http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=45)
        self._patience = patience

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def submit(self, request: Json) -> Json:
        """The new job. Tried again after a lost connection, it is still one job."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        return self._json("POST", "/v1/jobs", json=request, headers=headers)

    def job(self, job_id: str) -> Json:
        """The job as it stands."""
        return self._json("GET", f"/v1/jobs/{job_id}")

    def jobs(self, *, limit: int = 20, state: str | None = None) -> list[Json]:
        """The newest jobs."""
        params = {"limit": limit} | ({"state": state} if state else {})
        data: list[Json] = self._json("GET", "/v1/jobs", params=params)["data"]
        return data

    def cancel(self, job_id: str) -> Json:
        """The job after it was cancelled, or asked to stop."""
        return self._json("POST", f"/v1/jobs/{job_id}/cancel")

    def report(self, job_id: str) -> Json:
        """The report of a job that succeeded."""
        return self._json("GET", f"/v1/jobs/{job_id}/report")

    def artifacts(self, job_id: str) -> list[Json]:
        """The files of a job."""
        data: list[Json] = self._json("GET", f"/v1/jobs/{job_id}/artifacts")["data"]
        return data

    def events(self, job_id: str, after: int = 0) -> Iterator[Json]:
        """A job's events as they come, until it ends. A stream that breaks off is resumed where it was."""
        headers = {"Accept": "text/event-stream"}
        deadline = time.monotonic() + self._patience
        while True:
            try:
                url = f"/v1/jobs/{job_id}/events"
                with connect_sse(
                    self._http, "GET", url, headers=headers | {"Last-Event-ID": str(after)}
                ) as source:
                    if source.response.is_error:
                        source.response.read()
                    _check(source.response)
                    for message in source.iter_sse():
                        deadline = time.monotonic() + self._patience
                        if not message.data:
                            continue  # a keep-alive comment: httpx-sse makes an empty message of it
                        event: Json = json.loads(message.data)
                        after = event["id"]
                        yield event
                        if event["type"] in ENDS:
                            return
            except (httpx.TransportError, SSEError, ApiError) as error:
                self._endure(error, deadline)

    def download(
        self, job_id: str, artifact: Json, folder: Path, *, on_bytes: Callable[[int], None] = lambda count: None
    ) -> Path:
        """Downloads one artifact into `folder` and verifies it; goes on with what is there already.

        `on_bytes` is called with the bytes of the file that are there, each time there are more.
        """
        path = folder / _safe(artifact["name"])
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.part")
        if path.is_file() and _sha256(path) == artifact["sha256"]:
            on_bytes(artifact["bytes"])
            return path
        deadline = time.monotonic() + self._patience
        while (there := partial.stat().st_size if partial.exists() else 0) < artifact[
            "bytes"
        ] or not partial.exists():
            # As it is: an object store might compress what it sends.
            headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={there}-"} if there else {})
            try:
                with self._http.stream("GET", artifact["url"], headers=headers, follow_redirects=True) as response:
                    if response.is_error:
                        response.read()
                    _check(response)
                    resumed = response.status_code == 206
                    with partial.open("ab" if resumed else "wb") as file:
                        for chunk in response.iter_raw(_CHUNK):
                            file.write(chunk)
                            on_bytes(file.tell())
                            deadline = time.monotonic() + self._patience
            except (httpx.TransportError, ApiError) as error:
                self._endure(error, deadline)
        if _sha256(partial) != artifact["sha256"]:
            partial.unlink()
            raise ApiError(
                "A download is damaged",
                f"{artifact['name']} does not have the checksum it should. Download it again.",
            )
        return partial.replace(path)

    def _json(self, method: str, url: str, **arguments: Any) -> Json:
        deadline = time.monotonic() + min(self._patience, 10)
        while True:
            try:
                response = self._http.request(method, url, **arguments)
                _check(response)
                content: Json = response.json()
                return content
            except httpx.TransportError as error:
                self._endure(error, deadline)

    def _endure(self, error: Exception, deadline: float) -> None:
        """Waits before another try; raises where one would be in vain, or the patience is at its end."""
        refused = isinstance(error, ApiError) and error.status < 500
        if refused or time.monotonic() > deadline:
            if isinstance(error, ApiError):
                raise error
            raise ApiError(
                "The service cannot be reached",
                f"There is no answer from {self._http.base_url}. Is `eggs serve` running, and are --url or "
                "EGGS_URL right?",
            ) from error
        time.sleep(0.5)


def _check(response: httpx.Response) -> None:
    if response.is_success:
        return
    try:
        problem = response.json()
        title, detail = str(problem["title"]), str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        title, detail = (
            "The answer cannot be understood",
            f"{response.url} is no eggs service (HTTP {response.status_code}).",
        )
    raise ApiError(title, detail, response.status_code)


def _safe(name: str) -> PurePosixPath:
    """The name as a relative path. A server must not choose where on this machine a file goes."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name or ":" in name:
        raise ApiError(
            "An artifact has an unsafe name", f"{name!r} points outside the folder; it was not downloaded."
        )
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
