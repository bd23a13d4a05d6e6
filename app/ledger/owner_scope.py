"""Reads single objects of the ledger, restricted to the owners whose accounts the caller may see.

Only these functions convert an owner id or node id that a client sends to an account id or a row. Every later statement
selects by this account id. The object of another owner gives the same result as an object that does not exist: the
statement finds no row.
"""

from collections.abc import Collection
from typing import Any, Final, TypeVar

from tortoise.expressions import Subquery
from tortoise.models import Model
from tortoise.queryset import QuerySet

from app.errors import Forbidden
from app.ledger import accounts, models, queries
from app.ledger.notifications import NOTIFICATIONS, Notification
from app.ledger.rows import ENTRIES, GRANTS, HOLDS
from app.ledger.rules.account_state import GrantState, Hold, LedgerEntry
from app.wording import quote_value

OwnerScope = Collection[str] | None
"""The owners whose objects may be read or changed. None means all owners (for services and operators)."""

OWNER_SCOPE_SQL: Final = (
    "($3::text[] IS NULL OR EXISTS (SELECT FROM account AS a WHERE a.id = $1 AND a.owner_id = ANY($3)))"
)
"""A condition for statements in which $1 is the account and $3 are the owners."""

AnyModel = TypeVar("AnyModel", bound=Model)


async def find_account_id(owner_id: str, *, owner_ids: OwnerScope) -> int | None:
    """Return the id of the owner's account, or None if it does not exist or is not in the scope."""
    return await accounts.find_account_id(owner_id) if owner_ids is None or owner_id in owner_ids else None


def check_owner(owner_id: str, *, owner_ids: OwnerScope) -> None:
    """Check that the caller may change an account of this owner.

    Called with the owner that the request names, before an account is created, and again with the owner of the locked
    account.
    Raises: Forbidden: the owner is not in the scope.
    """
    if owner_ids is not None and owner_id not in owner_ids:
        raise Forbidden(f"The account of {quote_value(owner_id)} belongs to another owner: you cannot change it.")


async def find_entry(account_id: int, seq: int, *, owner_ids: OwnerScope) -> LedgerEntry | None:
    """Return the entry, or None if it does not exist or its account is not in the scope."""
    return await ENTRIES.fetch_one(
        restrict_to_scope(models.Entry.filter(account_id=account_id, seq=seq), account_id, owner_ids)
    )


async def find_grant(account_id: int, number: int, *, owner_ids: OwnerScope) -> GrantState | None:
    """Return the grant, or None if it does not exist or its account is not in the scope."""
    return await GRANTS.fetch_one(_numbered(models.Grant, account_id, number, owner_ids))


async def find_hold(account_id: int, number: int, *, owner_ids: OwnerScope) -> Hold | None:
    """Apply due changes and return the hold, or None if it does not exist or its account is not in the scope."""
    query = _numbered(models.Hold, account_id, number, owner_ids)
    hold = await HOLDS.fetch_one(query)
    if hold is not None and hold.is_open and await queries.ensure_due_changes_applied([account_id]):
        return await HOLDS.fetch_one(query)
    return hold


async def find_notification(account_id: int, number: int, *, owner_ids: OwnerScope) -> Notification | None:
    """Return the notification, or None if it does not exist or its account is not in the scope."""
    return await NOTIFICATIONS.fetch_one(_numbered(models.Notification, account_id, number, owner_ids))


def _numbered(model: type[AnyModel], account_id: int, number: int, owner_ids: OwnerScope) -> QuerySet[AnyModel]:
    return restrict_to_scope(model.filter(account_id=account_id, number=number), account_id, owner_ids)


def restrict_to_scope(query: QuerySet[AnyModel], account_id: int, owner_ids: OwnerScope) -> QuerySet[AnyModel]:
    if owner_ids is None:
        return query
    in_scope: Any = models.Account.filter(id=account_id, owner_id__in=list(owner_ids)).values("id")
    return query.filter(account_id__in=Subquery(in_scope))
