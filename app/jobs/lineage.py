"""What led to a job's checkpoint: enough to find the same inputs again, and to recognise the output."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError

from app.artifacts.models import Artifact
from app.examples import JOB_ID, REPORT, example
from app.jobs.models import Job
from app.problems import Problem
from eggs_core.pattern import NMPattern
from eggs_core.report import ModelInfo, Report, TextInfo
from eggs_core.spec import Effort, Method

_CHECKPOINT: dict[str, Any] = {
    "files": {"model.safetensors": "3f0a377ba0a4a460ecb616f6507ce0d8cfa3e704025d4fda3ed0c5ca05468728"},
    "pushed_to": None,
}
_LINEAGE: dict[str, Any] = {
    "object": "job.lineage",
    "job_id": JOB_ID,
    "base_model": REPORT["model"],
    "calibration": REPORT["calibration"],
    "evaluation": [REPORT["evaluation"]["texts"][0]["text"]],
    "method": "eggs",
    "effort": "balanced",
    "pattern": "2:4",
    "versions": REPORT["versions"],
    "device": "cpu",
    "checkpoint": _CHECKPOINT,
    "finished_at": "2026-05-04T09:22:31.704000Z",
}


class Checkpoint(BaseModel):
    """What came out."""

    model_config = example(_CHECKPOINT)

    files: dict[str, str] = Field(description="The sha256 of every file of weights, by its name.")
    pushed_to: str | None = Field(description="The commit's page on the Hugging Face Hub, if it was pushed.")


class Lineage(BaseModel):
    """Which model, data and code led to a checkpoint."""

    model_config = example(_LINEAGE)

    object: Literal["job.lineage"] = "job.lineage"
    job_id: str
    base_model: ModelInfo
    calibration: TextInfo
    evaluation: list[TextInfo] = Field(description="The held-out texts; empty where the job asked for none.")
    method: Method
    effort: Effort | None
    pattern: NMPattern
    versions: dict[str, str] = Field(
        description="Of eggs, with its commit where that is known, Python and the libraries."
    )
    device: str
    checkpoint: Checkpoint
    finished_at: datetime

    @classmethod
    def of(cls, job: Job, stored: Mapping[str, Any], artifacts: Sequence[Artifact]) -> Self:
        """That of a job that has succeeded, by its stored report.

        Raises a 409 `Problem` for one that another version of the service has written and that lacks what is told
        here.
        """
        assert job.finished_at is not None
        try:
            report = Report.model_validate(stored, extra="ignore")
        except ValidationError as error:
            raise Problem(
                "report-of-another-version",
                "The report is another version's",
                409,
                f"This one cannot read it. GET /v1/jobs/{job.id}/report gives it as it was written.",
            ) from error
        weights = {a.name: a.sha256 for a in artifacts if a.name.endswith(".safetensors")}
        return cls(
            job_id=job.id,
            base_model=report.model,
            calibration=report.calibration,
            evaluation=[text.text for text in report.evaluation.texts] if report.evaluation is not None else [],
            method=report.method,
            effort=report.effort,
            pattern=report.pattern,
            versions=report.versions,
            device=report.device,
            checkpoint=Checkpoint(files=weights, pushed_to=(job.push_to_hub or {}).get("url")),
            finished_at=job.finished_at,
        )
