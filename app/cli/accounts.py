"""`python -m app grant OWNER CREDITS --reason TEXT`"""

import secrets
from datetime import datetime

from app.cli.connection import COMMAND_LINE, command_line_action, database_url, open_database
from app.ledger import grants, registered_keys
from app.ledger.rules.account_state import GrantSource
from app.plurals import counted
from app.settings import get_settings
from app.state import configure_ledger


async def grant(
    owner_id: str,
    credits: int,
    *,
    reason: str,
    source: str,
    priority: int,
    expires_at: datetime | None,
    key: str | None,
) -> None:
    configure_ledger(get_settings())
    request = grants.GrantRequest(
        owner_id=owner_id,
        credits=credits,
        source=GrantSource(source),
        priority=priority,
        expires_at=expires_at,
        reason=reason,
        key=f"command-line-{secrets.token_hex(8)}" if key is None else key,
        actor=COMMAND_LINE,
        audit=command_line_action("grantCredits"),
    )
    with database_url() as url:
        async with open_database(url):
            await registered_keys.register_signing_key()
            granted = await grants.grant_credits(request)
    done = "granted before" if granted.replayed else "granted"
    print(f"{counted(granted.grant.credits, 'credit')} {done} to {owner_id}: {granted.balance.available:,} available")
