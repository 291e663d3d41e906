"""Where attempts at jobs work until what they made is published: each in a folder of its own."""

from pathlib import Path

from app.settings import Settings

_ATTEMPT = ".attempt-"


def folder(settings: Settings, job_id: str, attempt: int) -> Path:
    """The folder of one attempt."""
    return settings.staging_dir / f"{job_id}{_ATTEMPT}{attempt}"


def attempts(settings: Settings, job_id: str) -> dict[int, Path]:
    """The folders there are of a job, by its attempts."""
    found = settings.staging_dir.glob(f"{job_id}{_ATTEMPT}*")
    return {int(path.name.rpartition(_ATTEMPT)[2]): path for path in found}


def job_ids(settings: Settings) -> dict[Path, str]:
    """Whose each folder is."""
    return {path: path.name.partition(_ATTEMPT)[0] for path in settings.staging_dir.glob(f"job_*{_ATTEMPT}*")}
