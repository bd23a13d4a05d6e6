"""The balance, as it stands in the header of every page."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum

import strawberry

from app.api.context import Context, ResolverInfo
from app.api.owner_scope import readable_owners, resolve_owner
from app.api.scalars import Credits
from app.engine import declare, global_ids
from app.engine.compiler.compiled_operation import SharedEvent
from app.engine.permissions import Permission
from app.engine.scalars import Long
from app.engine.schema import describe_enum
from app.engine.subscriptions import retry_until_available
from app.ledger import owner_scope, queries
from app.ledger.queries import NextExpiry as ExpiryRead
from app.ledger.rules.account_state import AccountBalance
from app.live.change_feed import ChangeFeed
from app.live.latest_state import LatestStates
from app.topups.auto_topup import purchasing
from app.topups.auto_topup.purchasing import AutoTopUpView
from app.topups.auto_topup.rules import AutoTopUpState
from app.topups.rules import TopUpTerms

describe_enum(
    AutoTopUpState,
    name="AutoTopUpState",
    description="How auto top-up stands.",
    values={
        AutoTopUpState.OFF: "It is switched off.",
        AutoTopUpState.READY: "It buys as soon as too little is available.",
        AutoTopUpState.PENDING: "A purchase is under way.",
        AutoTopUpState.COOLING_DOWN: "It has just bought.",
        AutoTopUpState.BACKING_OFF: "The last purchase failed: it is tried again later.",
        AutoTopUpState.BLOCKED: "It buys nothing until something is done, or a cap ends: see blockedReason.",
        AutoTopUpState.ACTION_REQUIRED: "Its owner has to confirm a payment: see actionUrl.",
    },
)


class BalanceStatus(StrEnum):
    OK = "OK"
    LOW = "LOW"
    EMPTY = "EMPTY"
    IN_DEBT = "OWING"


describe_enum(
    BalanceStatus,
    description="How the balance stands: the gravest that applies.",
    values={
        BalanceStatus.OK: "There is enough.",
        BalanceStatus.LOW: "Less is available than the account's threshold.",
        BalanceStatus.EMPTY: "Nothing is available: nothing starts.",
        BalanceStatus.IN_DEBT: "The account owes: nothing starts until a top-up has paid.",
    },
)


@declare.type(description="Credits that leave at an instant.", needs=Permission.INHERITED)
class Expiry:
    credits: Credits = declare.value(description="What leaves if nothing is spent before.")
    at: datetime = declare.value(description="When.")


@declare.type(
    description="The state of an account at one version: the same for whoever reads it.", needs=Permission.INHERITED
)
class Balance(SharedEvent, global_ids.Node):
    account_id: strawberry.ID = declare.value(description="The id of its Account.")
    available: Credits = declare.value(description="Can be spent now: posted - held - frozen, never below 0.")
    posted: Credits = declare.value(description="The sum of the account's entries.")
    held: Credits = declare.value(description="Claimed by open holds and envelopes.")
    frozen: Credits = declare.value(description="Frozen by disputes.")
    owed: Credits = declare.value(description="Debt: what frees credits pays it first.")
    version: Long = declare.value(description="Rises with every change of the figures: a newer state has a higher one.")
    status: BalanceStatus = declare.value(description="The gravest that applies.")
    as_of: datetime = declare.value(description="When it was read, by the database's clock.")
    account_number: strawberry.Private[int | None] = None

    @declare.field(
        description="How auto top-up stands. What happens to it moves the version, so whoever follows the balance is "
        "told; what time alone ends is seen at the next reading."
    )
    async def auto_top_up(self, info: ResolverInfo) -> AutoTopUpState:
        return (await load_auto_top_up(self.account_number, info.context)).state

    @declare.field(description="What leaves next by expiry; null where nothing will.")
    async def next_expiry(self, info: ResolverInfo) -> Expiry | None:
        if self.account_number is None:
            return None
        found = await info.context.data_loader(_next_expiries).load(self.account_number)
        return Expiry(credits=Credits(found.credits), at=found.at) if found else None


async def load_auto_top_up(account_id: int | None, context: Context) -> AutoTopUpView:
    """How auto top-up of an account stands, batched with the others of this request; None or 0: there is no account."""
    return (
        await context.data_loader(_views).load(
            (
                account_id,
                context.state.payment_provider.name if context.state.payment_provider else "",
                TopUpTerms.from_settings(context.state.settings),
            )
        )
        if account_id
        else purchasing.NEVER_CONFIGURED
    )


def to_balance(figures: AccountBalance, context: Context) -> Balance:
    """A state of an account as GraphQL shows it."""
    return _shown(figures, context.state.settings.low_balance_threshold)


def open_latest_balances(feed: ChangeFeed, *, low_balance_at: int) -> LatestStates[Balance]:
    """The balances that are followed: one object a state, for all of its followers."""

    async def read(numbers: Sequence[int]) -> Mapping[int, Balance]:
        found = await retry_until_available(lambda: queries.get_balances(numbers))
        shown = {number: _shown(figures, low_balance_at) for number, figures in found.items()}
        for balance in shown.values():
            balance.encoded_responses = {}
        return shown

    return LatestStates(feed, read)


def _shown(figures: AccountBalance, low_balance_at: int) -> Balance:
    threshold = figures.low_balance_threshold
    if threshold is None:
        threshold = low_balance_at
    available = figures.available
    if figures.owed:
        status = BalanceStatus.IN_DEBT
    elif not available:
        status = BalanceStatus.EMPTY
    else:
        status = BalanceStatus.LOW if available < threshold else BalanceStatus.OK
    return Balance(
        id=balance_node_id(figures.owner_id),
        account_id=account_node_id(figures.owner_id),
        available=Credits(available),
        posted=Credits(figures.posted),
        held=Credits(figures.held),
        frozen=Credits(figures.frozen),
        owed=Credits(figures.owed),
        version=Long(figures.version),
        status=status,
        as_of=figures.as_of,
        account_number=figures.account_id or None,
    )


def account_node_id(owner_id: str) -> strawberry.ID:
    """The node id of an owner's account: there before the account is, for who only looks makes none."""
    return global_ids.encode_id("Account", owner_id)


def balance_node_id(owner_id: str) -> strawberry.ID:
    return global_ids.encode_id("Balance", owner_id)


async def load_figures(owner_id: str, context: Context) -> AccountBalance:
    """The owner's figures now; all zero where nothing was ever written for it."""
    number = await owner_scope.find_account_id(owner_id, owner_ids=readable_owners(context.authenticated_caller))
    found = await context.state.balance_reader.get(number) if number is not None else None
    return found or await queries.empty_balance(owner_id)


@global_ids.node_fetcher("Balance", str)
async def fetch_balance(context: Context, owner_id: str) -> Balance | None:
    if resolve_owner(context, owner_id) is None:
        return None
    return to_balance(await load_figures(owner_id, context), context)


async def _next_expiries(numbers: list[int]) -> list[ExpiryRead | None]:
    found = await queries.get_next_expiries(numbers)
    return [found.get(number) for number in numbers]


async def _views(keys: list[tuple[int, str, TopUpTerms]]) -> list[AutoTopUpView]:
    """One provider and one set of terms: those of this process."""
    [(_, provider, terms), *_] = keys
    found = await purchasing.find_views([account_id for account_id, _, _ in keys], provider, terms)
    return [found.get(account_id, purchasing.NEVER_CONFIGURED) for account_id, _, _ in keys]
