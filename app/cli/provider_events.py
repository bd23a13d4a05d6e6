"""`python -m app provider-events list | replay ID | dismiss ID | disputes | decide DISPUTE`"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Literal

from app.cli.connection import command_line_action, database_url, open_database
from app.errors import InvalidInput, Misconfigured
from app.ledger import registered_keys
from app.ledger.grants import reason_problems
from app.settings import get_settings
from app.state import configure_ledger
from app.topups import inbox, inbox_retries
from app.topups.configured_provider import open_provider
from app.topups.inbox import UnhandledEvent
from app.topups.provider import DisputeStatus, PaymentProvider
from app.topups.refunds import rows as refund_rows
from app.topups.refunds.decisions import DisputeDecision, decide_dispute

LIMIT: Final = 1_000


async def list_unhandled() -> None:
    """Print a line for each unhandled provider event: first those that an operator must handle."""
    with database_url() as url:
        async with open_database(url):
            events = await inbox.find_unhandled(limit=LIMIT)
    print("\n".join(map(_line, events)) if events else "There are no unhandled provider events.")


async def list_disputes() -> None:
    """Print a line for each open dispute, the oldest first."""
    with database_url() as url:
        async with open_database(url):
            disputes = await refund_rows.list_open_disputes(limit=LIMIT)
    lines = [
        f"{one.row.dispute_ref}  {one.row.opened_at:%Y-%m-%dT%H:%M:%SZ}  owner {one.owner_id}  "
        f"{one.row.frozen_credits:,} of {one.row.credits:,} credits frozen"
        for one in disputes
    ]
    print("\n".join(lines) if lines else "There are no open disputes.")


async def replay(event_id: str) -> None:
    """Handle a stored event again."""
    async with _provider_and_database() as provider:
        outcome = await inbox_retries.replay(provider, event_id)
    print(f"{event_id}: {outcome}")


async def dismiss(event_id: str, reason: str) -> None:
    """Mark an unhandled event as handled without an effect."""
    if problems := reason_problems(reason):
        raise InvalidInput(problems=problems)
    with database_url() as url:
        async with open_database(url):
            await inbox.dismiss(event_id, reason=reason, audit=command_line_action("dismissProviderEvent"))
    print(f"{event_id}: dismissed")


async def decide(dispute_ref: str, decision: Literal["won", "lost"], reason: str) -> None:
    """Decide a dispute by hand."""
    async with _provider_and_database() as provider:
        outcome = await decide_dispute(
            DisputeDecision(
                dispute_ref=dispute_ref,
                status=DisputeStatus(decision.upper()),
                reason=reason,
                audit=command_line_action("decideDispute"),
            ),
            provider,
        )
    print(f"{dispute_ref}: {outcome}")


@asynccontextmanager
async def _provider_and_database() -> AsyncIterator[PaymentProvider]:
    settings = get_settings()
    configure_ledger(settings)
    if (provider := open_provider(settings)) is None:
        raise Misconfigured("PAYMENT_PROVIDER is none: set it to the provider that sent the event.")
    with database_url() as url:
        async with open_database(url):
            await registered_keys.register_signing_key()
            try:
                yield provider
            finally:
                await provider.close()


def _line(event: UnhandledEvent) -> str:
    state = event.outcome if event.parked_at is not None else "is retried"
    reason = (event.last_error or "").split("\n", 1)[0]
    return f"{event.event_id}  {event.received_at:%Y-%m-%dT%H:%M:%SZ}  {event.attempts} failures  {state}  {reason}"
