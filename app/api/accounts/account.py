"""The type `Account`, with its lists, and the query that reads it."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import strawberry

from app.api.accounts.balance import Balance, account_node_id, load_account_balance, load_auto_top_up, to_balance
from app.api.accounts.grants import Grant, to_grant
from app.api.accounts.statement import StatementLine, load_statement_page
from app.api.context import Context, ResolverInfo
from app.api.input_checks import check_ids
from app.api.notifications import Notification, load_notification_page
from app.api.owner_scope import resolve_owner
from app.api.scalars import Credits
from app.api.tasks.agents import Agent, to_agent
from app.api.tasks.out_of_credits import ResumableTask, load_resumable_page
from app.api.tasks.types import Entry, Hold, to_entry, to_hold
from app.api.topups.auto_top_up import AutoTopUp, to_auto_top_up
from app.api.topups.types import TopUp, to_top_up
from app.credits import MAX_CREDITS
from app.engine import declare, global_ids
from app.engine.global_ids import INSTANT, INT32, KEY, LONG, UUID_HEX
from app.engine.pagination import After, Connection, First, before_number, paginate
from app.engine.permissions import Permission
from app.engine.schema import describe_enum
from app.ledger import queries
from app.ledger.rules.account_state import AccountBalance, EntryKind
from app.tasks import queries as task_queries
from app.topups import queries as topups

MAX_NUMBER = 2**31 - 1
"""The highest number that a grant or hold of an account can have."""

Kinds = Annotated[
    list[EntryKind] | None, strawberry.argument(description="Only entries of these kinds. Null means all.")
]
SpendableOnly = Annotated[bool, strawberry.argument(description="Only grants with credits that can be spent now.")]
UnreadOnly = Annotated[bool, strawberry.argument(description="Only notifications that are not marked as read.")]
OpenOnly = Annotated[bool, strawberry.argument(description="Only open holds and budgets.")]
From = Annotated[datetime | None, strawberry.argument(description="Only entries from this time on.", name="from")]
To = Annotated[datetime | None, strawberry.argument(description="Only entries before this time.")]
Owner = Annotated[strawberry.ID | None, strawberry.argument(description="The owner. Null means the caller.")]


class CannotRunReason(StrEnum):
    OUT_OF_CREDITS = "OUT_OF_CREDITS"
    IN_DEBT = "IN_DEBT"
    DISPUTED = "DISPUTED"


describe_enum(
    CannotRunReason,
    description="Why no task can start.",
    values={
        CannotRunReason.OUT_OF_CREDITS: "No credits are available.",
        CannotRunReason.IN_DEBT: "The account owes credits. A top-up pays the debt first.",
        CannotRunReason.DISPUTED: "All credits that are left are frozen by disputes. A top-up adds credits that can be "
        "spent.",
    },
)


@declare.type(
    description="Whether a task could start now. Schedulers query this before they call startTask.",
    needs=Permission.INHERITED,
)
class CanRun:
    ok: bool = declare.value(description="Whether a task could start.")
    reason: CannotRunReason | None = declare.value(description="Why no task can start; null if `ok` is true.")


@declare.type(
    description="The account of an owner. If it does not exist yet, it is shown empty.",
    needs=Permission.INHERITED,
)
class Account(global_ids.Node):
    owner_id: strawberry.ID = declare.value(description="The user or organisation that owns the account.")
    figures: strawberry.Private[AccountBalance]

    @declare.field(
        description="The current balance. It includes all starts and expiries of grants and holds that are due."
    )
    def balance(self, info: ResolverInfo) -> Balance:
        return to_balance(self.figures, info.context)

    @declare.field(description="Whether a task could start now.")
    def can_run(self) -> CanRun:
        if self.figures.owed:
            return CanRun(ok=False, reason=CannotRunReason.IN_DEBT)
        if not self.figures.available:
            is_frozen = self.figures.frozen > 0 and self.figures.posted > self.figures.held
            return CanRun(ok=False, reason=CannotRunReason.DISPUTED if is_frozen else CannotRunReason.OUT_OF_CREDITS)
        return CanRun(ok=True, reason=None)

    @declare.field(description="The balance has the status LOW if fewer credits than this are available.")
    def low_balance_threshold(self, info: ResolverInfo) -> Credits:
        own = self.figures.low_balance_threshold
        return Credits(info.context.state.settings.low_balance_threshold if own is None else own)

    @declare.field(description="The agents that have run tasks, the most recently started first.")
    async def agents(self, first: First = 25, after: After = None) -> Connection[Agent]:
        number = self.figures.account_id
        return await paginate(
            "agents",
            number,
            (INSTANT, KEY),
            first=first,
            after=after,
            read=lambda limit, position: task_queries.agent_page(
                number,
                limit=limit,
                after=task_queries.AgentActivity(last_started_at=position[0], agent_id=position[1])
                if position
                else None,
            ),
            position_of=lambda activity: (activity.last_started_at, activity.agent_id),
            node_of=lambda activity: to_agent(number, self.owner_id, activity.agent_id),
        )

    @declare.field(
        description="The statement, newest first. All charges and reversals of a task are one line; every other entry "
        "is a line of its own. Later pages show the state at the time of the first page."
    )
    async def statement(
        self,
        first: First = 25,
        after: After = None,
        kinds: Kinds = None,
        from_: From = None,
        to: To = None,
    ) -> Connection[StatementLine]:
        return await load_statement_page(
            self.figures.account_id, first=first, after=after, kinds=kinds, from_at=from_, to_at=to
        )

    @declare.field(description="The entries, newest first.")
    async def entries(self, first: First = 25, after: After = None, kinds: Kinds = None) -> Connection[Entry]:
        number = self.figures.account_id
        return await paginate(
            "entries",
            number,
            (LONG,),
            first=first,
            after=after,
            filters={"kinds": kinds},
            read=lambda limit, position: queries.list_entries(
                number, before_seq=before_number(position, MAX_CREDITS), limit=limit, kinds=kinds
            ),
            position_of=lambda entry: (entry.seq,),
            node_of=to_entry,
        )

    @declare.field(description="The grants, newest first.")
    async def grants(
        self, first: First = 25, after: After = None, spendable_only: SpendableOnly = False
    ) -> Connection[Grant]:
        number = self.figures.account_id
        return await paginate(
            "grants",
            number,
            (INT32,),
            first=first,
            after=after,
            filters={"spendableOnly": spendable_only},
            read=lambda limit, position: queries.list_grants(
                number,
                before_number=before_number(position, MAX_NUMBER),
                limit=limit,
                spendable_only=spendable_only,
            ),
            position_of=lambda grant: (grant.number,),
            node_of=lambda grant: to_grant(number, grant),
        )

    @declare.field(description="The holds and budgets, newest first.")
    async def holds(self, first: First = 25, after: After = None, open_only: OpenOnly = True) -> Connection[Hold]:
        number = self.figures.account_id
        return await paginate(
            "holds",
            number,
            (INT32,),
            first=first,
            after=after,
            filters={"openOnly": open_only},
            read=lambda limit, position: queries.list_holds(
                number, before_number=before_number(position, MAX_NUMBER), limit=limit, open_only=open_only
            ),
            position_of=lambda hold: (hold.number,),
            node_of=lambda hold: to_hold(number, hold),
        )

    @declare.field(
        description="Tasks that are stopped and can be resumed, the most recently started first. Cancelled tasks are "
        "not included."
    )
    async def resumable_tasks(self, first: First = 25, after: After = None) -> Connection[ResumableTask]:
        return await load_resumable_page(self.figures.account_id, self.owner_id, first=first, after=after)

    @declare.field(description="The notifications to the owner, newest first.")
    async def notifications(
        self, first: First = 25, after: After = None, unread_only: UnreadOnly = False
    ) -> Connection[Notification]:
        return await load_notification_page(self.figures.account_id, first=first, after=after, unread_only=unread_only)

    @declare.field(description="Auto top-up: its configuration and its state.")
    async def auto_top_up(self, info: ResolverInfo) -> AutoTopUp:
        return to_auto_top_up(await load_auto_top_up(self.figures.account_id, info.context))

    @declare.field(description="The top-ups, newest first.")
    async def top_ups(self, first: First = 25, after: After = None) -> Connection[TopUp]:
        number = self.figures.account_id
        return await paginate(
            "topUps",
            number,
            (INSTANT, UUID_HEX),
            first=first,
            after=after,
            read=lambda limit, position: topups.list_top_ups(number, before=position, limit=limit),
            position_of=lambda top_up: (top_up.created_at, top_up.id),
            node_of=to_top_up,
        )


@strawberry.type(description="Queries for accounts.")
class AccountQueries:
    @declare.query(
        needs=Permission.AUTHENTICATED,
        description="The account of an owner. A user may omit `ownerId` to read its own account. Null if the caller "
        "may not read it.",
    )
    async def account(self, info: ResolverInfo, owner_id: Owner = None) -> Account | None:
        check_ids(ownerId=owner_id)
        owner = resolve_owner(info.context, owner_id)
        return await _load_account(info.context, owner) if owner is not None else None


def to_account(balance: AccountBalance) -> Account:
    owner_id = balance.owner_id
    return Account(id=account_node_id(owner_id), owner_id=strawberry.ID(owner_id), figures=balance)


@global_ids.node_fetcher("Account", KEY)
async def fetch_account(context: Context, owner_id: str) -> Account | None:
    return await _load_account(context, owner_id) if resolve_owner(context, owner_id) is not None else None


async def _load_account(context: Context, owner_id: str) -> Account:
    return to_account(await load_account_balance(owner_id, context))
