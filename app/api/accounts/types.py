"""Accounts: the balance, whether anything may start, the statement, entries, grants, agents, top-ups."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import strawberry

from app.api.accounts.balance import Balance, account_node_id, load_auto_top_up, load_figures, to_balance
from app.api.accounts.statement import StatementLine, load_statement_page
from app.api.context import Context, ResolverInfo
from app.api.input_checks import check_ids
from app.api.notifications import Notification, load_notification_page
from app.api.owner_scope import resolve_owner
from app.api.scalars import Credits
from app.api.tasks.agents import Agent, to_agent
from app.api.tasks.entries import Entry, Grant, to_entry, to_grant
from app.api.tasks.hold_types import Hold, to_hold
from app.api.tasks.out_of_credits import ResumableTask, load_resumable_page
from app.api.topups.auto_top_up import AutoTopUp, to_auto_top_up
from app.api.topups.types import TopUp, to_top_up
from app.credits import MAX_CREDITS
from app.engine import declare, global_ids
from app.engine.pagination import (
    After,
    Connection,
    First,
    build_connection,
    check_first,
    decode_cursor,
    encode_cursor,
    parse_cursor_time,
)
from app.engine.permissions import Permission
from app.engine.schema import describe_enum
from app.errors import BadRequest
from app.ledger import queries
from app.ledger.rules.account_state import AccountBalance, EntryKind
from app.tasks import agents
from app.topups import rows as topups

Kinds = Annotated[list[EntryKind] | None, strawberry.argument(description="Only these; null: all.")]
SpendableOnly = Annotated[bool, strawberry.argument(description="Only those that pay for something now.")]
UnreadOnly = Annotated[bool, strawberry.argument(description="Only those that are not marked read.")]
OpenOnly = Annotated[bool, strawberry.argument(description="Only those that claim something now.")]
From = Annotated[datetime | None, strawberry.argument(description="Entries from this instant on.", name="from")]
To = Annotated[datetime | None, strawberry.argument(description="Entries before this instant.")]
Owner = Annotated[strawberry.ID | None, strawberry.argument(description="Whose account; null: one's own.")]


class CannotRunReason(StrEnum):
    OUT_OF_CREDITS = "OUT_OF_CREDITS"
    IN_DEBT = "OWING"


describe_enum(
    CannotRunReason,
    description="Why nothing can start.",
    values={
        CannotRunReason.OUT_OF_CREDITS: "Nothing is available: add credits.",
        CannotRunReason.IN_DEBT: "The account owes: a top-up pays it first.",
    },
)


@declare.type(
    description="Whether a task could start now: for schedulers, ahead of startTask.", needs=Permission.INHERITED
)
class CanRun:
    ok: bool = declare.value(description="Whether it could.")
    reason: CannotRunReason | None = declare.value(description="Why not; null where it could.")


@declare.type(
    description="An owner's account. One that was never written to is shown empty.", needs=Permission.INHERITED
)
class Account(global_ids.Node):
    owner_id: strawberry.ID = declare.value(description="The user or organisation that it belongs to.")
    figures: strawberry.Private[AccountBalance]

    @declare.field(description="The balance, settled to now.")
    def balance(self, info: ResolverInfo) -> Balance:
        return to_balance(self.figures, info.context)

    @declare.field(description="Whether a task could start now.")
    def can_run(self) -> CanRun:
        if self.figures.owed:
            return CanRun(ok=False, reason=CannotRunReason.IN_DEBT)
        if not self.figures.available:
            return CanRun(ok=False, reason=CannotRunReason.OUT_OF_CREDITS)
        return CanRun(ok=True, reason=None)

    @declare.field(description="Below this the balance shows as LOW.")
    def low_balance_threshold(self, info: ResolverInfo) -> Credits:
        own = self.figures.low_balance_threshold
        return Credits(info.context.state.settings.low_balance_threshold if own is None else own)

    @declare.field(description="The agents that have run, last started first.")
    async def agents(self, first: First = 25, after: After = None) -> Connection[Agent]:
        number = self.figures.account_id
        place = decode_cursor(after, "agents", number, shape=(str, str))
        found = await agents.agent_page(
            number,
            limit=check_first(first) + 1,
            after=agents.AgentActivity(place[1], parse_cursor_time(place[0])) if place else None,
        )
        return build_connection(
            found,
            first=first,
            after=after,
            cursor_of=lambda one: encode_cursor("agents", number, one.last_started_at.isoformat(), one.agent_id),
            node_of=lambda one: to_agent(number, self.owner_id, one.agent_id),
        )

    @declare.field(
        description="Groups, newest first: a task is one group, everything else one line each. Pinned to the version "
        "of the first page, so that writes between pages move nothing."
    )
    async def statement(
        self,
        first: First = 25,
        after: After = None,
        kinds: Kinds = None,
        from_: From = None,
        to: To = None,
    ) -> Connection[StatementLine]:
        return await load_statement_page(self.figures, first=first, after=after, kinds=kinds, from_at=from_, to_at=to)

    @declare.field(description="The entries, newest first.")
    async def entries(self, first: First = 25, after: After = None, kinds: Kinds = None) -> Connection[Entry]:
        number = self.figures.account_id
        place = decode_cursor(after, "entries", number, shape=(int,))
        found = await queries.list_entries(
            number, before_seq=place[0] if place else MAX_CREDITS, limit=check_first(first) + 1, kinds=kinds
        )
        return build_connection(
            found,
            first=first,
            after=after,
            cursor_of=lambda posted: encode_cursor("entries", number, posted.seq),
            node_of=to_entry,
        )

    @declare.field(description="The grants, newest first.")
    async def grants(
        self, first: First = 25, after: After = None, spendable_only: SpendableOnly = False
    ) -> Connection[Grant]:
        number = self.figures.account_id
        place = decode_cursor(after, "grants", number, shape=(int,))
        found = await queries.list_grants(
            number,
            before_number=_small(place[0]) if place else 2**31 - 1,
            limit=check_first(first) + 1,
            spendable_only=spendable_only,
        )
        return build_connection(
            found,
            first=first,
            after=after,
            cursor_of=lambda lot: encode_cursor("grants", number, lot.number),
            node_of=lambda lot: to_grant(number, lot),
        )

    @declare.field(description="The holds and budgets, newest first.")
    async def holds(self, first: First = 25, after: After = None, open_only: OpenOnly = True) -> Connection[Hold]:
        number = self.figures.account_id
        place = decode_cursor(after, "holds", number, shape=(int,))
        found = await queries.list_holds(
            number,
            before_number=_small(place[0]) if place else 2**31 - 1,
            limit=check_first(first) + 1,
            open_only=open_only,
        )
        return build_connection(
            found,
            first=first,
            after=after,
            cursor_of=lambda hold: encode_cursor("holds", number, hold.number),
            node_of=lambda hold: to_hold(number, hold),
        )

    @declare.field(
        description="The tasks that were stopped and wait, each with what it lacked, last started first. What was "
        "cancelled is not among them."
    )
    async def resumable_tasks(self, first: First = 25, after: After = None) -> Connection[ResumableTask]:
        return await load_resumable_page(self.figures.account_id, str(self.owner_id), first=first, after=after)

    @declare.field(description="What its owner was told, newest first.")
    async def notifications(
        self, first: First = 25, after: After = None, unread_only: UnreadOnly = False
    ) -> Connection[Notification]:
        return await load_notification_page(self.figures.account_id, first=first, after=after, unread_only=unread_only)

    @declare.field(description="Whether and how it buys credits by itself.")
    async def auto_top_up(self, info: ResolverInfo) -> AutoTopUp:
        return to_auto_top_up(await load_auto_top_up(self.figures.account_id, info.context))

    @declare.field(description="The top-ups, newest first.")
    async def top_ups(self, first: First = 25, after: After = None) -> Connection[TopUp]:
        number = self.figures.account_id
        place = decode_cursor(after, "topUps", number, shape=(str, str))
        found = await topups.list_page(
            number, before=(parse_cursor_time(place[0]), place[1]) if place else None, limit=check_first(first) + 1
        )
        return build_connection(
            found,
            first=first,
            after=after,
            cursor_of=lambda one: encode_cursor("topUps", number, one.created_at.isoformat(), one.id),
            node_of=to_top_up,
        )


@strawberry.type(description="Reading accounts.")
class AccountQueries:
    @declare.query(
        needs=Permission.AUTHENTICATED,
        description="A user's own account; organisations a user may look at, services and operators name the owner.",
    )
    async def account(self, info: ResolverInfo, owner_id: Owner = None) -> Account | None:
        check_ids(ownerId=owner_id)
        owner = resolve_owner(info.context, owner_id)
        return await _account(info.context, owner) if owner is not None else None


@global_ids.node_fetcher("Account", str)
async def fetch_account(context: Context, owner_id: str) -> Account | None:
    return await _account(context, owner_id) if resolve_owner(context, owner_id) is not None else None


async def _account(context: Context, owner_id: str) -> Account:
    return Account(
        id=account_node_id(owner_id), owner_id=strawberry.ID(owner_id), figures=await load_figures(owner_id, context)
    )


def _small(number: int) -> int:
    """A grant's number fits 32 bits. Raises: BadRequest: somebody wrote the cursor by hand."""
    if abs(number) < 2**31:
        return number
    raise BadRequest("after is not a cursor of this list: take it from pageInfo.endCursor of the page before.")
