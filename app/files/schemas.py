"""What requests and answers on files look like."""

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from app.examples import example, example_list
from app.files.models import FileType, UploadedFile
from app.ids import id_pattern
from app.pages import Page

FILE_ID_PATTERN = id_pattern("file")
FILE_ID = "file_01jv3k0s9e6x7q2m4n8p5r1t0w"

_FILE: dict[str, Any] = {
    "object": "file",
    "id": FILE_ID,
    "name": "notes.txt",
    "type": "text",
    "bytes": 482113,
    "key_id": "key_01jv3k0s9e6x7q2m4n8p5r1t0w",
    "sha256": "3f0a377ba0a4a460ecb616f6507ce0d8cfa3e704025d4fda3ed0c5ca05468728",
    "created_at": "2026-05-04T09:19:58.120000Z",
    "url": f"/v1/files/{FILE_ID}/content",
}
_DELETED: dict[str, Any] = {"object": "file", "id": FILE_ID, "deleted": True}

# FastAPI would read the form to its end before the endpoint is asked.
UPLOAD_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "additionalProperties": False,
                "properties": {
                    "file": {
                        "type": "string",
                        "format": "binary",
                        "description": "Its name says what it holds: a text (`.txt`), texts (`.jsonl`, "
                        "`.parquet`), or a model (`.tar`, `.tar.gz`, `.tgz`) with config, "
                        "tokenizer and safetensors.",
                    },
                    "sha256": {
                        "type": "string",
                        "pattern": "^[0-9a-fA-F]{64}$",
                        "description": "What the file should be, in hexadecimal; another one is refused.",
                    },
                },
            }
        }
    },
}


class FileResource(BaseModel):
    """An uploaded file, whole and checked. Its id is a model or a text in jobs of the project."""

    model_config = example(_FILE)

    object: Literal["file"] = "file"
    id: str = Field(description="Sorts by creation.")
    name: str = Field(description="As it was given, without folders.")
    type: FileType
    bytes: int
    sha256: str = Field(description="Of the whole file, in hexadecimal; also its ETag.")
    key_id: str | None = Field(
        description="The key it was uploaded with, whose limit it counts against; null where an earlier version "
        "took it."
    )
    created_at: datetime
    url: str = Field(description="Where to download it; the key is needed there too.")

    @classmethod
    def of(cls, file: UploadedFile) -> Self:
        """As the API shows it."""
        return cls(
            id=file.id,
            name=file.name,
            type=FileType(file.type),
            bytes=file.bytes,
            sha256=file.sha256,
            key_id=file.key_id,
            created_at=file.created_at,
            url=f"/v1/files/{file.id}/content",
        )


class FileList(Page[FileResource, str]):
    """One page of files, newest first. For the next one, pass `last_id` as `after`."""

    model_config = example_list(_FILE)


class FileDeleted(BaseModel):
    """The file is gone."""

    model_config = example(_DELETED)

    object: Literal["file"] = "file"
    id: str
    deleted: Literal[True] = True
