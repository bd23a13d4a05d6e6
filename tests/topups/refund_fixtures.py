"""State for tests of refunds and disputes: top-ups that are paid, and what the sandbox tells afterwards."""

from typing import Any, NamedTuple

from app.db import pools
from app.ledger.posting import Posting, post
from app.ledger.rules import balance_changes
from app.ledger.rules.account_state import Cause, GrantSource
from app.topups import rows
from app.topups.provider import Dispute, DisputeStatus, ProviderEvent, Refund, RefundStatus
from app.topups.refunds.requests import RefundRequest, RefundResult, request_refund
from app.topups.rules import TopUpRow, TopUpStatus
from app.topups.sandbox import refunds_and_disputes as sandbox_refunds
from app.topups.settlement import EventOutcome, settle
from tests.factories import get_balance, unique_id
from tests.topups.top_up_fixtures import SANDBOX, TERMS, create_top_up, find_page, payment_event, reload


class Figures(NamedTuple):
    """An account's figures, for comparisons."""

    posted: int
    held: int
    frozen: int
    owed: int
    available: int


async def create_paid_top_up(owner_id: str = "alice", credits: int = 1_000, *, bonus: int = 0, **more: Any) -> TopUpRow:
    """A paid top-up, with a promotional grant that came with it where `bonus` says so."""
    top_up = await create_top_up(owner_id, credits, terms=more.pop("terms", TERMS))
    assert (
        await settle(await payment_event(top_up, payment_ref=(await find_page(top_up)).provider_ref))
        is EventOutcome.CREDITED
    )
    if bonus:
        await pools.fetch("UPDATE top_up SET bonus_credits = $2 WHERE id = $1", top_up.id, bonus)
        await _given_bonus(top_up, bonus, **more)
    return await reload(top_up)


async def refunded(top_up: TopUpRow, credits: int | None = None, **more: Any) -> RefundResult:
    """What an operator gets who asks for a refund."""
    asked: dict[str, Any] = {"reason": "asked for it", "key": unique_id("refund"), "actor": "operator:test"}
    provider = more.pop("provider", SANDBOX)
    request = RefundRequest(account_id=top_up.account_id, top_up_id=top_up.id, credits=credits, **(asked | more))
    return await request_refund(request, provider)


async def read_figures(top_up: TopUpRow) -> Figures:
    found = await get_balance(top_up.account_id)
    return Figures(found.posted, found.held, found.frozen, found.owed, found.available)


async def read_refund_figures(top_up: TopUpRow) -> tuple[TopUpStatus, int, int, int]:
    """Status, credits refunded, money refunded, credits clawed back."""
    found = await rows.find(top_up.account_id, top_up.id)
    assert found is not None
    return found.status, found.refunded_credits, found.refunded_minor, found.clawed_back_credits


async def list_moves(top_up: TopUpRow) -> list[tuple[str, int, int]]:
    """Kind, credits and owed of the account's entries after the first, which is the top-up's own, oldest first."""
    found = await pools.fetch(
        "SELECT kind, credits, owed FROM entry WHERE account_id = $1 AND seq > 1 ORDER BY seq", top_up.account_id
    )
    return [(kind, credits, owed) for kind, credits, owed in found]


def external_refund(
    top_up: TopUpRow, amount_minor: int, state: RefundStatus = RefundStatus.DONE, **claims: Any
) -> Refund:
    """What the sandbox says of a refund that was begun there."""
    said: dict[str, Any] = {
        "provider": "sandbox", "live": False, "refund_ref": unique_id("re"), "payment_ref": top_up.payment_ref,
        "reference": None, "status": state, "amount_minor": amount_minor, "currency": "USD",
    }  # fmt: skip
    return Refund(**(said | claims))


def build_dispute(top_up: TopUpRow, state: DisputeStatus, **claims: Any) -> Dispute:
    """What the sandbox says of a dispute of all that was paid, unless claims say otherwise."""
    said: dict[str, Any] = {
        "provider": "sandbox", "live": False, "dispute_ref": f"dp_{top_up.id}", "payment_ref": top_up.payment_ref,
        "status": state, "amount_minor": top_up.amount_minor, "currency": "USD",
    }  # fmt: skip
    return Dispute(**(said | claims))


async def deliver(said: Refund | Dispute, *, event_id: str | None = None) -> EventOutcome:
    """What becomes of a notice that says so, under an event id of its own unless one is given."""
    body = sandbox_refunds.build_event_body(said)
    return await settle(ProviderEvent(event_id=event_id or unique_id("sandbox:evt"), object=said, body=body))


async def _given_bonus(top_up: TopUpRow, credits: int, **more: Any) -> None:
    async def decide(posting: Posting) -> None:
        cause = Cause(actor="operator:test", reason="promotion", top_up_id=top_up.id)
        balance_changes.add_grant(
            posting.accounts[top_up.account_id], credits, cause, source=GrantSource.PROMOTIONAL, **more
        )

    await post([top_up.account_id], decide)
