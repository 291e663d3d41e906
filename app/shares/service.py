"""Rules on links, `eggs_share_<id>_<secret>`, of which only a hash is kept.

A link ends after some days, with the key it was made with, or when it is deleted.
"""

import hmac
import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from app.audit import service as audit
from app.db import utcnow
from app.ids import is_id, new_id
from app.jobs import service as jobs
from app.keys import service as keys
from app.keys.scopes import Scope
from app.keys.service import Principal, hash_of
from app.problems import Problem
from app.shares import repository
from app.shares.models import ShareLink

COOKIE = "eggs_share"
"""Holds a link's token for the paths of its job, so that a browser's streams and downloads need no header."""
EXCHANGE = "/v1/shared"
_PREFIX = "eggs_share_"
_LASTS = timedelta(days=7)
_SAFE = ("GET", "HEAD")
_BELOW_A_JOB = re.compile(r"(/(events|report|lineage|(artifacts|masks)(/.*)?))?", re.DOTALL)


def create(
    session: Session, principal: Principal, job_id: str, expires_at: datetime | None
) -> tuple[ShareLink, str]:
    """A new link to a job of the project, for a week if `expires_at` is None, and its token, shown only now.

    Raises a 404 `Problem` where there is no such job.
    """
    job = jobs.get(session, principal.project, job_id)
    now = utcnow()
    repository.remove_expired(session, now)
    link_id = new_id("share")
    token = f"{_PREFIX}{link_id.removeprefix('share_')}_{secrets.token_hex(32)}"
    link = ShareLink(
        id=link_id,
        job_id=job.id,
        key_id=principal.key_id,
        token_hash=hash_of(token),
        created_at=now,
        expires_at=expires_at or now + _LASTS,
    )
    repository.add(session, link)
    audit.note(session, principal.project, principal.key_id, audit.Action.SHARE_CREATED, link.id)
    return link, token


def of_job(session: Session, project: str, job_id: str) -> Sequence[ShareLink]:
    """The links of a job of the project, the oldest first. Raises a 404 `Problem` where there is no such job."""
    return repository.of_job(session, jobs.get(session, project, job_id).id)


def delete(session: Session, principal: Principal, job_id: str, link_id: str) -> None:
    """Ends a link at once. Raises a 404 `Problem` where the project has no such job, or the job no such link."""
    job = jobs.get(session, principal.project, job_id)
    if not is_id("share", link_id) or not repository.remove(session, job.id, link_id):
        raise Problem(
            "share-not-found",
            "No such link",
            404,
            f"GET /v1/jobs/{job.id}/shares lists the links that the job has.",
        )
    audit.note(session, principal.project, principal.key_id, audit.Action.SHARE_DELETED, link_id)


def is_token(text: str) -> bool:
    """Whether this is a link's token, open or not."""
    return text.startswith(_PREFIX)


def authenticate(session: Session, token: str) -> Principal | None:
    """Whoever has this link: may read one job. None for one that is unknown, over or deleted. Only reads."""
    link_id = f"share_{token.removeprefix(_PREFIX).partition('_')[0]}"
    found = repository.with_key(session, link_id) if is_token(token) and is_id("share", link_id) else None
    if found is None:
        return None
    link, key = found
    if (
        not hmac.compare_digest(link.token_hash, hash_of(token))
        or link.expires_at <= utcnow()
        or not keys.is_open(key)
    ):
        return None
    return Principal(key.id, key.project, frozenset({Scope.JOBS_READ}), link=(link.id, link.job_id))


def opens(job_id: str, method: str, path: str) -> bool:
    """Whether a link to a job opens this path. What is not named here it does not, whatever comes to be there."""
    if (method, path) == ("POST", EXCHANGE):
        return True
    own = f"/v1/jobs/{job_id}"
    return method in _SAFE and path.startswith(own) and _BELOW_A_JOB.fullmatch(path, len(own)) is not None


def current(session: Session, principal: Principal) -> ShareLink:
    """The link that asks. Raises a 404 `Problem` where a key or a session does."""
    found = None if principal.link is None else repository.with_key(session, principal.link[0])
    if found is None:
        raise Problem(
            "share-not-found",
            "This request has no link",
            404,
            "It was made with an API key. Send what follows `#` in the link as `Authorization: Bearer …`.",
        )
    return found[0]
