"""What answers on artifacts look like."""

from datetime import datetime
from typing import Any, Literal, Self
from urllib.parse import quote

from pydantic import BaseModel, Field

from app.artifacts.models import Artifact
from app.examples import JOB_ID, example, example_list
from app.pages import Page

_ARTIFACT: dict[str, Any] = {
    "object": "artifact",
    "id": "art_01jv3k4c2d8f6g3h7j9k1m5n0p",
    "job_id": JOB_ID,
    "name": "model-00001-of-00031.safetensors",
    "bytes": 56623368,
    "sha256": "3f0a377ba0a4a460ecb616f6507ce0d8cfa3e704025d4fda3ed0c5ca05468728",
    "media_type": "application/octet-stream",
    "created_at": "2026-05-04T09:22:31.704000Z",
    "url": f"/v1/jobs/{JOB_ID}/artifacts/model-00001-of-00031.safetensors",
}


class ArtifactResource(BaseModel):
    """A file that a job has published."""

    model_config = example(_ARTIFACT)

    object: Literal["artifact"] = "artifact"
    id: str
    job_id: str
    name: str = Field(description="Path within the job's output, with forward slashes.")
    bytes: int
    sha256: str = Field(description="Of the whole file, in hexadecimal; also its ETag.")
    media_type: str
    created_at: datetime
    url: str = Field(description="Where to download it; the key is needed there too.")

    @classmethod
    def of(cls, artifact: Artifact) -> Self:
        """As the API shows it."""
        return cls(
            id=artifact.id,
            job_id=artifact.job_id,
            name=artifact.name,
            bytes=artifact.bytes,
            sha256=artifact.sha256,
            media_type=artifact.media_type,
            created_at=artifact.created_at,
            url=f"/v1/jobs/{artifact.job_id}/artifacts/{quote(artifact.name)}",
        )


class ArtifactList(Page[ArtifactResource, str]):
    """All files of a job, by name; none before it has succeeded."""

    model_config = example_list(_ARTIFACT)
