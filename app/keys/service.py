"""Rules on API keys: `eggs_<id>_<secret>`, of which only a hash is kept."""

import hashlib
import hmac
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from app.audit import service as audit
from app.db import utcnow
from app.ids import is_id, new_id
from app.keys import limits, repository
from app.keys.limits import KeyLimits
from app.keys.models import ApiKey
from app.keys.scopes import DEFAULT_SCOPES, Scope

DEFAULT_PROJECT = "default"
_NOTE_USE_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Principal:
    """On whose behalf a request is made."""

    key_id: str
    project: str
    scopes: frozenset[Scope]
    session_id: str | None = None
    """Of the browser's session, where no key was sent."""
    link: tuple[str, str] | None = None
    """Of a link that shows one job, and of that job, where neither was sent."""
    limits: KeyLimits = limits.NONE
    """The key's own."""


class NoSuchKey(Exception):
    """There is no key with this id."""


def create(
    session: Session,
    *,
    name: str,
    project: str = DEFAULT_PROJECT,
    scopes: Collection[Scope] = DEFAULT_SCOPES,
    expires_at: datetime | None = None,
    limits: KeyLimits = limits.NONE,
    by: str | None = None,
) -> tuple[ApiKey, str]:
    """A new key and the text to send; the text cannot be had again. `by`: the key that asks, for the audit log."""
    key_id = new_id("key")
    token = f"eggs_{key_id.removeprefix('key_')}_{secrets.token_hex(32)}"
    key = ApiKey(
        id=key_id,
        project=project,
        name=name,
        token_hash=hash_of(token),
        scopes=" ".join(sorted(set(scopes))),
        created_at=utcnow(),
        expires_at=expires_at,
        **limits.columns(),
    )
    repository.add(session, key)
    audit.note(session, project, by, audit.Action.KEY_CREATED, key.id)
    return key, token


def create_first(session: Session) -> str | None:
    """The text of a new key if none was ever made, else None."""
    return create(session, name="first", scopes=list(Scope))[1] if repository.count(session) == 0 else None


def authenticate(session: Session, token: str) -> ApiKey | None:
    """The key that this token belongs to; None for one that is unknown, expired or revoked. Only reads."""
    kind, _, rest = token.partition("_")
    key_id = f"key_{rest.partition('_')[0]}"
    if kind != "eggs" or not is_id("key", key_id):
        return None
    key = repository.get(session, key_id)
    if key is None or not hmac.compare_digest(key.token_hash, hash_of(token)):
        return None
    return key if is_open(key) else None


def is_open(key: ApiKey) -> bool:
    """Whether a key has neither expired nor been revoked."""
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > utcnow())


def use_is_noted(key: ApiKey) -> bool:
    """Whether the use of a key need not be noted again so soon."""
    return key.last_used_at is not None and key.last_used_at > utcnow() - _NOTE_USE_EVERY


def note_use(session: Session, key: ApiKey) -> None:
    """Notes that a key was used."""
    repository.touch(session, key.id, utcnow())


def revoke(session: Session, key_id: str, *, project: str | None = None, by: str | None = None) -> ApiKey:
    """Ends a key at once; revoking it again changes nothing. `by`: as for `create`.

    Raises `NoSuchKey`, also for one of another project where one is given.
    """
    key = repository.get(session, key_id) if is_id("key", key_id) else None
    if key is None or project not in (None, key.project):
        raise NoSuchKey(key_id)
    if key.revoked_at is None:
        key.revoked_at = utcnow()
        session.flush()
        audit.note(session, key.project, by, audit.Action.KEY_REVOKED, key.id)
    return key


def all_keys(session: Session, project: str | None = None) -> Sequence[ApiKey]:
    """Every key, or every one of a project, the oldest first."""
    return repository.all_keys(session, project)


def hash_of(token: str) -> str:
    """What is kept of a token."""
    # A plain hash is enough: the secret has 256 random bits, so there is no dictionary to try. What a client sends
    # in place of a token is whatever it likes, surrogates too.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
