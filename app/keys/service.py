"""Rules on API keys: `eggs_<id>_<secret>`, of which only a hash is kept."""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.orm import Session

from app.db import utcnow
from app.ids import is_id, new_id
from app.keys import repository
from app.keys.models import ApiKey

DEFAULT_PROJECT = "default"
_NOTE_USE_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Principal:
    """On whose behalf a request is made."""

    key_id: str
    project: str


class NoSuchKey(Exception):
    """There is no key with this id."""


def create(session: Session, *, name: str, project: str = DEFAULT_PROJECT) -> tuple[ApiKey, str]:
    """A new key and the text to send; the text cannot be had again."""
    key_id = new_id("key")
    token = f"eggs_{key_id.removeprefix('key_')}_{secrets.token_hex(32)}"
    key = ApiKey(id=key_id, project=project, name=name, token_hash=_hash(token), created_at=utcnow())
    repository.add(session, key)
    return key, token


def create_first(session: Session) -> str | None:
    """The text of a new key if none was ever made, else None."""
    return create(session, name="first")[1] if repository.count(session) == 0 else None


def authenticate(session: Session, token: str) -> ApiKey | None:
    """The key that this token belongs to; None for one that is unknown or revoked. Only reads."""
    kind, _, rest = token.partition("_")
    key_id = f"key_{rest.partition('_')[0]}"
    if kind != "eggs" or not is_id("key", key_id):
        return None
    key = repository.get(session, key_id)
    if key is None or key.revoked_at is not None or not hmac.compare_digest(key.token_hash, _hash(token)):
        return None
    return key


def use_is_noted(key: ApiKey) -> bool:
    """Whether the use of a key need not be noted again so soon."""
    return key.last_used_at is not None and key.last_used_at > utcnow() - _NOTE_USE_EVERY


def note_use(session: Session, key: ApiKey) -> None:
    """Notes that a key was used."""
    repository.touch(session, key.id, utcnow())


def revoke(session: Session, key_id: str) -> ApiKey:
    """Ends a key at once; revoking it again changes nothing. Raises `NoSuchKey`."""
    key = repository.get(session, key_id)
    if key is None:
        raise NoSuchKey(key_id)
    key.revoked_at = key.revoked_at or utcnow()
    session.flush()
    return key


def all_keys(session: Session) -> Sequence[ApiKey]:
    """Every key, the oldest first."""
    return repository.all_keys(session)


def _hash(token: str) -> str:
    # A plain hash is enough: the secret has 256 random bits, so there is no dictionary to try.
    return hashlib.sha256(token.encode()).hexdigest()
