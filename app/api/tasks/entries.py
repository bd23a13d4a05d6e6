"""Entries, the draws that say which grant paid, and grants."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, TypeAlias

import strawberry

from app.api.context import Context, ResolverInfo
from app.api.owner_scope import readable_owners
from app.api.scalars import Credits
from app.api.tasks.hold_types import Hold, load_hold
from app.engine import declare, global_ids
from app.engine.permissions import Permission
from app.engine.scalars import Long
from app.engine.schema import describe_enum
from app.ledger import owner_scope, queries
from app.ledger.rules.account_state import EntryKind, GrantSource, GrantState, LedgerEntry

if TYPE_CHECKING:
    from app.api.tasks.block_runs import BlockRun
    from app.api.tasks.types import Task
    from app.api.topups.types import TopUp

LazyTask: TypeAlias = Annotated["Task", strawberry.lazy("app.api.tasks.types")]
LazyBlockRun: TypeAlias = Annotated["BlockRun", strawberry.lazy("app.api.tasks.block_runs")]
LazyTopUp: TypeAlias = Annotated["TopUp", strawberry.lazy("app.api.topups.types")]

describe_enum(
    EntryKind,
    name="EntryKind",
    description="What an entry is.",
    values={
        EntryKind.TOP_UP: "Bought credits arrive.",
        EntryKind.GRANT: "Granted credits arrive.",
        EntryKind.CHARGE: "A block run is paid.",
        EntryKind.REVERSAL: "A charge is given back.",
        EntryKind.REFUND: "Bought credits leave, the money goes back.",
        EntryKind.EXPIRY: "Credits of a grant have expired.",
        EntryKind.ADJUSTMENT: "An operator corrects, or takes back what is unspent of a grant.",
        EntryKind.DEBT: "What a refund or a lost dispute could not take becomes debt.",
        EntryKind.DEBT_PAID: "Credits that became free pay debt.",
    },
)
describe_enum(
    GrantSource,
    name="GrantSource",
    description="Where the credits of a grant came from.",
    values={
        GrantSource.PURCHASED: "Bought.",
        GrantSource.PROMOTIONAL: "Given.",
        GrantSource.ADJUSTMENT: "A correction.",
    },
)


@declare.type(description="A lot of credits. Every posted credit sits in one.", needs=Permission.INHERITED)
class Grant(global_ids.Node):
    source: GrantSource = declare.value(description="Where the credits came from.")
    credits: Credits = declare.value(description="Its size when it was made.")
    remaining: Credits = declare.value(description="What is posted of it and not spent.")
    claimed: Credits = declare.value(description="The part of what remains that holds and envelopes claim.")
    priority: int = declare.value(description="Lower burns first.")
    starts_at: datetime | None = declare.value(description="When it is posted; null: at once.")
    expires_at: datetime | None = declare.value(description="When what is unspent leaves; null: never.")
    reason: str | None = declare.value(description="Why it was made.")
    created_at: datetime = declare.value(description="When it was made.")


@declare.type(description="Which grant paid, or got back, how much of an entry.", needs=Permission.INHERITED)
class Draw:
    credits: Credits = declare.value(description="How much, always positive.")
    key: strawberry.Private[tuple[int, int]]

    @declare.field(description="The grant, as it stands now.")
    async def grant(self, info: ResolverInfo) -> Grant:
        lot = await info.context.data_loader(_lots).load(self.key)
        return to_grant(self.key[0], lot)


@declare.type(description="One signed line of an account. It never changes.", needs=Permission.INHERITED)
class Entry(global_ids.Node):
    seq: Long = declare.value(description="Its number in the account: 1, 2, 3 without gap.")
    version: Long = declare.value(description="The version of the balance that it made.")
    kind: EntryKind = declare.value(description="What it is.")
    credits: Credits = declare.value(description="Change of the posted balance.")
    owed: Credits = declare.value(description="Change of the debt.")
    balance_after: Credits = declare.value(description="The posted balance after it.")
    at: datetime = declare.value(description="When it counts from.")
    actor: str = declare.value(description="Who did it, such as user:alice; time and debt, for what nobody did.")
    reason: str | None = declare.value(description="Why, where somebody had to say.")
    request_id: str | None = declare.value(
        needs=Permission.OPERATOR, description="The request that caused it, as logs call it; null where none did."
    )
    mac: str = declare.value(description="HMAC-SHA256 over it and the entry before, in hex: proves the chain.")
    posted: strawberry.Private[LedgerEntry]

    @declare.field(description="The task whose block run it pays or gives back.")
    async def task(self, info: ResolverInfo) -> LazyTask | None:
        from app.api.tasks.types import load_task  # noqa: PLC0415  tasks shows entries, entries show tasks

        line = self.posted
        return await load_task(info.context, line.account_id, line.task_id) if line.task_id else None

    @declare.field(description="The block run that it pays or gives back.")
    async def block_run(self, info: ResolverInfo) -> LazyBlockRun | None:
        from app.api.tasks.block_runs import load_block_run  # noqa: PLC0415  as above

        line = self.posted
        return await load_block_run(info.context, line.account_id, line.block_run_id) if line.block_run_id else None

    @declare.field(description="The top-up that it credits.")
    async def top_up(self, info: ResolverInfo) -> LazyTopUp | None:
        from app.api.topups.types import load_top_up  # noqa: PLC0415  as above

        line = self.posted
        return await load_top_up(info.context, line.account_id, line.top_up_id) if line.top_up_id else None

    @declare.field(description="The hold or budget that paid it; null where the account did.")
    async def hold(self, info: ResolverInfo) -> Hold | None:
        line = self.posted
        return (
            await load_hold(info.context, line.account_id, line.hold_number) if line.hold_number is not None else None
        )

    @declare.field(description="Which grants it drew on or filled; their credits add up to the entry's.")
    def draws(self) -> list[Draw]:
        line = self.posted
        return [Draw(credits=Credits(drawn), key=(line.account_id, number)) for number, drawn in line.draws]


def to_entry(posted: LedgerEntry) -> Entry:
    """An entry as GraphQL shows it."""
    line = posted
    return Entry(
        id=global_ids.encode_id("Entry", line.account_id, line.seq),
        seq=Long(line.seq),
        version=Long(line.version),
        kind=EntryKind(line.kind),
        credits=Credits(line.credits),
        owed=Credits(line.owed),
        balance_after=Credits(line.balance_after),
        at=line.at,
        actor=line.actor,
        reason=line.reason,
        request_id=line.request_id,
        mac=posted.mac.hex(),
        posted=posted,
    )


def to_grant(account_id: int, lot: GrantState) -> Grant:
    """A grant as GraphQL shows it."""
    return Grant(
        id=global_ids.encode_id("Grant", account_id, lot.number),
        source=lot.source,
        credits=Credits(lot.credits),
        remaining=Credits(lot.remaining),
        claimed=Credits(lot.claimed),
        priority=lot.priority,
        starts_at=lot.starts_at,
        expires_at=lot.expires_at,
        reason=lot.reason,
        created_at=lot.created_at,
    )


async def load_entry(context: Context, account_id: int, seq: int) -> Entry | None:
    """An entry by its key, batched with the others of this request."""
    posted = await context.data_loader(_entries).load((account_id, seq))
    return to_entry(posted) if posted else None


@global_ids.node_fetcher("Entry", int, int)
async def fetch_entry(context: Context, account_id: int, seq: int) -> Entry | None:
    posted = await owner_scope.find_entry(account_id, seq, owner_ids=readable_owners(context.authenticated_caller))
    return to_entry(posted) if posted else None


@global_ids.node_fetcher("Grant", int, int)
async def fetch_grant(context: Context, account_id: int, number: int) -> Grant | None:
    lot = await owner_scope.find_grant(account_id, number, owner_ids=readable_owners(context.authenticated_caller))
    return to_grant(account_id, lot) if lot else None


async def _entries(keys: list[tuple[int, int]]) -> Sequence[LedgerEntry | None]:
    found = await queries.get_entries(keys)
    return [found.get(key) for key in keys]


async def _lots(keys: list[tuple[int, int]]) -> Sequence[GrantState]:
    found = await queries.get_grants(keys)
    return [found[key] for key in keys]
