"""A client of eggs, pruning as a service: `Eggs`, and `AsyncEggs` for event loops.

`models` has what the service answers, `requests` the types of what it takes.
"""

from eggs_client import models, requests
from eggs_client._async.client import AsyncEggs
from eggs_client._async.jobs import AsyncJob
from eggs_client._sync.client import Eggs
from eggs_client._sync.jobs import Job
from eggs_client._version import __version__
from eggs_client.errors import (
    ApiError,
    BadRequest,
    ClientError,
    Conflict,
    Damaged,
    Forbidden,
    Gone,
    Invalid,
    InvalidConfiguration,
    InvalidRequest,
    JobCancelled,
    JobFailed,
    NoFiles,
    NotFound,
    OutputExists,
    ServerError,
    TooLarge,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    Unreachable,
    UnsafeName,
    WaitedTooLong,
)
from eggs_client.retries import Retries

__all__ = [
    "ApiError",
    "AsyncEggs",
    "AsyncJob",
    "BadRequest",
    "ClientError",
    "Conflict",
    "Damaged",
    "Eggs",
    "Forbidden",
    "Gone",
    "Invalid",
    "InvalidConfiguration",
    "InvalidRequest",
    "Job",
    "JobCancelled",
    "JobFailed",
    "NoFiles",
    "NotFound",
    "OutputExists",
    "Retries",
    "ServerError",
    "TooLarge",
    "TooManyRequests",
    "Unauthenticated",
    "Unavailable",
    "Unreachable",
    "UnsafeName",
    "WaitedTooLong",
    "__version__",
    "models",
    "requests",
]
