"""What came after a top-up was paid: its refunds and its disputes, the newest of each."""

from collections.abc import Sequence
from datetime import datetime

from app.api.context import Context
from app.api.scalars import Credits
from app.engine import declare
from app.engine.permissions import Permission
from app.engine.scalars import Long
from app.engine.schema import describe_enum
from app.topups.provider import DisputeStatus, RefundStatus
from app.topups.refunds import rows
from app.topups.refunds.amounts import DisputeRow, RefundRow
from app.topups.rules import TopUpRow

describe_enum(
    RefundStatus,
    name="RefundStatus",
    description="Where a refund stands. Its credits are gone in all but FAILED.",
    values={
        RefundStatus.PENDING: "The provider has not said yet that the money went back.",
        RefundStatus.DONE: "The money went back; or none did, because spent bonus was worth as much.",
        RefundStatus.FAILED: "The provider refused: the credits are back.",
    },
)
describe_enum(
    DisputeStatus,
    name="DisputeStatus",
    description="Where a dispute stands.",
    values={
        DisputeStatus.OPEN: "The bank has not decided: its credits are frozen.",
        DisputeStatus.WON: "Decided for the seller: its credits are free again.",
        DisputeStatus.LOST: "Decided for the buyer: its credits were taken back, and what was spent of them is debt.",
    },
)


@declare.type(description="Credits of a top-up that go back for money.", needs=Permission.INHERITED)
class TopUpRefund:
    credits: Credits = declare.value(description="Bought credits that were taken back.")
    debt: Credits = declare.value(description="Of these, what had been spent or is held: it became debt.")
    bonus: Credits = declare.value(description="Bonus credits that were taken back with them.")
    amount_minor: Long = declare.value(description="The money that goes back, in minor units of the top-up's currency.")
    reduced_minor: Long = declare.value(description="By how much spent bonus has reduced the money.")
    status: RefundStatus = declare.value(description="Where it stands.")
    reason: str = declare.value(description="Why.")
    created_at: datetime = declare.value(description="When it was asked for.")
    decided_at: datetime | None = declare.value(description="When the provider decided it.")


@declare.type(description="A payment that its buyer's bank wants back.", needs=Permission.INHERITED)
class TopUpDispute:
    status: DisputeStatus = declare.value(description="Where it stands.")
    amount_minor: Long = declare.value(description="The disputed money, in minor units of the top-up's currency.")
    opened_at: datetime = declare.value(description="When the provider told of it.")
    decided_at: datetime | None = declare.value(description="When it was decided; null while it is open.")


def to_refund(row: RefundRow) -> TopUpRefund:
    """A refund as GraphQL shows it."""
    return TopUpRefund(
        credits=Credits(row.credits),
        debt=Credits(row.debt_credits),
        bonus=Credits(row.bonus_credits),
        amount_minor=Long(row.amount_minor),
        reduced_minor=Long(row.reduced_minor),
        status=row.status,
        reason=row.reason,
        created_at=row.created_at,
        decided_at=row.decided_at,
    )


def to_dispute(row: DisputeRow) -> TopUpDispute:
    """A dispute as GraphQL shows it."""
    return TopUpDispute(
        status=row.status,
        amount_minor=Long(row.amount_minor),
        opened_at=row.opened_at,
        decided_at=row.decided_at,
    )


async def load_refunds(context: Context, top_up: TopUpRow) -> list[TopUpRefund]:
    """A top-up's refunds, newest first, batched with the others of this request."""
    found = await context.data_loader(_refunds).load((top_up.account_id, top_up.id))
    return [to_refund(row) for row in found]


async def load_disputes(context: Context, top_up: TopUpRow) -> list[TopUpDispute]:
    """A top-up's disputes, newest first, batched with the others of this request."""
    found = await context.data_loader(_disputes).load((top_up.account_id, top_up.id))
    return [to_dispute(row) for row in found]


async def _refunds(keys: list[tuple[int, str]]) -> Sequence[list[RefundRow]]:
    found = await rows.find_refunds(keys)
    return [found.get(key, []) for key in keys]


async def _disputes(keys: list[tuple[int, str]]) -> Sequence[list[DisputeRow]]:
    found = await rows.find_disputes(keys)
    return [found.get(key, []) for key in keys]
