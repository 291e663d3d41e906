"""Problems: RFC 9457, `application/problem+json`. HTTP answers and failed jobs share them."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from eggs_core.errors import EggsError

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:eggs:problem:"
STATUS_OF_ERROR = {"model-not-allowed": 403, "no-space": 507, "store-unavailable": 503, "disk-unavailable": 503}


class ProblemDocument(BaseModel):
    """What went wrong, and what to do next (RFC 9457). A problem may have members of its own besides these."""

    model_config = ConfigDict(
        title="Problem",
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:eggs:problem:report-not-ready",
                    "title": "The job has no report yet",
                    "status": 409,
                    "detail": "It is running. Ask again when its state is succeeded; "
                    "GET /v1/jobs/job_01jv3k0s9e6x7q2m4n8p5r1t0w/events tells when.",
                    "state": "running",
                }
            ]
        },
    )

    type: str = Field(description="Names the kind of problem, always the same for it: `urn:eggs:problem:<code>`.")
    title: str = Field(description="The kind of problem in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What was wrong this time, and what to do next.")
    errors: list[dict[str, str]] | None = Field(
        None, description="For an invalid request: each place (`pointer` or `parameter`) and its `message`."
    )


def document(code: str, title: str, status: int, detail: str, **members: Any) -> dict[str, Any]:
    """A problem document. `code` is stable for a kind of problem; `detail` says what to do next."""
    return {"type": f"{TYPE_PREFIX}{code}", "title": title, "status": status, "detail": detail, **members}


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
