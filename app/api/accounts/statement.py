"""The statement of an account: groups, newest first, pinned to the first page."""

from datetime import datetime

import strawberry

from app.api.context import ResolverInfo
from app.api.scalars import Credits
from app.api.tasks.entries import Entry, to_entry
from app.api.tasks.types import Task, load_task
from app.engine import declare
from app.engine.pagination import Connection, build_connection, check_first, decode_cursor, encode_cursor
from app.engine.permissions import Permission
from app.ledger.rules.account_state import AccountBalance, EntryKind
from app.tasks import account_statement
from app.tasks.account_statement import StatementGroup, StatementPosition


@declare.type(
    description="One line of a statement: all charges and reversals of a task, or one other entry.",
    needs=Permission.INHERITED,
)
class StatementLine:
    kinds: list[EntryKind] = declare.value(description="What is in it.")
    credits: Credits = declare.value(description="The sum of its entries.")
    entry_count: int = declare.value(description="How many entries.")
    first_at: datetime = declare.value(description="When its first entry counts from.")
    last_at: datetime = declare.value(description="When its last entry counts from: the statement's order.")
    balance_after: Credits = declare.value(description="The posted balance after its last entry.")
    group: strawberry.Private[StatementGroup]

    @declare.field(description="The task that it is about; null where it is not about one.")
    async def task(self, info: ResolverInfo) -> Task | None:
        if self.group.task_id is None:
            return None
        return await load_task(info.context, self.group.last.account_id, self.group.task_id)

    @declare.field(description="Its one entry; null where it is a task's.")
    def entry(self) -> Entry | None:
        return to_entry(self.group.last) if self.group.task_id is None else None


async def load_statement_page(
    figures: AccountBalance,
    *,
    first: int,
    after: str | None,
    kinds: list[EntryKind] | None,
    from_at: datetime | None,
    to_at: datetime | None,
) -> Connection[StatementLine]:
    """A page of an account's groups."""
    number = figures.account_id
    place = decode_cursor(after, "statement", number, shape=(int, int))
    found = await account_statement.statement_page(
        number,
        limit=check_first(first) + 1,
        after=StatementPosition(*place) if place else None,
        kinds=kinds,
        from_at=from_at,
        to_at=to_at,
    )
    return build_connection(
        found.groups,
        first=first,
        after=after,
        cursor_of=lambda group: encode_cursor("statement", number, *found.position_of(group)),
        node_of=_statement_of,
    )


def _statement_of(group: StatementGroup) -> StatementLine:
    return StatementLine(
        kinds=list(group.kinds),
        credits=Credits(group.credits),
        entry_count=group.entries,
        first_at=group.first.at,
        last_at=group.last.at,
        balance_after=Credits(group.last.balance_after),
        group=group,
    )
