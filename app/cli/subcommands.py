"""The commands that have subcommands: `keys`, `prices`, `documents`, `provider-events` and `webhooks`.

Each subcommand imports its module when it runs, so that `--help` is fast.
"""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from app.cli.command_group import INSTANT

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
PATH = click.Path(path_type=Path)


@click.group()
def keys() -> None:
    """Create, list and revoke service keys.

    To replace a key without an outage: create a second key with the same name, deploy it, then revoke the first key.
    """


@keys.command("create")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice(["charge", "read", "admin"]),
    help="charge: run and charge tasks, and read; read: read any account; admin: the rights of operators. Repeatable.",
)
@click.option("--expires-at", type=INSTANT, help="2026-01-31T00:00:00Z. Default: never.")
def keys_create(name: str, scopes: tuple[str, ...], expires_at: datetime | None) -> None:
    """Create a key for NAME and print it.

    It is shown only once. Example: keys create executor --scope charge
    """
    from app.cli import keys

    asyncio.run(keys.create(name, scopes, expires_at=expires_at))


@keys.command("list")
def keys_list() -> None:
    """List all keys, revoked and expired ones too, without their secrets."""
    from app.cli import keys

    asyncio.run(keys.list_keys())


@keys.command("revoke")
@click.argument("id")
def keys_revoke(id: str) -> None:
    """Revoke the key ID (or the whole key). Servers refuse it within 5 seconds."""
    from app.cli import keys

    asyncio.run(keys.revoke(id))


@click.group()
def prices() -> None:
    """Show, check and publish rate cards."""


@prices.command("show")
@click.option("--version", type=click.IntRange(1, 2**31 - 1), help="Any published version. Default: the one in force.")
def prices_show(version: int | None) -> None:
    """Print the rate card as a file that can be edited and published."""
    from app.cli import prices

    asyncio.run(prices.show(version))


@prices.command("check")
@click.argument("file", type=FILE)
def prices_check(file: Path) -> None:
    """Check whether FILE can be published, and print every problem."""
    from app.cli import prices

    prices.check(file)


@prices.command("publish")
@click.argument("file", type=FILE)
@click.option(
    "--at",
    "effective_at",
    type=INSTANT,
    help="2026-01-31T00:00:00Z. Default: in 11 s.",
)
@click.option("--reason", help="The reason, for the audit log.")
@click.option("--key", help="Idempotency key: repeating it publishes nothing new.")
def prices_publish(file: Path, effective_at: datetime | None, reason: str | None, key: str | None) -> None:
    """Publish FILE as the next rate card."""
    from app.cli import prices

    prices.publish(file, effective_at=effective_at, reason=reason, key=key)


@click.group()
def documents() -> None:
    """Check persisted documents.

    Clients name a persisted document by its hash. PATH is a directory of *.graphql files, or a manifest.
    """


@documents.command("check")
@click.argument("path", type=PATH, required=False)
@click.pass_context
def documents_check(ctx: click.Context, path: Path | None) -> None:
    """Check whether the server can start with the documents. Print every problem; exit with 1 if there is one.

    Default: KNOWN_DOCUMENTS.
    """
    from app.cli import documents

    ctx.exit(documents.check(path))


@documents.command("manifest")
@click.argument("paths", metavar="PATH...", type=PATH, nargs=-1, required=True)
@click.pass_context
def documents_manifest(ctx: click.Context, paths: tuple[Path, ...]) -> None:
    """Print one manifest of all documents: documents manifest queries/ > manifest.json.

    Manifests of several releases can be merged: documents manifest release-1.json release-2.json > manifest.json.
    """
    from app.cli import documents

    ctx.exit(documents.manifest(paths))


@click.group()
def provider_events() -> None:
    """Handle provider events that had no effect, and disputes that the provider does not decide."""


@provider_events.command("list")
def provider_events_list() -> None:
    """List unhandled events with the reason, first those that an operator must handle."""
    from app.cli import provider_events

    asyncio.run(provider_events.list_unhandled())


@provider_events.command("replay")
@click.argument("id")
def provider_events_replay(id: str) -> None:
    """Handle the event ID again."""
    from app.cli import provider_events

    asyncio.run(provider_events.replay(id))


@provider_events.command("dismiss")
@click.argument("id")
@click.option("--reason", required=True, help="The reason, for the audit log.")
def provider_events_dismiss(id: str, reason: str) -> None:
    """Mark the unhandled event ID as handled without an effect."""
    from app.cli import provider_events

    asyncio.run(provider_events.dismiss(id, reason))


@provider_events.command("disputes")
def provider_events_disputes() -> None:
    """List open disputes with the credits that they freeze."""
    from app.cli import provider_events

    asyncio.run(provider_events.list_disputes())


@provider_events.command("decide")
@click.argument("dispute")
@click.argument("decision", type=click.Choice(["won", "lost"]))
@click.option("--reason", required=True, help="The reason, for the audit log.")
def provider_events_decide(dispute: str, decision: Any, reason: str) -> None:
    """Decide DISPUTE: won unfreezes its credits, lost takes them back.

    A later decision of the provider replaces it.
    """
    from app.cli import provider_events

    asyncio.run(provider_events.decide(dispute, decision, reason))


@click.group()
def webhooks() -> None:
    """Manage outgoing webhooks: endpoints that receive events of all accounts."""


@webhooks.command("create")
@click.argument("url")
@click.option("--event", "event_types", multiple=True, help="A type to receive. Repeatable. Default: all types.")
@click.option("--description", default="", help="A text for people.")
@click.option("--in-order", is_flag=True, help="Send the events of one account in their order, one at a time.")
def webhooks_create(url: str, event_types: tuple[str, ...], description: str, *, in_order: bool) -> None:
    """Create an endpoint and print its secret.

    Example: webhooks create https://hooks.example.com/credits --event balance.low
    """
    from app.cli import webhooks

    asyncio.run(webhooks.create(url, event_types=event_types, description=description, in_order=in_order))


@webhooks.command("list")
def webhooks_list() -> None:
    """List all endpoints."""
    from app.cli import webhooks

    asyncio.run(webhooks.list_endpoints())


@webhooks.command("rotate")
@click.argument("id")
def webhooks_rotate(id: str) -> None:
    """Replace the secret of the endpoint ID and print the new one. Deliveries are signed with both for 24 hours."""
    from app.cli import webhooks

    asyncio.run(webhooks.rotate(id))


@webhooks.command("disable")
@click.argument("id")
@click.option("--reason", required=True, help="The reason, for people.")
def webhooks_disable(id: str, reason: str) -> None:
    """Disable the endpoint ID."""
    from app.cli import webhooks

    asyncio.run(webhooks.disable(id, reason))


@webhooks.command("enable")
@click.argument("id")
def webhooks_enable(id: str) -> None:
    """Enable the endpoint ID again."""
    from app.cli import webhooks

    asyncio.run(webhooks.enable(id))


@webhooks.command("deliveries")
@click.argument("id")
@click.option("--failed", "only_failed", is_flag=True, help="Only deliveries that were given up.")
def webhooks_deliveries(id: str, *, only_failed: bool) -> None:
    """List the newest 50 deliveries of the endpoint ID."""
    from app.cli import webhooks

    asyncio.run(webhooks.list_deliveries(id, only_failed=only_failed))


@webhooks.command("redeliver")
@click.argument("delivery", type=click.IntRange(1, 2**63 - 1))
def webhooks_redeliver(delivery: int) -> None:
    """Send the delivery with this number again."""
    from app.cli import webhooks

    asyncio.run(webhooks.redeliver(delivery))
