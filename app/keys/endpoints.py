"""HTTP on keys."""

from typing import Annotated

from fastapi import APIRouter, Path

from app.dependencies import AdminDep, SessionDep
from app.keys import service
from app.keys.schemas import CreatedKey, KeyCreate, KeyList, KeyResource
from app.openapi import problems
from app.problems import Problem

router = APIRouter(prefix="/v1/keys", tags=["Keys"])


@router.get("", summary="List keys", responses=problems(403))
def list_keys(session: SessionDep, principal: AdminDep) -> KeyList:
    """The project's keys, the oldest first. Needs the scope `admin`, as all of these do."""
    data = [KeyResource.of(key) for key in service.all_keys(session, principal.project)]
    return KeyList.of(data)


@router.post("", status_code=201, summary="Make a key", responses=problems(403))
def create(body: KeyCreate, session: SessionDep, principal: AdminDep) -> CreatedKey:
    """A new key of the project. Its `token` is in this answer and nowhere else."""
    key, token = service.create(
        session,
        name=body.name,
        project=principal.project,
        scopes=body.scopes,
        expires_at=body.expires_at,
        limits=body.limits,
        by=principal.key_id,
    )
    return CreatedKey.of_new(key, token)


@router.post("/{key_id}/revoke", summary="End a key", responses=problems(403, 404))
def revoke(
    key_id: Annotated[str, Path(description="The key's id.", examples=["key_01jv3k0s9e6x7q2m4n8p5r1t0w"])],
    session: SessionDep,
    principal: AdminDep,
) -> KeyResource:
    """Ends a key at once, the one that asks included; ending it again changes nothing."""
    try:
        return KeyResource.of(service.revoke(session, key_id, project=principal.project, by=principal.key_id))
    except service.NoSuchKey:
        raise Problem(
            "key-not-found",
            "No such key",
            404,
            "The project has no key with that id. GET /v1/keys lists its keys.",
        ) from None
