"""The statement of an account: one line for each task and for each other entry."""

from datetime import datetime

import strawberry

from app.api.context import ResolverInfo
from app.api.scalars import Credits
from app.api.tasks.types import Entry, Task, load_task, to_entry
from app.engine import declare
from app.engine.global_ids import LONG
from app.engine.pagination import Connection, paginate
from app.engine.permissions import Permission
from app.ledger.rules.account_state import EntryKind
from app.tasks import account_statement
from app.tasks.account_statement import StatementGroup, StatementPosition


@declare.type(
    description="A line of a statement: all charges and reversals of one task, or one other entry.",
    needs=Permission.INHERITED,
)
class StatementLine:
    kinds: list[EntryKind] = declare.value(description="The kinds of its entries.")
    credits: Credits = declare.value(description="The sum of its entries.")
    entry_count: int = declare.value(description="The number of its entries.")
    first_at: datetime = declare.value(description="When its first entry took effect.")
    last_at: datetime = declare.value(description="When its last entry took effect. Lines are in this order.")
    balance_after: Credits = declare.value(description="The posted balance after its last entry.")
    group: strawberry.Private[StatementGroup]

    @declare.field(description="The task; null if the line is not about a task.")
    async def task(self, info: ResolverInfo) -> Task | None:
        if self.group.task_id is None:
            return None
        return await load_task(info.context, self.group.last.account_id, self.group.task_id)

    @declare.field(description="The entry; null if the line is about a task.")
    def entry(self) -> Entry | None:
        return to_entry(self.group.last) if self.group.task_id is None else None


async def load_statement_page(
    account_id: int,
    *,
    first: int,
    after: str | None,
    kinds: list[EntryKind] | None,
    from_at: datetime | None,
    to_at: datetime | None,
) -> Connection[StatementLine]:
    """Load a page of an account's statement."""
    pinned_seq = 0

    async def read(limit: int, position: tuple[int, int] | None) -> list[StatementGroup]:
        nonlocal pinned_seq
        page = await account_statement.statement_page(
            account_id,
            limit=limit,
            after=StatementPosition(*position) if position else None,
            kinds=kinds,
            from_at=from_at,
            to_at=to_at,
        )
        pinned_seq = page.pinned_seq
        return page.groups

    return await paginate(
        "statement",
        account_id,
        (LONG, LONG),
        first=first,
        after=after,
        filters={"kinds": kinds, "from": from_at, "to": to_at},
        read=read,
        position_of=lambda group: (pinned_seq, group.last.seq),
        node_of=_to_line,
    )


def _to_line(group: StatementGroup) -> StatementLine:
    return StatementLine(
        kinds=list(group.kinds),
        credits=Credits(group.credits),
        entry_count=group.entries,
        first_at=group.first.at,
        last_at=group.last.at,
        balance_after=Credits(group.last.balance_after),
        group=group,
    )
