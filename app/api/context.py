"""The state of the application that its requests share, and the types of a resolver's context and info."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from strawberry.types.info import Info

from app.db.group_commit import BatchedReads
from app.engine.context import RequestContext
from app.ledger.rules.account_state import AccountBalance
from app.live.change_feed import ChangeFeed
from app.live.latest_state import LatestStates
from app.pricing.rate_card_cache import RateCardCache
from app.settings import Settings
from app.tasks.charging import ChargeQueue
from app.topups.provider import PaymentProvider

if TYPE_CHECKING:
    from app.api.accounts.balance import Balance


@dataclass(frozen=True, slots=True, kw_only=True)
class AppState:
    """What lives as long as the process.

    `balances` reads for many callers at once, `newest` for all who follow. No `provider`: credits are not sold here.
    """

    settings: Settings
    change_feed: ChangeFeed
    rate_cards: RateCardCache
    charge_queue: ChargeQueue
    balance_reader: BatchedReads[int, AccountBalance]
    latest_balances: "LatestStates[Balance]"
    payment_provider: PaymentProvider | None


Context = RequestContext[AppState]
"""For annotations; create a `RequestContext`, because a call through the alias is slower."""

ResolverInfo = Info[Context, None]
"""The type of a resolver's `info`."""
