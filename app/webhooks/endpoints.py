"""HTTP on webhooks.

All of it needs the scope `admin`: a webhook is shown every job and sweep of the project, and still is when the key
that made it has ended.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import HttpUrl

from app.dependencies import AdminDep, SecretsDep, SessionDep
from app.openapi import problems
from app.problems import Problem
from app.webhooks import addresses, service
from app.webhooks.models import DeliveryState
from app.webhooks.payloads import JobEventPayload, PingPayload, SweepPayload
from app.webhooks.schemas import (
    DELIVERY_ID,
    DELIVERY_ID_PATTERN,
    WEBHOOK_ID,
    WEBHOOK_ID_PATTERN,
    DeliveryList,
    DeliveryResource,
    WebhookCreate,
    WebhookDeleted,
    WebhookList,
    WebhookResource,
    WebhookUpdate,
    WebhookWithSecret,
)

router = APIRouter(prefix="/v1/webhooks", tags=["Webhooks"])
# What others are asked, for the OpenAPI document alone.
told = APIRouter()

WebhookId = Annotated[str, Path(description="The webhook's id.", examples=[WEBHOOK_ID])]
DeliveryId = Annotated[str, Path(description="The message's id.", examples=[DELIVERY_ID])]


async def _checked(request: Request, url: HttpUrl) -> None:
    assert url.host is not None
    assert url.port is not None
    state = request.app.state
    try:
        await addresses.check(
            url.host, url.port, allow_private=state.settings.webhook_allow_private, limiter=state.resolvers
        )
    except addresses.AddressRefused as error:
        raise Problem(
            "webhook-address-refused",
            "Nothing is sent to this address",
            422,
            f"{error} Use an address in the Internet; the operator may allow private ones.",
        ) from None


# These come before the session in the lists of parameters: nothing holds the database while a name is resolved.
async def _checked_new(body: WebhookCreate, request: Request, _: AdminDep) -> WebhookCreate:
    await _checked(request, body.url)
    return body


async def _checked_change(body: WebhookUpdate, request: Request, _: AdminDep) -> WebhookUpdate:
    if body.url is not None:
        await _checked(request, body.url)
    return body


@router.post("", status_code=201, summary="Make a webhook", responses=problems(409))
def create(
    body: Annotated[WebhookCreate, Depends(_checked_new)],
    request: Request,
    response: Response,
    session: SessionDep,
    secrets: SecretsDep,
    principal: AdminDep,
) -> WebhookWithSecret:
    """Has the project's jobs and sweeps told of to an address. Needs the scope `admin`, as all of these do.

    What is sent is described under `webhooks` in `/openapi.json`, and signed as
    [Standard Webhooks](https://www.standardwebhooks.com) says, with the `secret` that is in this answer and
    nowhere else. What is not answered with a status of 2xx within 15 seconds is sent again, over a day, under the
    same `webhook-id`; 410 disables the webhook.
    """
    webhook, secret = service.create(session, secrets, principal, body)
    response.headers["Location"] = str(request.url_for("get_webhook", webhook_id=webhook.id).path)
    return WebhookWithSecret.of_new(webhook, secret)


@router.get("", summary="List webhooks")
def list_webhooks(
    session: SessionDep,
    principal: AdminDep,
    limit: Annotated[int, Query(ge=1, le=100, description="Webhooks on a page.")] = 20,
    after: Annotated[
        str | None, Query(pattern=WEBHOOK_ID_PATTERN, description="`last_id` of the page before.")
    ] = None,
) -> WebhookList:
    """The project's webhooks, newest first."""
    webhooks, more = service.page(session, principal.project, limit=limit, after=after)
    data = [WebhookResource.of(webhook) for webhook in webhooks]
    return WebhookList.of(data, more=more)


@router.get("/{webhook_id}", summary="Get a webhook", responses=problems(404))
def get_webhook(webhook_id: WebhookId, session: SessionDep, principal: AdminDep) -> WebhookResource:
    """One webhook, without its secret."""
    return WebhookResource.of(service.get(session, principal.project, webhook_id))


@router.patch("/{webhook_id}", summary="Change a webhook", responses=problems(404))
def update(
    webhook_id: WebhookId,
    body: Annotated[WebhookUpdate, Depends(_checked_change)],
    session: SessionDep,
    principal: AdminDep,
) -> WebhookResource:
    """Changes what the body has. What is still to be sent goes to the new address."""
    return WebhookResource.of(service.update(session, principal, webhook_id, body))


@router.delete("/{webhook_id}", summary="Delete a webhook", responses=problems(404))
def delete(webhook_id: WebhookId, session: SessionDep, principal: AdminDep) -> WebhookDeleted:
    """Removes a webhook and its log; what was still to be sent is not."""
    service.delete(session, principal, webhook_id)
    return WebhookDeleted(id=webhook_id)


@router.post("/{webhook_id}/secret", summary="Rotate a webhook's secret", responses=problems(404))
def rotate(
    webhook_id: WebhookId, session: SessionDep, secrets: SecretsDep, principal: AdminDep
) -> WebhookWithSecret:
    """Gives a webhook a new secret, which is in this answer and nowhere else.

    For 24 hours messages are signed with the old one as well, so that receivers can change over.
    """
    return WebhookWithSecret.of_new(*service.rotate(session, secrets, principal, webhook_id))


@router.post("/{webhook_id}/ping", status_code=202, summary="Try a webhook", responses=problems(404, 409))
def ping(webhook_id: WebhookId, session: SessionDep, principal: AdminDep) -> DeliveryResource:
    """Sends a message of type `webhook.ping`; the log of deliveries has what became of it a moment later."""
    return DeliveryResource.of(service.ping(session, principal, webhook_id))


@router.get("/{webhook_id}/deliveries", summary="List what was sent", responses=problems(404))
def list_deliveries(
    webhook_id: WebhookId,
    session: SessionDep,
    principal: AdminDep,
    limit: Annotated[int, Query(ge=1, le=100, description="Messages on a page.")] = 20,
    after: Annotated[
        str | None, Query(pattern=DELIVERY_ID_PATTERN, description="`last_id` of the page before.")
    ] = None,
    state: Annotated[DeliveryState | None, Query(description="Only messages in this state.")] = None,
) -> DeliveryList:
    """The messages to a webhook of the last 30 days, newest first, and what became of each."""
    found, more = service.deliveries(session, principal.project, webhook_id, limit=limit, after=after, state=state)
    data = [DeliveryResource.of(delivery) for delivery in found]
    return DeliveryList.of(data, more=more)


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/redeliver",
    status_code=202,
    summary="Send a message again",
    responses=problems(404, 409),
)
def redeliver(
    webhook_id: WebhookId, delivery_id: DeliveryId, session: SessionDep, principal: AdminDep
) -> DeliveryResource:
    """Sends a message at once, whatever became of it before, with all its tries and under the same id."""
    return DeliveryResource.of(service.redeliver(session, principal, webhook_id, delivery_id))


_TOLD: dict[str, Any] = {
    "status_code": 204,
    "response_description": "It has arrived; so does any other status of 2xx say.",
    "responses": {
        410: {"description": "The webhook is not wanted any more: it is disabled."},
        "default": {"description": "It is sent again later."},
    },
    "description": "Sent with the headers `webhook-id`, `webhook-timestamp` and `webhook-signature` of Standard "
    "Webhooks, to the project's webhooks that are to be told of it.",
}


@told.post("job-event", summary="Something has happened to a job", **_TOLD)
def job_event(body: JobEventPayload) -> None: ...


@told.post("sweep-completed", summary="The last job of a sweep has ended", **_TOLD)
def sweep_completed(body: SweepPayload) -> None: ...


@told.post("ping", summary="Somebody tries the webhook", **_TOLD)
def pinged(body: PingPayload) -> None: ...
