"""What requests and answers on webhooks look like."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, HttpUrl

from app.examples import JOB_ID, example, example_list
from app.ids import id_pattern
from app.pages import Page
from app.webhooks.models import DeliveryState, WebhookDelivery, WebhookEndpoint, WebhookEventType

WEBHOOK_ID_PATTERN = id_pattern("whk")
DELIVERY_ID_PATTERN = id_pattern("msg")
WEBHOOK_ID = "whk_01jv3k0s9e6x7q2m4n8p5r1t0w"
DELIVERY_ID = "msg_01jv3k0s9e6x7q2m4n8p5r1t0w"
DEFAULT_EVENTS = (
    WebhookEventType.JOB_QUEUED,
    WebhookEventType.JOB_RUNNING,
    WebhookEventType.JOB_SUCCEEDED,
    WebhookEventType.JOB_FAILED,
    WebhookEventType.JOB_CANCELLED,
)

_WEBHOOK: dict[str, Any] = {
    "object": "webhook",
    "id": WEBHOOK_ID,
    "url": "https://example.com/hooks/eggs",
    "events": ["job.succeeded", "job.failed"],
    "description": "tells the release pipeline",
    "enabled": True,
    "disabled_reason": None,
    "created_at": "2026-05-04T09:19:58.120000Z",
}
_DELIVERY: dict[str, Any] = {
    "object": "webhook.delivery",
    "id": DELIVERY_ID,
    "webhook_id": WEBHOOK_ID,
    "type": "job.succeeded",
    "job_id": JOB_ID,
    "event_id": 34,
    "sweep_id": None,
    "state": "pending",
    "attempts": 1,
    "created_at": "2026-05-04T09:21:58.120000Z",
    "next_attempt_at": "2026-05-04T09:22:03.330000Z",
    "last_attempt_at": "2026-05-04T09:21:58.410000Z",
    "last_status": 503,
    "last_error": "The answer was 503.",
}


def _without_credentials(url: HttpUrl) -> HttpUrl:
    if url.username is not None or url.password is not None:
        raise ValueError("The URL has a user name or password. Leave them out: the signature says who sends.")
    return url


def _sorted(events: list[WebhookEventType]) -> list[WebhookEventType]:
    return [event for event in WebhookEventType if event in events]


Url = Annotated[
    HttpUrl,
    AfterValidator(_without_credentials),
    Field(
        max_length=2048,
        description="`http` or `https`, on any port of a public address; redirects are not followed.",
    ),
]
Events = Annotated[
    list[WebhookEventType],
    AfterValidator(_sorted),
    Field(min_length=1, max_length=len(WebhookEventType), description="What it is told of."),
]
Description = Annotated[
    str, Field(max_length=256, pattern=r"^[^\x00]*$", description="What you know the webhook by.")
]


class WebhookCreate(BaseModel):
    """An address that is to be told of the project's jobs and sweeps."""

    model_config = ConfigDict(extra="forbid") | example(
        {name: _WEBHOOK[name] for name in ("url", "events", "description")}
    )

    url: Url
    events: Events = Field(
        list(DEFAULT_EVENTS), description="What it is told of; by default every change of a job's state."
    )
    description: Description = ""


class WebhookUpdate(BaseModel):
    """What is to change; the rest stays as it is."""

    model_config = ConfigDict(extra="forbid") | example({"enabled": False})

    url: Url | None = None
    events: Events | None = None
    description: Description | None = None
    enabled: bool | None = Field(
        None, description="One that is disabled is sent nothing, and what was still to be sent fails."
    )


class WebhookResource(BaseModel):
    """A webhook, without its secret."""

    model_config = example(_WEBHOOK)

    object: Literal["webhook"] = "webhook"
    id: str = Field(description="Sorts by creation.")
    url: str
    events: list[WebhookEventType]
    description: str
    enabled: bool = Field(description="Whether anything is sent.")
    disabled_reason: str | None = Field(description="Why the service has disabled it, if it was not you.")
    created_at: datetime

    @classmethod
    def of(cls, webhook: WebhookEndpoint) -> Self:
        """As the API shows it."""
        return cls(**_fields(webhook))


class WebhookWithSecret(WebhookResource):
    """A webhook, with the secret that its messages are signed with."""

    model_config = example(_WEBHOOK | {"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="})

    secret: str = Field(description="To verify messages with. Shown only this once.")

    @classmethod
    def of_new(cls, webhook: WebhookEndpoint, secret: str) -> Self:
        """As the API shows it once."""
        return cls(**_fields(webhook), secret=secret)


class WebhookList(Page[WebhookResource, str]):
    """One page of webhooks, newest first. For the next one, pass `last_id` as `after`."""

    model_config = example_list(_WEBHOOK)


class WebhookDeleted(BaseModel):
    """A webhook is gone."""

    model_config = example({"object": "webhook", "id": WEBHOOK_ID, "deleted": True})

    object: Literal["webhook"] = "webhook"
    id: str
    deleted: Literal[True] = True


class DeliveryResource(BaseModel):
    """A message to a webhook, and what became of it."""

    model_config = example(_DELIVERY)

    object: Literal["webhook.delivery"] = "webhook.delivery"
    id: str = Field(description="The message's `webhook-id`, the same in every attempt.")
    webhook_id: str
    type: str = Field(description="The type of the event; `webhook.ping` for a ping.")
    job_id: str | None
    event_id: int | None = Field(description="Number of the event within the job.")
    sweep_id: str | None
    state: DeliveryState
    attempts: int
    created_at: datetime
    next_attempt_at: datetime | None = Field(description="While it is pending: when it is tried at the earliest.")
    last_attempt_at: datetime | None
    last_status: int | None = Field(description="HTTP status of the last answer; null where there was none.")
    last_error: str | None = Field(description="What was wrong the last time; null if nothing was.")

    @classmethod
    def of(cls, delivery: WebhookDelivery) -> Self:
        """As the API shows it."""
        return cls(
            id=delivery.id,
            webhook_id=delivery.endpoint_id,
            type=delivery.type,
            job_id=delivery.job_id,
            event_id=delivery.sequence,
            sweep_id=delivery.sweep_id,
            state=delivery.state,
            attempts=delivery.attempts,
            created_at=delivery.created_at,
            next_attempt_at=delivery.next_attempt_at,
            last_attempt_at=delivery.last_attempt_at,
            last_status=delivery.last_status,
            last_error=delivery.last_error,
        )


class DeliveryList(Page[DeliveryResource, str]):
    """One page of messages, newest first. For the next one, pass `last_id` as `after`."""

    model_config = example_list(_DELIVERY)


def _fields(webhook: WebhookEndpoint) -> dict[str, Any]:
    fields = {name: getattr(webhook, name) for name in WebhookResource.model_fields if name != "object"}
    return fields | {"events": webhook.events.split()}
