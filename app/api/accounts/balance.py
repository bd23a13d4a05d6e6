"""The balance of an account: the GraphQL type `Balance`, its node id, and the functions that read and cache it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum

import strawberry

from app.api.context import Context, ResolverInfo
from app.api.objects import batched
from app.api.owner_scope import readable_owners, resolve_owner
from app.api.scalars import Credits
from app.engine import declare, global_ids
from app.engine.compiler.compiled_operation import SharedEvent
from app.engine.global_ids import KEY
from app.engine.permissions import Permission
from app.engine.scalars import Long
from app.engine.schema import describe_enum
from app.engine.subscriptions import retry_until_available
from app.ledger import owner_scope, queries
from app.ledger.rules.account_state import AccountBalance
from app.live.change_feed import ChangeFeed
from app.live.latest_state import LatestStates
from app.topups.auto_topup import configuration
from app.topups.auto_topup.configuration import AutoTopUpView
from app.topups.auto_topup.rules import AutoTopUpState
from app.topups.rules import TopUpTerms

describe_enum(
    AutoTopUpState,
    description="The state of auto top-up.",
    values={
        AutoTopUpState.OFF: "Auto top-up is switched off.",
        AutoTopUpState.READY: "The next purchase starts when the available credits fall below the threshold.",
        AutoTopUpState.PENDING: "A purchase is in progress.",
        AutoTopUpState.COOLING_DOWN: "A purchase was made less than a minute ago. The next one is made later.",
        AutoTopUpState.BACKING_OFF: "The last purchase failed. It is retried later.",
        AutoTopUpState.BLOCKED: "No purchase is made until a cap ends or the cause is removed: see `blockedReason`.",
        AutoTopUpState.ACTION_REQUIRED: "The owner must confirm a payment: see `actionUrl`.",
    },
)


class BalanceStatus(StrEnum):
    OK = "OK"
    LOW = "LOW"
    EMPTY = "EMPTY"
    IN_DEBT = "IN_DEBT"


describe_enum(
    BalanceStatus,
    description="The status of a balance. If several apply, the most severe one.",
    values={
        BalanceStatus.OK: "Enough credits are available.",
        BalanceStatus.LOW: "Fewer credits are available than the account's `lowBalanceThreshold`.",
        BalanceStatus.EMPTY: "No credits are available. No task can start.",
        BalanceStatus.IN_DEBT: "The account owes credits. No task can start until a top-up has paid the debt.",
    },
)


@declare.type(description="The credits that expire next.", needs=Permission.INHERITED)
class Expiry:
    credits: Credits = declare.value(description="The number of credits that expire unless they are spent before.")
    expires_at: datetime = declare.value(description="When they expire.")


@declare.type(
    description="The balance of an account at one version. It is the same for every reader.",
    needs=Permission.INHERITED,
)
class Balance(SharedEvent, global_ids.Node):
    account_id: strawberry.ID = declare.value(description="The `id` of the account.")
    available: Credits = declare.value(
        description="Credits that can be spent now: posted - held - frozen, never less than 0."
    )
    posted: Credits = declare.value(description="The sum of all entries of the account.")
    held: Credits = declare.value(description="Credits reserved by open holds and budgets.")
    frozen: Credits = declare.value(description="Credits frozen by disputes.")
    owed: Credits = declare.value(description="The debt. Credits that become free pay it first.")
    version: Long = declare.value(description="Rises with every change. Ignore a balance with a lower version.")
    status: BalanceStatus = declare.value(description="The most severe status that applies.")
    as_of: datetime = declare.value(description="When the balance was read, by the clock of the database.")
    account_number: strawberry.Private[int | None] = None

    @declare.field(
        description="The state of auto top-up. A purchase changes `version`, so subscribers receive a new item. A "
        "state that ends after some time does not change `version`: its end is visible when the balance is read again."
    )
    async def auto_top_up(self, info: ResolverInfo) -> AutoTopUpState:
        return (await load_auto_top_up(self.account_number, info.context)).state

    @declare.field(description="The credits that expire next; null if none do.")
    async def next_expiry(self, info: ResolverInfo) -> Expiry | None:
        if self.account_number is None:
            return None
        found = await info.context.data_loader(_next_expiries).load(self.account_number)
        return Expiry(credits=Credits(found.credits), expires_at=found.at) if found else None


def to_balance(balance: AccountBalance, context: Context) -> Balance:
    return _to_balance(balance, context.state.settings.low_balance_threshold)


def open_latest_balances(feed: ChangeFeed, *, low_balance_threshold: int) -> LatestStates[Balance]:
    """Open the cache of balances with subscribers. All subscribers of an account share one object for each version."""

    async def read(account_ids: Sequence[int]) -> Mapping[int, Balance]:
        found = await retry_until_available(lambda: queries.get_balances(account_ids))
        balances = {number: _to_balance(balance, low_balance_threshold) for number, balance in found.items()}
        for balance in balances.values():
            balance.encoded_responses = {}
        return balances

    return LatestStates(feed, read)


def _to_balance(balance: AccountBalance, default_threshold: int) -> Balance:
    threshold = balance.low_balance_threshold
    if threshold is None:
        threshold = default_threshold
    available = balance.available
    if balance.owed:
        status = BalanceStatus.IN_DEBT
    elif not available:
        status = BalanceStatus.EMPTY
    else:
        status = BalanceStatus.LOW if available < threshold else BalanceStatus.OK
    return Balance(
        id=global_ids.encode_id("Balance", balance.owner_id),
        account_id=account_node_id(balance.owner_id),
        available=Credits(available),
        posted=Credits(balance.posted),
        held=Credits(balance.held),
        frozen=Credits(balance.frozen),
        owed=Credits(balance.owed),
        version=Long(balance.version),
        status=status,
        as_of=balance.as_of,
        account_number=balance.account_id or None,
    )


def account_node_id(owner_id: str) -> strawberry.ID:
    """Return the node id of an owner's account. It contains the owner's id, so it exists before the account does."""
    return global_ids.encode_id("Account", owner_id)


async def load_account_balance(owner_id: str, context: Context) -> AccountBalance:
    """Return the owner's current balance. If the account does not exist yet, all numbers are 0."""
    number = await owner_scope.find_account_id(owner_id, owner_ids=readable_owners(context.authenticated_caller))
    if number is None:
        return await queries.empty_balance(owner_id)
    # Due changes are not written in the shared read, so that a locked account delays only its own callers.
    found = await context.state.balance_reader.get(number) or (await queries.get_balances([number])).get(number)
    return found or await queries.empty_balance(owner_id)


async def load_auto_top_up(account_id: int | None, context: Context) -> AutoTopUpView:
    """Return the state of an account's auto top-up. The loads of a request are combined into one read.

    `account_id` is None or 0 if the account does not exist yet.
    """
    if not account_id:
        return configuration.NEVER_CONFIGURED
    provider = context.state.payment_provider.name if context.state.payment_provider else ""
    terms = TopUpTerms.from_settings(context.state.settings)
    return await context.data_loader(_auto_top_ups).load((account_id, provider, terms))


@global_ids.node_fetcher("Balance", KEY)
async def fetch_balance(context: Context, owner_id: str) -> Balance | None:
    if resolve_owner(context, owner_id) is None:
        return None
    return to_balance(await load_account_balance(owner_id, context), context)


_next_expiries = batched(queries.get_next_expiries, None)


async def _auto_top_ups(keys: list[tuple[int, str, TopUpTerms]]) -> list[AutoTopUpView]:
    [(_, provider, terms), *_] = keys  # all keys have the provider and terms of this process
    found = await configuration.find_views([account_id for account_id, _, _ in keys], provider, terms)
    return [found.get(account_id, configuration.NEVER_CONFIGURED) for account_id, _, _ in keys]
