"""`python -m app grant OWNER CREDITS --reason TEXT`"""

import secrets
from datetime import datetime

from app.commands.reach import COMMAND_LINE, by_command, database_url, open_database
from app.ledger import grants
from app.ledger.book import Source
from app.main import open_books
from app.settings import settings


async def run(
    owner_id: str,
    credits: int,
    *,
    reason: str,
    source: str,
    priority: int,
    expires_at: datetime | None,
    key: str | None,
) -> None:
    open_books(settings())
    request = grants.GrantRequest(
        owner_id=owner_id,
        credits=credits,
        source=Source(source),
        priority=priority,
        expires_at=expires_at,
        reason=reason,
        key=key or f"command-line-{secrets.token_hex(8)}",
        actor=COMMAND_LINE,
        act=by_command("grantCredits"),
    )
    with database_url() as url:
        async with open_database(url):
            granted = await grants.grant(request)
    done = "had been granted before" if granted.replayed else "granted"
    print(f"{granted.lot.credits:,} credits {done} to {owner_id}: {granted.balance.available:,} available")
