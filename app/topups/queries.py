"""Reads top-ups outside postings: by id, by payment and in lists."""

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from tortoise.expressions import Q

from app.db import pools
from app.ledger.owner_scope import OWNER_SCOPE_SQL, OwnerScope
from app.topups.models import ProviderPayment, TopUp
from app.topups.rows import TOP_UPS
from app.topups.rules import Reference, TopUpRow

# The check of the owner is part of the statement (see `ledger.owner_scope`).
_FIND_IN_SCOPE: Final = (
    f"SELECT {TOP_UPS.columns('t')} FROM top_up AS t WHERE t.account_id = $1 AND t.id = $2 AND {OWNER_SCOPE_SQL}"  # noqa: S608  our own constants
)


async def find_top_up(account_id: int, top_up_id: str) -> TopUpRow | None:
    """Return a top-up by account id and id, or None."""
    return (await find_top_ups([(account_id, top_up_id)])).get((account_id, top_up_id))


async def find_top_ups(references: Iterable[tuple[int, str]]) -> dict[tuple[int, str], TopUpRow]:
    """Return top-ups by (account id, id), in one statement. Skips ids that this server cannot have given."""
    wanted = {pair for pair in references if Reference.parse(str(Reference(*pair)))}
    account_ids, ids = {account_id for account_id, _ in wanted}, {top_up_id for _, top_up_id in wanted}
    found = await TOP_UPS.fetch(TopUp.filter(account_id__in=account_ids, id__in=ids)) if wanted else []
    return {pair: top_up for top_up in found if (pair := (top_up.account_id, top_up.id)) in wanted}


async def find_top_up_in_scope(account_id: int, top_up_id: str, *, owner_ids: OwnerScope) -> TopUpRow | None:
    """Return a top-up if its account belongs to one of `owner_ids`, otherwise None.

    `owner_ids=None` means all owners.
    """
    found = await pools.fetch(_FIND_IN_SCOPE, account_id, top_up_id, None if owner_ids is None else list(owner_ids))
    return TOP_UPS.read(found[0]) if found else None


async def find_by_payment(payment_ref: str) -> Reference | None:
    """Return the reference of the top-up that a provider's payment paid, or None."""
    payment = await ProviderPayment.get_or_none(payment_ref=payment_ref)
    return Reference(payment.account_id, payment.top_up_id) if payment is not None else None


async def list_top_ups(account_id: int, *, before: tuple[datetime, str] | None, limit: int) -> list[TopUpRow]:
    """Return top-ups of an account, newest first. `before` is (created_at, id) of the previous page's last top-up."""
    top_ups = TopUp.filter(account_id=account_id)
    if before is not None:
        created_at, top_up_id = before
        top_ups = top_ups.filter(Q(created_at__lt=created_at) | Q(id__lt=top_up_id), created_at__lte=created_at)
    return await TOP_UPS.fetch(top_ups.order_by("-created_at", "-id").limit(limit))
