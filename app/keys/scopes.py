"""What keys may be used for."""

from enum import StrEnum


class Scope(StrEnum):
    """What a key may be used for."""

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    ADMIN = "admin"


DEFAULT_SCOPES = (Scope.JOBS_READ, Scope.JOBS_WRITE)
