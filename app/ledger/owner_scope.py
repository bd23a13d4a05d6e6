"""Finding what is in the books for somebody: the statement names the owners that the caller may look at.

These are the only ways from what a client sends (an owner's name, a node's id) to an account's number or to a row. What
is read from there on carries that number in every statement, so a resolver that forgets to ask whether its caller may
look still finds nothing. What is another's is not found by the same statement as what does not exist.
"""

from collections.abc import Collection
from typing import Final

from app.db import pools
from app.errors import Forbidden
from app.ledger import accounts, notification_queries, posting, queries
from app.ledger.notification_queries import Notification
from app.ledger.rows import GRANT_COLUMNS, HOLD_COLUMNS, grant_from_row, hold_from_row
from app.ledger.rules.account_state import GrantState, Hold, LedgerEntry

OwnerScope = Collection[str] | None
"""Whose things may be found, or changed; None: everybody's (services and operators)."""

OWNER_SCOPE_SQL: Final = (
    "($3::text[] IS NULL OR EXISTS (SELECT FROM account AS a WHERE a.id = $1 AND a.owner_id = ANY($3)))"
)
"""For statements whose $1 is the account and $3 the owners."""

_ENTRY: Final = f"""
    SELECT {queries.ENTRY_COLUMNS} FROM entry AS e WHERE e.account_id = $1 AND e.seq = $2 AND {OWNER_SCOPE_SQL}
"""  # noqa: S608  our own constants

_LOT: Final = f"""
    SELECT {GRANT_COLUMNS} FROM credit_grant WHERE account_id = $1 AND number = $2::bigint AND {OWNER_SCOPE_SQL}
"""  # noqa: S608  our own constants

_HOLD: Final = f"""
    SELECT {HOLD_COLUMNS},
           (SELECT coalesce(d.next_change_at <= clock_timestamp(), false) FROM account AS d WHERE d.id = $1) AS due
    FROM hold WHERE account_id = $1 AND number = $2::bigint AND {OWNER_SCOPE_SQL}
"""  # noqa: S608  our own constants

_NOTICE: Final = f"""
    SELECT {notification_queries.COLUMNS} FROM notification AS n WHERE n.account_id = $1 AND n.number = $2::bigint AND {OWNER_SCOPE_SQL}
"""  # noqa: S608  our own constants


async def find_account_id(owner_id: str, *, owner_ids: OwnerScope) -> int | None:
    """The number of that owner's account, if it has one and is among `owner_ids`."""
    return await accounts.find_account_id(owner_id) if owner_ids is None or owner_id in owner_ids else None


def check_owner(owner_id: str, *, owner_ids: OwnerScope) -> None:
    """For what changes an account on somebody's word: asked of the owner that is named, so that no account is made for
    another, and again of the one that was read with the account's lock.

    Raises: Forbidden: it is none of `owner_ids`. Of a decision under way nothing stays.
    """
    if owner_ids is not None and owner_id not in owner_ids:
        raise Forbidden(f"The account of {owner_id!r} is another's: you may not change it.")


async def find_entry(account_id: int, seq: int, *, owner_ids: OwnerScope) -> LedgerEntry | None:
    """That entry, in an account of `owner_ids`."""
    found = await pools.fetch(_ENTRY, account_id, seq, _named(owner_ids))
    return queries.entry_from_row(found[0]) if found else None


async def find_grant(account_id: int, number: int, *, owner_ids: OwnerScope) -> GrantState | None:
    """That grant, in an account of `owner_ids`."""
    found = await pools.fetch(_LOT, account_id, number, _named(owner_ids))
    return grant_from_row(found[0]) if found else None


async def find_hold(account_id: int, number: int, *, owner_ids: OwnerScope) -> Hold | None:
    """That hold, in an account of `owner_ids`; settled to now."""
    asked = (account_id, number, _named(owner_ids))
    found = await pools.fetch(_HOLD, *asked)
    if found and found[0]["due"]:
        await posting.apply_due_changes([account_id])
        found = await pools.fetch(_HOLD, *asked)
    return hold_from_row(tuple(found[0])[:-1]) if found else None


async def find_notification(account_id: int, number: int, *, owner_ids: OwnerScope) -> Notification | None:
    """That notice, in an account of `owner_ids`."""
    found = notification_queries.notifications_from_rows(
        await pools.fetch(_NOTICE, account_id, number, _named(owner_ids))
    )
    return found[0] if found else None


def _named(owner_ids: OwnerScope) -> list[str] | None:
    return None if owner_ids is None else list(owner_ids)
