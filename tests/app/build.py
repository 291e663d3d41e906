"""Makes what the tests need, through the services that make it in earnest."""

from collections.abc import Sequence

from sqlalchemy.orm import Session, sessionmaker

from app.jobs import repository, service
from app.jobs.models import Job, JobEvent
from app.jobs.schemas import JobCreate
from app.keys import service as keys_service
from app.keys.limits import KeyLimits
from app.keys.scopes import Scope
from app.keys.service import Principal
from app.secrets import Secrets
from app.settings import Settings
from app.webhooks import service as webhooks_service
from app.webhooks.schemas import WebhookCreate

Sessions = sessionmaker[Session]


def make_key(sessions: Sessions, project: str = "default", **limits: int) -> tuple[str, str]:
    """A new key, with limits of its own: its id, and the token to send."""
    with sessions.begin() as session:
        key, token = keys_service.create(session, name="test", project=project, limits=KeyLimits(**limits))
        return key.id, token


def make_job(sessions: Sessions, project: str = "default", **request: object) -> str:
    """The id of a new queued job."""
    body = JobCreate.model_validate({"model": "smollm2-135m-instruct", **request})
    key_id, _ = make_key(sessions, project)
    with sessions.begin() as session:
        return service.create(session, project=project, key_id=key_id, body=body).id


def read_job(sessions: Sessions, job_id: str) -> Job:
    """The job as it is stored now."""
    with sessions() as session:
        job = repository.get(session, job_id)
        assert job is not None
        return job


def events_of(sessions: Sessions, job_id: str) -> Sequence[JobEvent]:
    """All events of a job, in order."""
    with sessions() as session:
        return repository.events(session, job_id, after=0, limit=1000)


def principal_of(sessions: Sessions, project: str = "default") -> Principal:
    """Somebody who may do everything in a project."""
    return Principal(make_key(sessions, project)[0], project, frozenset(Scope))


def make_webhook(
    sessions: Sessions, settings: Settings, url: str, project: str = "default", **fields: object
) -> tuple[str, str]:
    """A new webhook, its address unchecked: its id and its secret."""
    body = WebhookCreate.model_validate({"url": url, **fields})
    principal = principal_of(sessions, project)
    with sessions.begin() as session:
        webhook, secret = webhooks_service.create(session, Secrets(settings), principal, body)
        return webhook.id, secret
