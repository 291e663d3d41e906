"""What an operator can set, each from an environment variable `EGGS_<NAME>`."""

import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

# Absolute, because the worker may run in another folder than the server that hands it these settings.
AbsolutePath = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]


def _split_paths(value: Any) -> Any:
    return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value


def _split_commas(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


LogFormat = Literal["text", "json"]
_DATABASES = ("sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg")
Paths = Annotated[list[AbsolutePath], NoDecode, BeforeValidator(_split_paths)]


def _check_keys(value: SecretStr) -> SecretStr:
    from app.secrets import parse_keys  # costs time that most processes need not spend

    parse_keys(value.get_secret_value())
    return value


class Settings(BaseSettings):
    """Settings of one installation; the API and its workers must have the same."""

    # Some values are secret, and errors would repeat them.
    model_config = SettingsConfigDict(env_prefix="EGGS_", env_ignore_empty=True, hide_input_in_errors=True)

    data_dir: AbsolutePath = Field(
        Path("eggs-data"), validate_default=True, description="Everything the service keeps lies in here."
    )
    broker_url: str = Field(
        "filesystem://",
        description="Embedded by default (files in the data folder); `redis://` and `amqp://` name a server.",
    )
    queue_name: str = Field("eggs", description="The queue that doorbell messages go to.")
    model_roots: Paths = Field(
        default_factory=lambda data: [data["data_dir"] / "models"],
        description=f"Models are read from these folders only, relative paths too; separated by {os.pathsep!r}.",
    )
    text_roots: Paths = Field(
        default_factory=lambda data: [data["data_dir"] / "texts"],
        description=f"Texts are read from these folders only, relative paths too; separated by {os.pathsep!r}.",
    )
    task_roots: Paths = Field(
        default_factory=lambda data: [data["data_dir"] / "tasks"],
        description="Task files, and the Python functions they name, are read from these folders only, relative "
        f"paths too; separated by {os.pathsep!r}.",
    )
    # After the folders above: none of their defaults is made where a field before them is not valid.
    database_url: str = Field(
        default_factory=lambda data: f"sqlite:///{data['data_dir'] / 'eggs.sqlite3'}",
        description="SQLite by default; PostgreSQL is `postgresql+psycopg://USER@HOST/DATABASE`.",
    )
    artifact_store_url: str | None = Field(
        None,
        description="Where published files are kept: the folder `artifacts` in the data folder by default, "
        "another one as `file:///PATH`, or `s3://BUCKET/PREFIX`, with boto3's own variables (AWS_ENDPOINT_URL_S3, "
        "AWS_ACCESS_KEY_ID and so on) for whose it is.",
    )
    s3_public_endpoint_url: str | None = Field(
        None, description="Where users reach the object store, if not where the service does."
    )
    artifact_retention_days: float | None = Field(
        None, gt=0, description="So long after a job's end its files are kept. For ever by default."
    )
    sweep_interval_seconds: float = Field(
        3600, gt=0, description="Pause between two times that what has expired, or was left behind, is removed."
    )
    s3_roots: Annotated[list[str], NoDecode, BeforeValidator(_split_commas)] = Field(
        [],
        description="Models and texts are read from S3 URLs that lie below these, such as `s3://BUCKET/models`; "
        "separated by commas. None by default.",
    )
    allow_hub: bool = Field(True, description="Whether models and texts may come from the Hugging Face Hub.")
    hub_token: SecretStr | None = Field(
        None,
        description="Pushes the models of jobs that bring no token of their own to the Hugging Face Hub; whoever "
        "has an API key can then push to all that this token may write to.",
    )
    secret_key: Annotated[SecretStr, AfterValidator(_check_keys)] | None = Field(
        None,
        description="Encrypts secrets that are stored: 32 bytes in base64; of several, separated by commas, the "
        "first encrypts and all decrypt. Where it is not set, `secret.key` in the data folder has one, generated "
        "once.",
    )
    webhook_allow_private: bool = Field(
        False, description="Whether webhooks may be sent to private addresses, this machine's among them."
    )
    host: str = Field("127.0.0.1", description="Address the server listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port the server listens on.")
    api_processes: int = Field(
        1,
        ge=1,
        description="Processes that answer requests, all at one port: more of them answer more at a time, as far "
        "as there are processors for them.",
    )
    beat: bool = Field(
        True,
        description="Whether the API does what recurs beside its requests: offering jobs again whose message was "
        "lost, removing what has expired, sending webhooks. Where it does not, `eggs beat` must run.",
    )
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port on which Prometheus finds /metrics; none by default, as it needs no key.",
    )
    log_format: LogFormat = Field(
        "text", description="Form of the log, on stderr: `text`, or `json` for a document a line."
    )
    lease_seconds: float = Field(60, gt=0, description="A worker unheard of for so long has lost its job.")
    dispatch_interval_seconds: float = Field(5, gt=0, description="Pause between rounds of the dispatcher.")
    max_attempts: int = Field(
        3, ge=1, description="Workers that a job may cost before it fails; one that was stopped does not count."
    )
    max_retries: int = Field(
        5,
        ge=0,
        description="Times that a job is tried again after a fault that may pass: a full disk, a Hub out of "
        "reach.",
    )
    retry_pause_seconds: float = Field(
        30, gt=0, description="Pause before the first of these times; each pause is twice the one before."
    )
    job_memory_bytes: int | None = Field(
        None, ge=1, description="Resident memory that a job may take before it is ended. No limit by default."
    )
    job_seconds: float | None = Field(
        None, gt=0, description="Time that an attempt at a job may take before it is ended. No limit by default."
    )
    max_queued_per_key: int = Field(
        10_000,
        ge=0,
        description="Jobs of one API key that may wait, beside those that `EGGS_MAX_RUNNING_PER_KEY` lets run.",
    )
    max_running_per_key: int | None = Field(
        None, ge=1, description="Jobs of one API key that may run at a time; the others wait. No limit by default."
    )
    max_upload_bytes: int = Field(
        10_737_418_240, ge=1, description="Bytes of an uploaded file, and of the model that an archive unpacks to."
    )
    max_stored_bytes_per_project: int = Field(
        107_374_182_400, ge=1, description="Bytes that the uploaded files of a project may take together."
    )
    max_stored_bytes_per_key: int | None = Field(
        None,
        ge=1,
        description="Bytes that the files uploaded with one API key may take together. Those of its project limit "
        "it by default.",
    )
    disk_reserve_bytes: int = Field(268_435_456, ge=0, description="Disk space that a job must leave free.")
    processes: int = Field(
        1,
        ge=1,
        description="Processes in which a worker prunes a job: as many as it has GPUs. They share the calibration "
        "windows and the layers.",
    )
    trackers: Annotated[list[Literal["mlflow", "wandb"]], NoDecode, BeforeValidator(_split_commas)] = Field(
        [],
        description="Experiment trackers in which each job is a run: `mlflow`, `wandb`, or both, separated by a "
        "comma, set up by their own variables; see docs/trackers.md. None by default.",
    )
    track_models: bool = Field(
        True, description="Whether trackers get the pruned model too, packed where there is a packed one."
    )

    @field_validator("database_url")
    @classmethod
    def _names_a_database(cls, url: str) -> str:
        from sqlalchemy.engine import make_url  # costs time that most processes need not spend
        from sqlalchemy.exc import ArgumentError

        try:
            named = make_url(url)
            known = named.drivername in _DATABASES
        except (ArgumentError, ValueError):  # the second for a port that is no number
            known = False
        if not known or (named.get_backend_name() == "sqlite" and named.database in (None, "", ":memory:")):
            raise ValueError(
                "it is neither sqlite:///PATH nor postgresql+psycopg://USER:PASSWORD@HOST:PORT/DATABASE, with "
                "what the password has beside letters and digits percent-encoded"
            )
        return url

    @field_validator("artifact_store_url")
    @classmethod
    def _names_a_store(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("file:///", "s3://")):
            raise ValueError("it is neither file:///PATH nor s3://BUCKET/PREFIX")
        return url

    def environment(self) -> dict[str, str]:
        """Environment variables that give another process the same settings; secrets are among them."""
        return {f"EGGS_{name.upper()}": _as_text(value) for name, value in self if value is not None}

    @property
    def artifacts_dir(self) -> Path:
        """Published artifacts, one folder per job, where no other store is named."""
        return self.data_dir / "artifacts"

    @property
    def staging_dir(self) -> Path:
        """Artifacts in the making; on the disk of `artifacts_dir`, so that publishing them copies nothing."""
        return self.data_dir / "staging"

    @property
    def files_dir(self) -> Path:
        """Uploaded files, one folder for each."""
        return self.data_dir / "files"

    @property
    def cache_dir(self) -> Path:
        """Downloaded and converted models and texts."""
        return self.data_dir / "cache"

    @property
    def broker_dir(self) -> Path:
        """Messages of the embedded queue."""
        return self.data_dir / "broker"


def _as_text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, list):
        return (os.pathsep if any(isinstance(part, Path) for part in value) else ",").join(map(str, value))
    return str(value)


class EmbeddedSettings(Settings):
    """The defaults, whatever the environment says."""

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed."""
        return (init_settings,)


@lru_cache
def get_settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()
