"""Pagination by cursor: Connection, Edge and PageInfo as Relay defines them, forward only.

A cursor contains the name of its list, the account id and a position. A cursor of another list or account is refused.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, Final, Generic, TypeVar

import strawberry

from app.engine import declare
from app.engine.global_ids import Part, decode_parts, encode_parts
from app.engine.permissions import Permission
from app.errors import BadRequest

MAX_PAGE: Final = 100

Row = TypeVar("Row")
Item = TypeVar("Item")
NodeT = TypeVar("NodeT")

First = Annotated[int, strawberry.argument(description=f"Number of items, 1 to {MAX_PAGE}.")]
After = Annotated[
    str | None, strawberry.argument(description="The endCursor of the previous page; null for the first page.")
]

_INVALID_CURSOR: Final = "after is not a cursor of this list: use pageInfo.endCursor of the previous page."


@declare.type(description="Position of a page in its list.", needs=Permission.INHERITED)
class PageInfo:
    has_next_page: bool = declare.value(description="Whether there are more items after this page.")
    has_previous_page: bool = declare.value(description="Whether this page was requested with a cursor.")
    start_cursor: str | None = declare.value(description="Cursor of the first edge; null if the page is empty.")
    end_cursor: str | None = declare.value(
        description="Send it as `after` to request the next page; null if the page is empty."
    )


@declare.type(description="An item of a list, with its cursor.", needs=Permission.INHERITED)
class Edge(Generic[NodeT]):
    cursor: str = declare.value(description="Position of the item in the list.")
    node: NodeT = declare.value(description="The item.")


@declare.type(description="A page of a list.", needs=Permission.INHERITED)
class Connection(Generic[NodeT]):
    edges: list[Edge[NodeT]] = declare.value(description="The items of this page, in order.")
    page_info: PageInfo = declare.value(description="How to request the next page.")


def check_first(first: int) -> int:
    """`first` itself. Raises: BadRequest: it is not between 1 and 100."""
    if 1 <= first <= MAX_PAGE:
        return first
    raise BadRequest(f"first must lie between 1 and {MAX_PAGE}; it is {first}.")


def encode_cursor(list_name: str, account_id: Part, *position: Part) -> str:
    return encode_parts(list_name, account_id, *position)


def decode_cursor(
    text: str | None, list_name: str, account_id: Part, *, shape: Sequence[type]
) -> tuple[Any, ...] | None:
    """The position in a cursor: one value of each type in `shape`. None: there is no cursor (the first page).

    Raises: BadRequest: it is not a cursor of this list and account.
    """
    if text is None:
        return None
    match decode_parts(text):
        case (found_list, found_account, *position) if (
            found_list == list_name and found_account == account_id and [type(part) for part in position] == list(shape)
        ):
            return tuple(position)
    raise BadRequest(_INVALID_CURSOR)


def parse_cursor_time(text: str) -> datetime:
    """An instant in a cursor. Raises: BadRequest: the client made up the cursor."""
    with suppress(ValueError):
        found = datetime.fromisoformat(text)
        if found.tzinfo is not None:
            return found
    raise BadRequest(_INVALID_CURSOR)


async def paginate(
    list_name: str,
    account_id: Part,
    position_types: Sequence[type],
    *,
    first: int,
    after: str | None,
    read: Callable[[int, Any], Awaitable[Sequence[Row]]],
    position_of: Callable[[Row], tuple[Part | datetime, ...]],
    node_of: Callable[[Row], Item],
) -> Connection[Item]:
    """One page of a list.

    A position in the list is a tuple of `position_types` (int, str, datetime). `read(limit, position)`
    returns at most `limit` rows after `position`, or from the beginning if that is None.

    Raises: BadRequest: `first` is out of bounds, or `after` is not a cursor of this list.
    """
    shape = [str if part_type is datetime else part_type for part_type in position_types]
    position = decode_cursor(after, list_name, account_id, shape=shape)
    if position is not None:
        position = tuple(
            parse_cursor_time(part) if part_type is datetime else part
            for part, part_type in zip(position, position_types, strict=True)
        )
    rows = await read(check_first(first) + 1, position)

    def cursor_of(row: Row) -> str:
        parts = (part.isoformat() if isinstance(part, datetime) else part for part in position_of(row))
        return encode_cursor(list_name, account_id, *parts)

    return build_connection(rows, first=first, after=after, cursor_of=cursor_of, node_of=node_of)


def build_connection(
    rows: Sequence[Row],
    *,
    first: int,
    after: str | None,
    cursor_of: Callable[[Row], str],
    node_of: Callable[[Row], Item],
) -> Connection[Item]:
    """A page of `rows`. Read one row more than `first`: it only shows that there is a next page."""
    edges = [Edge(cursor=cursor_of(row), node=node_of(row)) for row in rows[:first]]
    return Connection(
        edges=edges,
        page_info=PageInfo(
            has_next_page=len(rows) > first,
            has_previous_page=after is not None,
            start_cursor=edges[0].cursor if edges else None,
            end_cursor=edges[-1].cursor if edges else None,
        ),
    )


def before_number(position: tuple[int] | None, maximum: int) -> int:
    """The upper bound of a list that is read downwards by number: that of `position`, at most `maximum`."""
    return maximum if position is None else max(0, min(position[0], maximum))
