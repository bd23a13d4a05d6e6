"""`python -m app notices list | replay ID`"""

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
    """Notices that wait, one a line: those that wait for a person first."""
    with database_url() as url:
        async with open_database(url):
            found = await inbox.find_unhandled(limit=LIMIT)
    print("\n".join(map(_line, found)) if found else "nothing waits")


async def replay(event_id: str) -> None:
    """Try a notice again, as if it had just come."""
    here = get_settings()
    configure_ledger(here)
    if (provider := open_provider(here)) is None:
        raise Misconfigured("PAYMENT_PROVIDER is none: set it to the provider that has sent the notice.")
    with database_url() as url:
        async with open_database(url):
            try:
                outcome = await inbox_retries.replay(provider, event_id)
            finally:
                await provider.close()
    print(f"{event_id}: {outcome}")


def _line(notice: UnhandledEvent) -> str:
    state = notice.outcome if notice.parked_at is not None else "is tried again"
    why = (notice.last_error or "").split("\n", 1)[0]
    return f"{notice.event_id}  {notice.received_at:%Y-%m-%dT%H:%M:%SZ}  {notice.attempts} failures  {state}  {why}"
