"""Which account is whose. An owner keeps one account for ever, so what was found is remembered."""

from typing import Final

from app.db import pools
from app.live import change_feed

_FIND: Final = "SELECT owner_id, account_id FROM owner WHERE owner_id = ANY($1::text[])"

# Two callers may make the same owner's account at once: the owner row decides, the other's id goes unused.
_CLAIM: Final = """
    WITH claimed AS (
        INSERT INTO owner (owner_id, account_id) VALUES ($1, nextval('account_id_seq'))
        ON CONFLICT (owner_id) DO NOTHING RETURNING account_id
    ), made AS (
        INSERT INTO account (id, owner_id, last_mac, created_at)
        SELECT account_id, $1, decode(repeat('00', 32), 'hex'), clock_timestamp() FROM claimed RETURNING id
    )
    SELECT id, pg_notify($2, $1) FROM made
"""

_OWNERS: Final = "SELECT id, owner_id FROM account WHERE id = ANY($1::bigint[])"

_REMEMBERED: Final = 200_000
_account_ids: dict[str, int] = {}


async def find_account_id(owner_id: str) -> int | None:
    """The owner's account, or None where nothing was ever written for it."""
    return (await find_account_ids([owner_id])).get(owner_id)


async def find_account_ids(owner_ids: list[str]) -> dict[str, int]:
    """The accounts of those owners who have one."""
    found = {owner: number for owner in owner_ids if (number := _account_ids.get(owner)) is not None}
    if missing := [owner for owner in owner_ids if owner not in found]:
        for record in await pools.fetch(_FIND, missing):
            found[record["owner_id"]] = _remember(record["owner_id"], record["account_id"])
    return found


async def find_owner(account_id: int) -> str | None:
    """Whose account it is, or None where there is no such account."""
    return (await find_owners([account_id])).get(account_id)


async def find_owners(account_ids: list[int]) -> dict[int, str]:
    """Whose accounts they are, for those that exist."""
    return {record["id"]: record["owner_id"] for record in await pools.fetch(_OWNERS, account_ids)}


async def get_or_create_account(owner_id: str) -> int:
    """The owner's account, made if this is the first write for it."""
    if (number := await find_account_id(owner_id)) is not None:
        return number
    if made := await pools.fetch(_CLAIM, owner_id, change_feed.OWNERS_CHANNEL):
        return _remember(owner_id, made[0]["id"])
    if (number := await find_account_id(owner_id)) is None:
        raise LookupError(f"the account of {owner_id!r} was claimed by a transaction that did not commit")
    return number


def clear_cache() -> None:
    """Drop what is remembered: for a database that was emptied or replaced."""
    _account_ids.clear()


def _remember(owner_id: str, account_id: int) -> int:
    if len(_account_ids) >= _REMEMBERED:
        _account_ids.clear()
    _account_ids[owner_id] = account_id
    return account_id
