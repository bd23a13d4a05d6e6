"""Finds and creates the accounts of owners. Found ids are cached, for at most CACHE_SECONDS.

An account changes its owner only when the owner is erased (`app.erasure`). The erased owner id is never used again.
"""

import time
from typing import Final

from app.credits import check_key
from app.db import pools
from app.live.change_notifier import NOTIFIER

_FIND: Final = "SELECT owner_id, account_id FROM owner WHERE owner_id = ANY($1::text[])"

_OWNERS: Final = "SELECT id, owner_id FROM account WHERE id = ANY($1::bigint[])"

# Two callers may create the account of one owner at the same time. The owner row decides which account id is used; the
# other id stays unused.
_CREATE: Final = """
    WITH created_owner AS (
        INSERT INTO owner (owner_id, account_id) VALUES ($1, nextval('account_id_seq'))
        ON CONFLICT (owner_id) DO NOTHING RETURNING account_id
    ), created AS (
        INSERT INTO account (id, owner_id, last_mac, created_at)
        SELECT account_id, $1, decode(repeat('00', 32), 'hex'), clock_timestamp() FROM created_owner RETURNING id
    )
    SELECT id FROM created
"""

_CACHE_LIMIT: Final = 200_000
CACHE_SECONDS: Final = 60.0
_account_ids: dict[str, int] = {}
_cached_until = 0.0
"""When the whole cache is cleared, by `time.monotonic`."""


async def find_account_id(owner_id: str) -> int | None:
    """Return the id of the owner's account, or None if nothing was ever written for the owner."""
    return (await find_account_ids([owner_id])).get(owner_id)


async def find_account_ids(owner_ids: list[str]) -> dict[str, int]:
    """Return the account id of each owner that has an account."""
    _clear_expired_cache()
    found = {owner: account_id for owner in owner_ids if (account_id := _account_ids.get(owner)) is not None}
    if missing := [owner for owner in owner_ids if owner not in found]:
        for record in await pools.fetch(_FIND, missing):
            found[record["owner_id"]] = _cache(record["owner_id"], record["account_id"])
    return found


async def find_owner(account_id: int) -> str | None:
    """Return the owner of an account, or None if there is no such account."""
    return (await find_owners([account_id])).get(account_id)


async def find_owners(account_ids: list[int]) -> dict[int, str]:
    """Return the owner of each account that exists."""
    return {record["id"]: record["owner_id"] for record in await pools.fetch(_OWNERS, account_ids)}


async def get_or_create_account(owner_id: str) -> int:
    """Return the id of the owner's account. Creates the account if it does not exist.

    Raises: InvalidInput: the owner id is not valid. It is checked only here, because only this function adds owners.
    """
    check_key(owner_id, path="ownerId")
    if (account_id := await find_account_id(owner_id)) is not None:
        return account_id
    if created := await pools.fetch(_CREATE, owner_id):
        NOTIFIER.announce_owner(owner_id)
        return _cache(owner_id, created[0]["id"])
    if (account_id := await find_account_id(owner_id)) is None:
        raise LookupError(f"the account of {owner_id!r} was created by a transaction that did not commit")
    return account_id


def clear_cache() -> None:
    """Remove all account ids from the cache, after a database was emptied or replaced."""
    _account_ids.clear()


def _clear_expired_cache() -> None:
    global _cached_until  # noqa: PLW0603  the age of the cache of this process
    if (now := time.monotonic()) >= _cached_until:
        _account_ids.clear()
        _cached_until = now + CACHE_SECONDS


def _cache(owner_id: str, account_id: int) -> int:
    if len(_account_ids) >= _CACHE_LIMIT:
        _account_ids.clear()
    _account_ids[owner_id] = account_id
    return account_id
