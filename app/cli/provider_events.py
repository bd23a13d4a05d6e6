"""`python -m app provider-events list | replay ID`"""

from typing import Final

from app.cli.connection import database_url, open_database
from app.errors import Misconfigured
from app.settings import get_settings
from app.state import configure_ledger
from app.topups import inbox, inbox_retries
from app.topups.configured_provider import open_provider
from app.topups.inbox import UnhandledEvent

LIMIT: Final = 1_000


async def list_unhandled() -> None:
    """Print a line for each unhandled provider event: first those that an operator must handle."""
    with database_url() as url:
        async with open_database(url):
            events = await inbox.find_unhandled(limit=LIMIT)
    print("\n".join(map(_line, events)) if events else "There are no unhandled provider events.")


async def replay(event_id: str) -> None:
    """Handle a stored event again."""
    settings = get_settings()
    configure_ledger(settings)
    if (provider := open_provider(settings)) is None:
        raise Misconfigured("PAYMENT_PROVIDER is none: set it to the provider that sent the event.")
    with database_url() as url:
        async with open_database(url):
            try:
                outcome = await inbox_retries.replay(provider, event_id)
            finally:
                await provider.close()
    print(f"{event_id}: {outcome}")


def _line(event: UnhandledEvent) -> str:
    state = event.outcome if event.parked_at is not None else "is retried"
    reason = (event.last_error or "").split("\n", 1)[0]
    return f"{event.event_id}  {event.received_at:%Y-%m-%dT%H:%M:%SZ}  {event.attempts} failures  {state}  {reason}"
