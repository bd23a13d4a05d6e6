"""Stores the ids of all ledger keys that may have signed entries, to find missing keys without reading the entries."""

from typing import Final

from app.db import pools
from app.ledger import posting

_IDS: Final = "SELECT id FROM ledger_key ORDER BY first_used_at, id"
_INSERT: Final = "INSERT INTO ledger_key (id, first_used_at) VALUES ($1, clock_timestamp()) ON CONFLICT DO NOTHING"


async def register_signing_key() -> None:
    """Record that the signing key of this process may sign entries. Call it before the first posting."""
    key_id = posting.ledger_keys().signing.id
    if key_id not in await used_key_ids():
        await pools.fetch(_INSERT, key_id)


async def used_key_ids() -> list[str]:
    """Return the ids of all keys that may have signed entries, the oldest first."""
    return [row["id"] for row in await pools.fetch(_IDS)]


async def missing_keys_problem() -> str | None:
    """Return a sentence that names the keys that have signed entries but are not configured, or None."""
    if not (missing := [key_id for key_id in await used_key_ids() if key_id not in posting.ledger_keys().by_id]):
        return None
    return (
        f"Entries were signed with ledger keys that are not configured: {', '.join(missing)}. Add these keys to "
        "LEDGER_VERIFICATION_KEYS, or these entries cannot be verified."
    )
