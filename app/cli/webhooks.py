"""Commands on webhooks, by a service. All of them need a key with the scope `admin`."""

from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import options
from app.cli.connection import connect
from app.cli.options import DEFAULT_URL
from app.cli.render import age, console, listing, plain, time_left, write_json

if TYPE_CHECKING:
    from eggs_client.models import DeliveryResource
    from eggs_client.requests import WebhookCreate

app = typer.Typer(
    help="Have addresses told of jobs and sweeps. Needs a key with the scope admin.", no_args_is_help=True
)

WebhookId = Annotated[str, typer.Argument(metavar="WEBHOOK", help="The webhook's id.")]


@app.command("list")
def list_webhooks(key: options.Key, url: options.Url = DEFAULT_URL, as_json: options.Json = False) -> None:
    """List the project's webhooks."""
    with connect(url, key) as client:
        found = list(client.webhooks.list())
    if as_json:
        write_json(found)
        return
    table = listing("Webhook", "URL", "Events", "Description", "Enabled", whole=("Webhook",))
    for webhook in found:
        enabled = "yes" if webhook.enabled else f"no: {webhook.disabled_reason or 'by you'}"
        table.add_row(
            webhook.id, plain(webhook.url), " ".join(webhook.events), plain(webhook.description), plain(enabled)
        )
    console.print(table)


@app.command()
def create(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Where messages are sent: an http(s) URL.")],
    key: options.Key,
    url: options.Url = DEFAULT_URL,
    event: Annotated[
        list[str] | None,
        typer.Option(
            help="What it is told of, such as job.succeeded or sweep.completed; may be given again. By default "
            "every change of a job's state."
        ),
    ] = None,
    description: Annotated[str, typer.Option(help="What you know it by.")] = "",
    as_json: options.Json = False,
) -> None:
    """Have an address told of jobs or sweeps. Prints the webhook's id and, this once, the secret that signs."""
    request: WebhookCreate = {"url": address, "description": description}
    if event:
        request["events"] = event  # type: ignore[typeddict-item]  # the service says which there are
    with connect(url, key) as client:
        webhook = client.webhooks.create(**request)
    if as_json:
        write_json(webhook)
    else:
        console.print(f"{webhook.id}\n{webhook.secret}", highlight=False, soft_wrap=True)


@app.command()
def delete(
    webhook: WebhookId, key: options.Key, url: options.Url = DEFAULT_URL, as_json: options.Json = False
) -> None:
    """Remove a webhook and its log. What was still to be sent is not."""
    with connect(url, key) as client:
        client.webhooks.delete(webhook)
    if as_json:
        write_json({"id": webhook, "deleted": True})
    else:
        console.print(f"{webhook} is deleted.", highlight=False)


@app.command()
def deliveries(
    webhook: WebhookId,
    key: options.Key,
    url: options.Url = DEFAULT_URL,
    limit: Annotated[int, typer.Option(min=1, help="Messages to list.")] = 20,
    only: Annotated[
        str | None, typer.Option("--state", help="Only messages in this state: pending, delivered or failed.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List what was sent to a webhook, and what became of it."""
    with connect(url, key) as client:
        found = list(client.webhooks.deliveries(webhook, state=only, limit=limit))
    if as_json:
        write_json(found)
        return
    headings = ("Message", "State", "Tries", "Last try", "Next try", "Answer", "Type", "About")
    table = listing(*headings, whole=("Message", "State", "Last try", "Next try"))
    for delivery in found:
        table.add_row(
            delivery.id,
            delivery.state,
            str(delivery.attempts),
            age(delivery.last_attempt_at),
            time_left(delivery.next_attempt_at),
            plain(delivery.last_error or str(delivery.last_status or "")),
            delivery.type,
            delivery.job_id or delivery.sweep_id or "",
        )
    console.print(table)


@app.command()
def redeliver(
    webhook: WebhookId,
    message: Annotated[str, typer.Argument(metavar="MESSAGE", help="Its id, from `eggs webhooks deliveries`.")],
    key: options.Key,
    url: options.Url = DEFAULT_URL,
    as_json: options.Json = False,
) -> None:
    """Send a message again, at once and under the same id."""
    with connect(url, key) as client:
        _show(client.webhooks.redeliver(webhook, message), as_json)


@app.command()
def ping(
    webhook: WebhookId, key: options.Key, url: options.Url = DEFAULT_URL, as_json: options.Json = False
) -> None:
    """Try a webhook with a message of type webhook.ping."""
    with connect(url, key) as client:
        _show(client.webhooks.ping(webhook), as_json)


def _show(delivery: "DeliveryResource", as_json: bool) -> None:
    if as_json:
        write_json(delivery)
    else:
        follow = f"eggs webhooks deliveries {delivery.webhook_id}"
        console.print(f"{delivery.id} is sent; what becomes of it: {follow}", highlight=False)
