"""What can go wrong, each as a class: the service's problems (RFC 9457), and what is wrong on the way to it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

TYPE_PREFIX = "urn:eggs:problem:"


class ClientError(Exception):
    """The base of all that this package raises: `title` says what went wrong, `detail` what to do."""

    def __init__(self, title: str, detail: str) -> None:
        super().__init__(f"{title}: {detail}")
        self.title = title
        self.detail = detail


class InvalidConfiguration(ClientError):
    """The address or the key cannot be right."""


class InvalidRequest(ClientError):
    """The request has no form in which it could be sent; nothing was."""


class Unreachable(ClientError):
    """There was no answer. `sent` says whether the request may have arrived nevertheless."""

    def __init__(self, url: str, cause: Exception, *, sent: bool) -> None:
        lost = " The request may have arrived: look before you send it again." if sent else ""
        super().__init__(
            "The service cannot be reached",
            f"There is no answer from {url} ({str(cause) or type(cause).__name__}). "
            f"Is `eggs serve` running, and is the address (EGGS_URL) right?{lost}",
        )
        self.sent = sent


class OutputExists(ClientError):
    """What a download would be mixed with, or would overwrite, is there already; nothing was changed."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            "There is something else already",
            f"{path} is not of this download. Name a new folder, or the one of the same download that broke off, "
            "which then goes on.",
        )


class Damaged(ClientError):
    """What was downloaded is not what it should be; it was removed."""

    def __init__(self, name: str) -> None:
        super().__init__(
            "A download is damaged", f"{name} does not have the checksum it should. Download it again."
        )


class UnsafeName(ClientError):
    """A file's name points outside the folder that it was to be written to."""

    def __init__(self, name: str) -> None:
        super().__init__(
            "An artifact has an unsafe name", f"{name!r} points outside the folder; it was not downloaded."
        )


class NoFiles(ClientError):
    """The job has no files to download."""

    def __init__(self, state: str) -> None:
        super().__init__("The job has no files", f"It is {state}. Only a job that succeeds has some.")


class JobFailed(ClientError):
    """The job that was waited for has failed; `problem` is the document that says why."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        super().__init__(
            str(problem.get("title", "The job failed")), str(problem.get("detail", "It does not say why."))
        )
        self.problem = problem


class JobCancelled(ClientError):
    """The job that was waited for was cancelled."""

    def __init__(self) -> None:
        super().__init__("The job was cancelled", "Submit it again to run it after all.")


class WaitedTooLong(ClientError, TimeoutError):
    """The job has not ended in the time it was given."""

    def __init__(self) -> None:
        super().__init__("The job has not ended in time", "It goes on; wait for it again, or cancel it.")


class ApiError(ClientError):
    """The service has refused. `problem` is its document, empty where the answer had none."""

    def __init__(
        self, status: int, title: str, detail: str, problem: Mapping[str, Any], headers: httpx.Headers
    ) -> None:
        super().__init__(title, detail)
        self.status = status
        self.problem = problem
        self.headers = headers

    @property
    def type(self) -> str:
        """Names the kind of problem, always the same for it, such as `urn:eggs:problem:job-not-found`."""
        return str(self.problem.get("type", "about:blank"))

    @property
    def code(self) -> str:
        """The type without its prefix, such as `job-not-found`."""
        return self.type.removeprefix(TYPE_PREFIX)

    @property
    def errors(self) -> list[dict[str, str]]:
        """For an invalid request: each place (`pointer` or `parameter`) and its `message`."""
        return list(self.problem.get("errors") or [])


class BadRequest(ApiError):
    """400: the request cannot be read."""


class Unauthenticated(ApiError):
    """401: the key is missing, wrong, expired or revoked."""


class Forbidden(ApiError):
    """403: the key may not do this."""


class NotFound(ApiError):
    """404: there is no such thing in the key's project."""


class Conflict(ApiError):
    """409: not as things stand now."""


class Gone(ApiError):
    """410: it was there, and was removed."""


class TooLarge(ApiError):
    """413: more than the service takes."""


class Invalid(ApiError):
    """422: the request is not valid; `errors` says where."""


class TooManyRequests(ApiError):
    """429: a limit is reached."""


class ServerError(ApiError):
    """5xx: something is wrong on the service's side."""


class Unavailable(ServerError):
    """502, 503 or 504: the service, or what it needs, is away for now."""


_CLASSES: dict[int, type[ApiError]] = {
    400: BadRequest,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    413: TooLarge,
    422: Invalid,
    429: TooManyRequests,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


def check(response: httpx.Response) -> None:
    """Raises the `ApiError` of an answer that is none of 2xx; its content must have been read."""
    if response.is_success:
        return
    status = response.status_code
    try:
        problem = response.json()
        title, detail = str(problem["title"]), str(problem["detail"])
    except (ValueError, KeyError, TypeError) as error:
        raise not_understood(response) from error
    raise class_of(status)(status, title, detail, problem, response.headers)


def not_understood(response: httpx.Response) -> ApiError:
    """The error of an answer that no eggs service gives."""
    status = response.status_code
    detail = f"{response.url.copy_with(query=None)} is no eggs service (HTTP {status})."
    return class_of(status)(status, "The answer cannot be understood", detail, {}, response.headers)


def class_of(status: int) -> type[ApiError]:
    """The class of errors for an HTTP status."""
    return _CLASSES.get(status, ServerError if status >= 500 else ApiError)
