"""Accounts by owner. An owner never changes its account, so what was found is cached."""

from typing import Final

from app.db import pools
from app.live import change_feed

_FIND: Final = "SELECT owner_id, account_id FROM owner WHERE owner_id = ANY($1::text[])"

_OWNERS: Final = "SELECT id, owner_id FROM account WHERE id = ANY($1::bigint[])"

# Two callers may create the account of one owner at once: the owner row decides, and the other account id stays unused.
_CREATE: Final = """
    WITH created_owner AS (
        INSERT INTO owner (owner_id, account_id) VALUES ($1, nextval('account_id_seq'))
        ON CONFLICT (owner_id) DO NOTHING RETURNING account_id
    ), created AS (
        INSERT INTO account (id, owner_id, last_mac, created_at)
        SELECT account_id, $1, decode(repeat('00', 32), 'hex'), clock_timestamp() FROM created_owner RETURNING id
    )
    SELECT id, pg_notify($2, $1) FROM created
"""

_CACHE_LIMIT: Final = 200_000
_account_ids: dict[str, int] = {}


async def find_account_id(owner_id: str) -> int | None:
    """The owner's account; None: nothing was ever written for it."""
    return (await find_account_ids([owner_id])).get(owner_id)


async def find_account_ids(owner_ids: list[str]) -> dict[str, int]:
    """The accounts of those owners that have one."""
    found = {owner: account_id for owner in owner_ids if (account_id := _account_ids.get(owner)) is not None}
    if missing := [owner for owner in owner_ids if owner not in found]:
        for record in await pools.fetch(_FIND, missing):
            found[record["owner_id"]] = _cache(record["owner_id"], record["account_id"])
    return found


async def find_owner(account_id: int) -> str | None:
    """The owner of an account; None: there is no such account."""
    return (await find_owners([account_id])).get(account_id)


async def find_owners(account_ids: list[int]) -> dict[int, str]:
    """The owners of those accounts that exist."""
    return {record["id"]: record["owner_id"] for record in await pools.fetch(_OWNERS, account_ids)}


async def get_or_create_account(owner_id: str) -> int:
    """The owner's account, which is created if this is the first write for it."""
    if (account_id := await find_account_id(owner_id)) is not None:
        return account_id
    if created := await pools.fetch(_CREATE, owner_id, change_feed.OWNERS_CHANNEL):
        return _cache(owner_id, created[0]["id"])
    if (account_id := await find_account_id(owner_id)) is None:
        raise LookupError(f"the account of {owner_id!r} was created by a transaction that did not commit")
    return account_id


def clear_cache() -> None:
    """Forget all accounts: for a database that was emptied or replaced."""
    _account_ids.clear()


def _cache(owner_id: str, account_id: int) -> int:
    if len(_account_ids) >= _CACHE_LIMIT:
        _account_ids.clear()
    _account_ids[owner_id] = account_id
    return account_id
