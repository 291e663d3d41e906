"""Imports every table, so that `Base.metadata` is complete for whoever needs it whole."""

from app.artifacts.models import Artifact, StoredLocation
from app.audit.models import AuditEntry
from app.db import Base
from app.files.models import JobFile, UploadedFile
from app.idempotency import IdempotencyKey
from app.jobs.models import Job, JobEvent, JobTracking
from app.keys.models import ApiKey
from app.sessions.models import BrowserSession
from app.shares.models import ShareLink
from app.sweeps.models import Sweep
from app.webhooks.models import WebhookDelivery, WebhookEndpoint
from app.workers.models import Worker

__all__ = [
    "ApiKey",
    "Artifact",
    "AuditEntry",
    "Base",
    "BrowserSession",
    "IdempotencyKey",
    "Job",
    "JobEvent",
    "JobFile",
    "JobTracking",
    "ShareLink",
    "StoredLocation",
    "Sweep",
    "UploadedFile",
    "WebhookDelivery",
    "WebhookEndpoint",
    "Worker",
]
