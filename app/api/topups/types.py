"""Top-ups, with their receipts, refunds and disputes."""

from datetime import datetime

import strawberry

from app.api.context import Context, ResolverInfo
from app.api.objects import batched, build_from
from app.api.owner_scope import readable_owners
from app.api.scalars import Credits
from app.engine import declare, global_ids
from app.engine.global_ids import LONG, UUID_HEX
from app.engine.permissions import Permission
from app.engine.scalars import Long
from app.engine.schema import describe_enum
from app.settings import server_url
from app.topups import queries, receipts
from app.topups.provider import DisputeStatus, RefundStatus
from app.topups.refunds import rows as refund_rows
from app.topups.refunds.amounts import DisputeRow, RefundRow
from app.topups.refunds.rows import MAX_LISTED
from app.topups.rules import TopUpRow, TopUpStatus

describe_enum(
    TopUpStatus,
    description="The status of a top-up.",
    values={
        TopUpStatus.PENDING: "The payment has not been made yet.",
        TopUpStatus.PAID: "The payment was made and the credits were added to the balance.",
        TopUpStatus.FAILED: "The payment was declined, or the provider never received it.",
        TopUpStatus.EXPIRED: "The payment was not made in time.",
        TopUpStatus.REFUNDED: "All credits were taken back, by refunds or lost disputes.",
        TopUpStatus.DISPUTED: "The buyer disputes the payment.",
    },
)
describe_enum(
    RefundStatus,
    description="The status of a refund. Its credits are taken from the account unless it FAILED.",
    values={
        RefundStatus.PENDING: "The provider has not confirmed the refund yet.",
        RefundStatus.DONE: "The money was refunded, or the bonus credits already spent were worth as much, so "
        "no money was left to refund.",
        RefundStatus.FAILED: "The provider refused the refund, or the refunded money came back to it. The credits were "
        "returned to the account.",
    },
)
describe_enum(
    DisputeStatus,
    description="The status of a dispute.",
    values={
        DisputeStatus.OPEN: "The bank has not decided yet. What is left of the disputed credits is frozen.",
        DisputeStatus.WON: "The bank decided for the seller. The credits can be spent again.",
        DisputeStatus.LOST: "The bank decided for the buyer. The credits were taken back; spent ones became debt.",
    },
)


@declare.type(description="A tax, as calculated by the payment provider.", needs=Permission.INHERITED)
class TaxLine:
    label: str = declare.value(description="The name of the tax at the provider.")
    amount_minor: Long = declare.value(description="The amount in minor units of the receipt's currency.")
    inclusive: bool = declare.value(
        description="Whether the price includes the tax. If not, it was added to the price."
    )


@declare.type(description="The receipt of a paid top-up.", needs=Permission.INHERITED)
class Receipt:
    number: str = declare.value(description="The number of the receipt.")
    credits_bought: Credits = declare.value(description="The credits bought.")
    bonus: Credits = declare.value(description="The promotional credits that came with them.")
    amount_minor: Long = declare.value(
        description="The price in minor units of the currency, without taxes that are added to it."
    )
    currency: str = declare.value(description="The currency, ISO 4217.")
    tax_lines: list[TaxLine] = declare.value(description="The taxes reported by the provider.")
    total_minor: Long = declare.value(description="The amount paid, in minor units: the price and all added taxes.")
    paid_at: datetime = declare.value(description="When the payment was credited.")
    reference: str = declare.value(description="The reference of the payment at the provider.")
    url: str = declare.value(description="A printable page. Anybody who has this URL can open it.")


@declare.type(description="A refund of a top-up, in part or whole.", needs=Permission.INHERITED)
class TopUpRefund:
    credits: Credits = declare.value(description="The bought credits that were taken back.")
    debt: Credits = declare.value(description="The part of `credits` that was already spent or held and became debt.")
    bonus: Credits = declare.value(description="The bonus credits that were taken back with them.")
    amount_minor: Long = declare.value(description="The money refunded, in minor units of the top-up's currency.")
    reduced_minor: Long = declare.value(
        description="The value of bonus credits already spent, deducted from the refund, in minor units."
    )
    status: RefundStatus = declare.value(description="The status of the refund.")
    reason: str = declare.value(description="The reason that was given, or `begun at the provider`.")
    created_at: datetime = declare.value(
        description="When the refund was requested here, or reported by the provider if it was begun there."
    )
    decided_at: datetime | None = declare.value(
        description="When it was confirmed or refused; null while its status is PENDING."
    )


@declare.type(description="A payment that the buyer disputes at its bank.", needs=Permission.INHERITED)
class TopUpDispute:
    status: DisputeStatus = declare.value(description="The status of the dispute.")
    amount_minor: Long = declare.value(description="The disputed amount, in minor units of the top-up's currency.")
    credits: Credits = declare.value(
        description="The disputed credits of the top-up. If the dispute is lost, they are taken back."
    )
    frozen: Credits = declare.value(
        description="The part of `credits` that is frozen while the dispute is open: what was neither spent nor held."
    )
    debt: Credits = declare.value(description="The part of `credits` that became debt when the dispute was lost.")
    opened_at: datetime = declare.value(description="When the provider reported the dispute.")
    decided_at: datetime | None = declare.value(description="When it was decided; null while it is open.")


@declare.type(description="A purchase of credits.", needs=Permission.INHERITED)
class TopUp(global_ids.Node):
    credits: Credits = declare.value(description="The credits bought.")
    amount_minor: Long = declare.value(description="The price in minor units of the currency (cents).")
    currency: str = declare.value(description="The currency, ISO 4217.")
    status: TopUpStatus = declare.value(description="The status of the top-up.")
    payment_url: str | None = declare.value(
        description="The provider's page on which the buyer pays or confirms the payment; null if there is none."
    )
    created_at: datetime = declare.value(description="When the top-up was begun.")
    paid_at: datetime | None = declare.value(
        description="When the credits were added to the balance; null before the payment."
    )
    refunded: Credits = declare.value(description="The credits taken back by refunds.")
    clawed_back: Credits = declare.value(description="The credits taken back by lost disputes.")
    bonus: Credits = declare.value(description="The promotional credits that come with the payment. They expire.")
    automatic: bool = declare.value(description="Whether auto top-up made the purchase.")
    row: strawberry.Private[TopUpRow]

    @declare.field(description="The receipt; null before the payment.")
    def receipt(self, info: ResolverInfo) -> Receipt | None:
        receipt = receipts.build_receipt(self.row)
        if receipt is None:
            return None
        settings = info.context.state.settings
        server = (settings.public_url or server_url(settings)).rstrip("/")
        return build_from(
            Receipt,
            receipt,
            credits_bought=receipt.bought_credits,
            bonus=receipt.bonus_credits,
            tax_lines=[build_from(TaxLine, line) for line in receipt.tax_lines],
            url=f"{server}{receipts.PATH}/{receipt.token}",
        )

    @declare.field(description=f"The refunds, newest first, at most {MAX_LISTED}.")
    async def refunds(self, info: ResolverInfo) -> list[TopUpRefund]:
        found = await info.context.data_loader(_refunds).load((self.row.account_id, self.row.id))
        return [to_refund(row) for row in found]

    @declare.field(description=f"The disputes, newest first, at most {MAX_LISTED}.")
    async def disputes(self, info: ResolverInfo) -> list[TopUpDispute]:
        found = await info.context.data_loader(_disputes).load((self.row.account_id, self.row.id))
        return [build_from(TopUpDispute, row, frozen=row.frozen_credits, debt=row.debt_credits) for row in found]


def to_top_up(row: TopUpRow) -> TopUp:
    return build_from(
        TopUp,
        row,
        id=global_ids.encode_id("TopUp", row.account_id, row.id),
        refunded=row.refunded_credits,
        clawed_back=row.clawed_back_credits,
        bonus=row.bonus_credits,
        row=row,
    )


def to_refund(row: RefundRow) -> TopUpRefund:
    return build_from(TopUpRefund, row, debt=row.debt_credits, bonus=row.bonus_credits)


async def load_top_up(context: Context, account_id: int, top_up_id: str) -> TopUp | None:
    """Load a top-up. The loads of a request are combined into one read."""
    row = await context.data_loader(_top_ups).load((account_id, top_up_id))
    return to_top_up(row) if row else None


async def find_top_up(context: Context, node_id: str) -> TopUpRow | None:
    """Find the top-up with this `id`. Return None if it does not exist or the caller may not read it."""
    parts = global_ids.decode_id(node_id, "TopUp")
    return None if parts is None else await _find(context, *parts)


@global_ids.node_fetcher("TopUp", LONG, UUID_HEX)
async def fetch_top_up(context: Context, account_id: int, top_up_id: str) -> TopUp | None:
    row = await _find(context, account_id, top_up_id)
    return to_top_up(row) if row else None


async def _find(context: Context, account_id: int, top_up_id: str) -> TopUpRow | None:
    return await queries.find_top_up_in_scope(
        account_id, top_up_id, owner_ids=readable_owners(context.authenticated_caller)
    )


_top_ups = batched(queries.find_top_ups, None)
_NO_REFUNDS: list[RefundRow] = []
_NO_DISPUTES: list[DisputeRow] = []
_refunds = batched(refund_rows.find_refunds, _NO_REFUNDS)
_disputes = batched(refund_rows.find_disputes, _NO_DISPUTES)
