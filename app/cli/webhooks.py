"""`python -m app webhooks create URL | list | rotate ID | disable ID | enable ID | deliveries ID | redeliver ID`"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import click

from app.cli.connection import command_line_action, database_url, open_database
from app.outgoing_webhooks import deliveries, endpoints
from app.outgoing_webhooks.models import WebhookDelivery, WebhookEndpoint
from app.settings import get_settings
from app.state import webhook_secrets

MAX_LISTED = 50


@asynccontextmanager
async def _connected() -> AsyncIterator[None]:
    with database_url() as url:
        async with open_database(url):
            yield


async def create(url: str, *, event_types: Sequence[str], description: str, in_order: bool) -> None:
    """Print only the secret to stdout, so that it can be piped into a secret store."""
    settings = get_settings()
    async with _connected():
        endpoint, secret = await endpoints.create_endpoint(
            url,
            box=webhook_secrets(settings),
            allow_private=settings.environment == "development",
            description=description,
            event_types=event_types,
            in_order=in_order,
            audit=command_line_action("createWebhookEndpoint"),
        )
    _print_secret(endpoint, secret)


async def rotate(endpoint_id: str) -> None:
    """Print only the new secret to stdout."""
    async with _connected():
        endpoint, secret = await endpoints.rotate_secret(
            endpoint_id, box=webhook_secrets(get_settings()), audit=command_line_action("rotateWebhookSecret")
        )
    _print_secret(endpoint, secret)


async def list_endpoints() -> None:
    """Print a line for each endpoint."""
    async with _connected():
        found = await endpoints.list_endpoints()
    if not found:
        click.echo("There are no endpoints: create one with `python -m app webhooks create URL`.")
    for endpoint in found:
        types = ", ".join(endpoint.event_types) or "all types"
        order = ", in order" if endpoint.in_order else ""
        click.echo(f"{endpoint.id}  {endpoint.url}  {types}{order}  {_state(endpoint)}")


async def disable(endpoint_id: str, reason: str) -> None:
    """Disable an endpoint."""
    async with _connected():
        await endpoints.disable_endpoint(endpoint_id, reason, audit=command_line_action("disableWebhookEndpoint"))
    click.echo(f"{endpoint_id} is disabled. Its pending deliveries wait until it is enabled.")


async def enable(endpoint_id: str) -> None:
    """Enable an endpoint."""
    async with _connected():
        await endpoints.enable_endpoint(endpoint_id, audit=command_line_action("enableWebhookEndpoint"))
    click.echo(f"{endpoint_id} is enabled.")


async def list_deliveries(endpoint_id: str, *, only_failed: bool) -> None:
    """Print a line for each of the newest deliveries of an endpoint."""
    async with _connected():
        await endpoints.get_endpoint(endpoint_id)
        found = await deliveries.list_deliveries(
            endpoint_id, before_id=2**63 - 1, limit=MAX_LISTED, only_failed=only_failed
        )
    if not found:
        click.echo("There are no such deliveries.")
    for delivery in found:
        click.echo(f"{delivery.id}  {_time(delivery.created_at)}  {delivery.event_type}  {_progress(delivery)}")


async def redeliver(delivery_id: int) -> None:
    """Send a delivery again."""
    async with _connected():
        await deliveries.redeliver(delivery_id, audit=command_line_action("redeliverWebhook"))
    click.echo(f"Delivery {delivery_id} will be sent again within seconds, if a server is running.")


def _print_secret(endpoint: WebhookEndpoint, secret: str) -> None:
    click.echo(secret)
    click.echo(
        f"This is the secret of {endpoint.id}. Store it now: it is not shown again. Receivers verify the signature of "
        "each request with it.",
        err=True,
    )


def _state(endpoint: WebhookEndpoint) -> str:
    if endpoint.disabled_at is not None:
        return f"disabled {_time(endpoint.disabled_at)}: {endpoint.disabled_reason}"
    return "enabled" if endpoint.failing_since is None else f"failing since {_time(endpoint.failing_since)}"


def _progress(delivery: WebhookDelivery) -> str:
    if delivery.delivered_at is not None:
        return f"delivered {_time(delivery.delivered_at)}"
    if delivery.failed_at is not None:
        return f"given up {_time(delivery.failed_at)}: {delivery.last_error}"
    if delivery.last_error is not None:
        return f"attempt {delivery.attempts} failed ({delivery.last_error}); next {_time(delivery.next_attempt_at)}"
    return "pending"


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
