"""Models and texts at S3 URLs: which of them jobs may read, and where a worker has them."""

from pathlib import Path

from app.files.layout import texts
from app.settings import Settings
from eggs_core.errors import ModelNotAllowed, TextNotFound
from eggs_core.s3 import SCHEME, bucket_and_key, model_at, text_at
from eggs_core.spec import PruneSpec


def is_s3(reference: str) -> bool:
    """Whether a reference to a model or text is an S3 URL."""
    return reference.startswith(SCHEME)


def check(settings: Settings, url: str, error: type[ModelNotAllowed] | type[TextNotFound]) -> None:
    """Raises `error` for a URL that is none, or that jobs may not read; whether anything is there, workers see."""
    try:
        bucket_and_key(url)
    except ValueError as problem:
        raise error(str(problem)) from problem
    if not any(url == root or url.startswith(f"{root.rstrip('/')}/") for root in settings.s3_roots):
        raise error(
            f"{url} is outside of what may be read from. Upload the files with POST /v1/files, or ask the "
            "operator to add its bucket or folder to EGGS_S3_ROOTS."
        )


def fetched(settings: Settings, spec: PruneSpec) -> dict[str, Path]:
    """What `eggs_core` reads for each S3 URL of a job, fetched if need be.

    Raises `ModelNotAllowed`, `ModelNotFound`, `TextNotFound`, `NoSpace` or `StoreUnavailable`.
    """
    found = {}
    if is_s3(spec.model):
        check(settings, spec.model, ModelNotAllowed)
        found[spec.model] = model_at(spec.model, settings.cache_dir, reserve=settings.disk_reserve_bytes)
    for source in filter(is_s3, texts(spec)):
        check(settings, source, TextNotFound)
        found[source] = text_at(source, settings.cache_dir, reserve=settings.disk_reserve_bytes)
    return found
