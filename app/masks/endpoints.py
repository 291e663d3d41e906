"""HTTP on masks."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, TypeVar

from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request, Response

from app.dependencies import PrincipalDep, ReadersDep, StoreDep
from app.jobs.endpoints import JobId
from app.masks import service
from app.masks.picture import Window
from app.masks.schemas import MaskList, MaskResource
from app.openapi import problems

router = APIRouter(prefix="/v1/jobs/{job_id}/masks", tags=["Masks"])

_MEDIA_TYPE = "image/png"
_MOST = 2**31 - 1

T = TypeVar("T")

Pixels = Annotated[int, Query(ge=1, le=256, description="Pixels; fewer where the mask ends before.")]


@router.get("", summary="List a job's masks", responses=problems(404, 409, 410))
async def list_masks(
    job_id: JobId, request: Request, readers: ReadersDep, store: StoreDep, principal: PrincipalDep
) -> MaskList:
    """The layers whose masks can be drawn: those that the job has left in packed form."""
    job, layers = await _read(request, partial(service.of_job, readers, store, principal.project, job_id))
    return MaskList.of([MaskResource.of(job.id, layer) for layer in layers])


@router.get(
    "/{layer:path}",
    summary="Draw a mask",
    response_class=Response,
    responses={**problems(404, 409, 410), 200: {"description": "The picture.", "content": {_MEDIA_TYPE: {}}}},
)
async def draw(
    job_id: JobId,
    layer: Annotated[str, Path(description="The layer's name.", examples=["model.layers.0.self_attn.q_proj"])],
    request: Request,
    readers: ReadersDep,
    store: StoreDep,
    principal: PrincipalDep,
    row: Annotated[int, Query(ge=0, le=_MOST, description="The first output channel.")] = 0,
    column: Annotated[int, Query(ge=0, le=_MOST, description="The first input channel.")] = 0,
    height: Pixels = 256,
    width: Pixels = 256,
    scale: Annotated[int, Query(ge=1, le=32, description="Rows, and columns, that a pixel stands for.")] = 1,
) -> Response:
    """A window of a layer's mask, rows downwards, as a PNG of 8 bits of grey: white where a weight is kept.

    Of several rows and columns a pixel has the share that the column keeps that keeps fewest: their mean would be
    N/M everywhere.
    """
    window = Window(row, column, height, width, scale)
    picture = await _read(
        request, partial(service.picture, readers, store, principal.project, job_id, layer, window)
    )
    return Response(
        picture, media_type=_MEDIA_TYPE, headers={"Cache-Control": "private, max-age=31536000, immutable"}
    )


async def _read(request: Request, read: Callable[[], T]) -> T:
    # Not in the threads that all requests share: a store that does not answer would come to hold all of them.
    return await to_thread.run_sync(read, limiter=request.app.state.store_readers)
