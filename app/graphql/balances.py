"""The balance, as it stands in the header of every page."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum

import strawberry

from app.graphql import access, nodes
from app.graphql.access import Needs
from app.graphql.context import Context, Information
from app.graphql.enums import shown
from app.graphql.patience import patiently
from app.graphql.plans.sharing import Shared
from app.graphql.scalars import Credits, Long
from app.graphql.sight import owner_asked, owners_seen
from app.ledger import sight, statements
from app.ledger.book import Figures
from app.ledger.statements import Expiry as ExpiryRead
from app.live import Feed
from app.newest import Newest
from app.topups.refills import auto
from app.topups.refills.auto import View
from app.topups.refills.auto_rules import State
from app.topups.rules import Terms

shown(
    State,
    name="AutoTopUpState",
    description="How auto top-up stands.",
    values={
        State.OFF: "It is switched off.",
        State.READY: "It buys as soon as too little is available.",
        State.PENDING: "A purchase is under way.",
        State.COOLING_DOWN: "It has just bought.",
        State.BACKING_OFF: "The last purchase failed: it is tried again later.",
        State.BLOCKED: "It buys nothing until something is done, or a cap ends: see blockedReason.",
        State.ACTION_REQUIRED: "Its owner has to confirm a payment: see actionUrl.",
    },
)


class BalanceStatus(StrEnum):
    OK = "OK"
    LOW = "LOW"
    EMPTY = "EMPTY"
    OWING = "OWING"


shown(
    BalanceStatus,
    description="How the balance stands: the gravest that applies.",
    values={
        BalanceStatus.OK: "There is enough.",
        BalanceStatus.LOW: "Less is available than the account's threshold.",
        BalanceStatus.EMPTY: "Nothing is available: nothing starts.",
        BalanceStatus.OWING: "The account owes: nothing starts until a top-up has paid.",
    },
)


@access.type(description="Credits that leave at an instant.", needs=Needs.REACHED)
class Expiry:
    credits: Credits = access.value(description="What leaves if nothing is spent before.")
    at: datetime = access.value(description="When.")


@access.type(description="The state of an account at one version: the same for whoever reads it.", needs=Needs.REACHED)
class Balance(Shared, nodes.Node):
    account_id: strawberry.ID = access.value(description="The id of its Account.")
    available: Credits = access.value(description="Can be spent now: posted - held - frozen, never below 0.")
    posted: Credits = access.value(description="The sum of the account's entries.")
    held: Credits = access.value(description="Claimed by open holds and envelopes.")
    frozen: Credits = access.value(description="Frozen by disputes.")
    owed: Credits = access.value(description="Debt: what frees credits pays it first.")
    version: Long = access.value(description="Rises with every change of the figures: a newer state has a higher one.")
    status: BalanceStatus = access.value(description="The gravest that applies.")
    as_of: datetime = access.value(description="When it was read, by the database's clock.")
    number: strawberry.Private[int | None] = None

    @access.field(
        description="How auto top-up stands. What happens to it moves the version, so whoever follows the balance is "
        "told; what time alone ends is seen at the next reading."
    )
    async def auto_top_up(self, info: Information) -> State:
        return (await auto_top_up_view(self.number, info.context)).state

    @access.field(description="What leaves next by expiry; null where nothing will.")
    async def next_expiry(self, info: Information) -> Expiry | None:
        if self.number is None:
            return None
        found = await info.context.loader(_next_expiries).load(self.number)
        return Expiry(credits=Credits(found.credits), at=found.at) if found else None


async def auto_top_up_view(account_id: int | None, context: Context) -> View:
    """How auto top-up of an account stands, batched with the others of this request; None or 0: there is no account."""
    return (
        await context.loader(_views).load(
            (
                account_id,
                context.house.provider.name if context.house.provider else "",
                Terms.of(context.house.settings),
            )
        )
        if account_id
        else auto.NOTHING
    )


def balance_of(figures: Figures, context: Context) -> Balance:
    """A state of an account as GraphQL shows it."""
    return _shown(figures, context.house.settings.low_balance_at)


def newest_balances(feed: Feed, *, low_balance_at: int) -> Newest[Balance]:
    """The balances that are followed: one object a state, for all of its followers."""

    async def read(numbers: Sequence[int]) -> Mapping[int, Balance]:
        found = await patiently(lambda: statements.balances(numbers))
        shown = {number: _shown(figures, low_balance_at) for number, figures in found.items()}
        for balance in shown.values():
            balance.encoded = {}
        return shown

    return Newest(feed, read)


def _shown(figures: Figures, low_balance_at: int) -> Balance:
    threshold = figures.low_balance_at
    if threshold is None:
        threshold = low_balance_at
    available = figures.available
    if figures.owed:
        status = BalanceStatus.OWING
    elif not available:
        status = BalanceStatus.EMPTY
    else:
        status = BalanceStatus.LOW if available < threshold else BalanceStatus.OK
    return Balance(
        id=balance_id(figures.owner_id),
        account_id=account_id_of(figures.owner_id),
        available=Credits(available),
        posted=Credits(figures.posted),
        held=Credits(figures.held),
        frozen=Credits(figures.frozen),
        owed=Credits(figures.owed),
        version=Long(figures.version),
        status=status,
        as_of=figures.as_of,
        number=figures.account_id or None,
    )


def account_id_of(owner_id: str) -> strawberry.ID:
    """The node id of an owner's account: there before the account is, for who only looks makes none."""
    return nodes.encode_id("Account", owner_id)


def balance_id(owner_id: str) -> strawberry.ID:
    return nodes.encode_id("Balance", owner_id)


async def figures_of(owner_id: str, context: Context) -> Figures:
    """The owner's figures now; all zero where nothing was ever written for it."""
    number = await sight.account(owner_id, owner_ids=owners_seen(context.caller))
    found = await context.house.balances.get(number) if number is not None else None
    return found or await statements.nothing(owner_id)


@nodes.fetches("Balance", str)
async def fetch_balance(context: Context, owner_id: str) -> Balance | None:
    if owner_asked(context, owner_id) is None:
        return None
    return balance_of(await figures_of(owner_id, context), context)


async def _next_expiries(numbers: list[int]) -> list[ExpiryRead | None]:
    found = await statements.next_expiries(numbers)
    return [found.get(number) for number in numbers]


async def _views(keys: list[tuple[int, str, Terms]]) -> list[View]:
    """One provider and one set of terms: those of this process."""
    [(_, provider, terms), *_] = keys
    found = await auto.views([account_id for account_id, _, _ in keys], provider, terms)
    return [found.get(account_id, auto.NOTHING) for account_id, _, _ in keys]
