"""Problems as documents: RFC 9457, `application/problem+json`. HTTP answers and failed jobs share them."""

from typing import Any

from eggs_core.errors import EggsError

STATUS_OF_ERROR = {"model-not-allowed": 403, "no-space": 507}


def document(code: str, title: str, status: int, detail: str, **members: Any) -> dict[str, Any]:
    """A problem document. `type` is stable for a kind of problem; `detail` says what to do next."""
    return {"type": f"urn:eggs:problem:{code}", "title": title, "status": status, "detail": detail, **members}


class Problem(Exception):
    """Answers a request with a problem document; `members` go into it, `headers` into the answer."""

    def __init__(
        self,
        code: str,
        title: str,
        status: int,
        detail: str,
        *,
        headers: dict[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.document = document(code, title, status, detail, **members)
        self.status = status
        self.headers = headers or {}


def from_error(error: EggsError) -> dict[str, Any]:
    """The problem document of an error that the user can mend."""
    return document(error.code, error.title, STATUS_OF_ERROR.get(error.code, 422), str(error))


def internal_error(reference: str) -> dict[str, Any]:
    """The problem document of a defect of ours: it says where to look, and nothing of what was found there."""
    return document(
        "internal-error",
        "Something went wrong on our side",
        500,
        f"Try again; if it happens again, give the operator the reference {reference}, which names it in the log.",
        reference=reference,
    )
