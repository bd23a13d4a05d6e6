"""Helpers for tests of refunds and disputes: paid top-ups, and what the sandbox reports about them."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from app.db import pools
from app.errors import Unavailable
from app.ledger.posting import Posting, post
from app.ledger.rules import balance_changes
from app.ledger.rules.account_state import Cause, GrantSource
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import lifecycle
from app.tasks.rules import TaskStatus
from app.topups import queries
from app.topups.provider import Dispute, DisputeStatus, ProviderEvent, Refund, RefundOrder, RefundStatus
from app.topups.provider_events import EventOutcome
from app.topups.refunds.requests import RefundRequest, RefundResult, request_refund
from app.topups.rules import TopUpRow, TopUpStatus
from app.topups.sandbox import events as sandbox_events
from app.topups.sandbox.provider import Sandbox
from app.topups.settlement import settle
from app.verify.verifier import verify_ledger
from tests.factories import charge_block_run, get_balance, start_task, unique_id
from tests.topups.top_up_fixtures import (
    ADDRESS,
    SANDBOX,
    SECRET,
    TERMS,
    create_top_up,
    find_page,
    payment_event,
    reload,
)


@dataclass(frozen=True, slots=True)
class LostAnswerSandbox(Sandbox):
    """A sandbox that makes refunds but whose answers are lost."""

    async def create_refund(self, order: RefundOrder) -> Refund:
        await Sandbox.create_refund(self, order)
        raise Unavailable("The connection was lost.")


@dataclass(frozen=True, slots=True)
class UnreachableSandbox(Sandbox):
    """A sandbox that no refund reaches."""

    async def create_refund(self, order: RefundOrder) -> Refund:
        raise Unavailable("The connection was refused.")


LOST_ANSWER, UNREACHABLE = LostAnswerSandbox(ADDRESS, SECRET), UnreachableSandbox(ADDRESS, SECRET)


class Figures(NamedTuple):
    """The figures of an account."""

    posted: int
    held: int
    frozen: int
    owed: int
    available: int


async def create_paid_top_up(owner_id: str = "alice", credits: int = 1_000, *, bonus: int = 0, **more: Any) -> TopUpRow:
    """A paid top-up, with a promotional grant of `bonus` credits."""
    top_up = await create_top_up(owner_id, credits, terms=more.pop("terms", TERMS))
    event = await payment_event(top_up, payment_ref=(await find_page(top_up)).provider_ref)
    assert await settle(event) is EventOutcome.CREDITED
    if bonus:
        await pools.fetch("UPDATE top_up SET bonus_credits = $2 WHERE id = $1", top_up.id, bonus)
        await _grant_bonus(top_up, bonus, **more)
    return await reload(top_up)


async def refund_top_up(top_up: TopUpRow, credits: int | None = None, **more: Any) -> RefundResult:
    """The result of an operator's refund request."""
    values: dict[str, Any] = {"reason": "asked for it", "key": unique_id("refund"), "actor": "operator:test"}
    provider = more.pop("provider", SANDBOX)
    request = RefundRequest(account_id=top_up.account_id, top_up_id=top_up.id, credits=credits, **(values | more))
    return await request_refund(request, provider)


async def spend_credits(owner_id: str, rate_cards: RateCardCache, credits: int) -> None:
    """Spend credits, a multiple of 10, by a task that completes."""
    task = await start_task(owner_id)
    for _ in range(credits // 10):
        await charge_block_run(task, rate_cards)
    await lifecycle.finish_task(task.task_id, TaskStatus.COMPLETED)


async def read_figures(top_up: TopUpRow) -> Figures:
    found = await get_balance(top_up.account_id)
    return Figures(found.posted, found.held, found.frozen, found.owed, found.available)


async def read_refund_figures(top_up: TopUpRow) -> tuple[TopUpStatus, int, int, int]:
    """Status, refunded credits, refunded money, credits clawed back."""
    found = await queries.find_top_up(top_up.account_id, top_up.id)
    assert found is not None
    return found.status, found.refunded_credits, found.refunded_minor, found.clawed_back_credits


async def list_moves(top_up: TopUpRow) -> list[tuple[str, int, int]]:
    """Kind, credits and owed of the account's entries after that of the top-up, oldest first."""
    found = await pools.fetch(
        "SELECT kind, credits, owed FROM entry WHERE account_id = $1 AND seq > 1 ORDER BY seq", top_up.account_id
    )
    return [(kind, credits, owed) for kind, credits, owed in found]


async def assert_ledger_intact() -> None:
    """Assert that the verifier finds nothing."""
    assert (await verify_ledger()).violations == []


def external_refund(
    top_up: TopUpRow, amount_minor: int, status: RefundStatus = RefundStatus.DONE, **changes: Any
) -> Refund:
    """A refund begun at the sandbox, as it reports it."""
    values: dict[str, Any] = {
        "provider": "sandbox", "live": False, "refund_ref": unique_id("re"), "payment_ref": top_up.payment_ref,
        "reference": None, "status": status, "amount_minor": amount_minor, "currency": "USD",
    }  # fmt: skip
    return Refund(**(values | changes))


def build_dispute(top_up: TopUpRow, status: DisputeStatus, **changes: Any) -> Dispute:
    """A dispute of the whole payment, as the sandbox reports it."""
    values: dict[str, Any] = {
        "provider": "sandbox", "live": False, "dispute_ref": f"dp_{top_up.id}", "payment_ref": top_up.payment_ref,
        "status": status, "amount_minor": top_up.amount_minor, "currency": "USD",
    }  # fmt: skip
    return Dispute(**(values | changes))


async def deliver(reported: Refund | Dispute, *, event_id: str | None = None) -> EventOutcome:
    """The outcome of an event that reports this object, with a new event id unless one is given."""
    body = sandbox_events.build_body(reported)
    return await settle(ProviderEvent(event_id=event_id or unique_id("sandbox:evt"), object=reported, body=body))


async def _grant_bonus(top_up: TopUpRow, credits: int, **more: Any) -> None:
    async def decide(posting: Posting) -> None:
        cause = Cause(actor="operator:test", reason="promotion", top_up_id=top_up.id)
        account = posting.accounts[top_up.account_id]
        balance_changes.add_grant(account, credits, cause, source=GrantSource.PROMOTIONAL, **more)

    await post([top_up.account_id], decide)
