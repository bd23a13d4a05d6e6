"""Pagination by cursor: Connection, Edge and PageInfo as Relay defines them, forward only.

A cursor contains the name of its list, a hash of its filters, the account id and a position. A cursor of another list,
filter or account is refused, and so is one whose position does not fit the types of the list (`global_ids.PartType`).
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Generic, TypeVar

import orjson
import strawberry

from app.engine import declare
from app.engine.global_ids import Part, PartType, decode_parts, decode_values, encode_parts
from app.engine.permissions import Permission
from app.errors import BadRequest

MAX_PAGE: Final = 100

Row = TypeVar("Row")
Item = TypeVar("Item")
NodeT = TypeVar("NodeT")

First = Annotated[int, strawberry.argument(description=f"Number of items, 1 to {MAX_PAGE}.")]
After = Annotated[
    str | None,
    strawberry.argument(
        description="The endCursor of the previous page, requested with the same filters; null for the first page."
    ),
]

_INVALID_CURSOR: Final = (
    "after is not a cursor of this list: use pageInfo.endCursor of the previous page, with the same filters."
)


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


def encode_cursor(list_name: str, account_id: Part, *position: Part | datetime) -> str:
    parts = (part.astimezone(UTC).isoformat() if isinstance(part, datetime) else part for part in position)
    return encode_parts(list_name, account_id, *parts)


def decode_cursor(
    text: str | None, list_name: str, account_id: Part, position_types: Sequence[PartType]
) -> tuple[Any, ...] | None:
    """Return the position in a cursor: one value of each of `position_types`.

    Returns None for the first page.
    Raises: BadRequest: the text is not a cursor of this list and account.
    """
    if text is None:
        return None
    match decode_parts(text):
        case (found_list, found_account, *parts) if found_list == list_name and found_account == account_id:
            if (position := decode_values(parts, position_types)) is not None:
                return position
    raise BadRequest(_INVALID_CURSOR)


def filtered_list_name(list_name: str, filters: Mapping[str, object]) -> str:
    """Return the name of a list with a hash of its filters, so that a cursor fits only the filters of its page.

    Filters with the same meaning have the same hash: lists of enum values in any order, times with any offset.
    """
    canonical = orjson.dumps({name: _canonical(value) for name, value in filters.items()}, option=orjson.OPT_SORT_KEYS)
    return f"{list_name}#{hashlib.sha256(canonical).hexdigest()[:16]}"


def _canonical(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return sorted(set(value)) if isinstance(value, list) else value


async def paginate(
    list_name: str,
    account_id: Part,
    position_types: Sequence[PartType],
    *,
    first: int,
    after: str | None,
    filters: Mapping[str, object] | None = None,
    read: Callable[[int, Any], Awaitable[Sequence[Row]]],
    position_of: Callable[[Row], tuple[Part | datetime, ...]],
    node_of: Callable[[Row], Item],
) -> Connection[Item]:
    """Return one page of a list.

    A position in the list is a tuple of values of `position_types`. `read(limit, position)` returns at most `limit`
    rows after `position`, or from the beginning if `position` is None. It is called for one more row than the page
    has, to find out whether there is a next page. `filters` contains the arguments that select the items of the list.

    Raises: BadRequest: `first` is out of bounds, or `after` is not a cursor of this list with these filters.
    """
    if filters is not None:
        list_name = filtered_list_name(list_name, filters)
    position = decode_cursor(after, list_name, account_id, position_types)
    if not 1 <= first <= MAX_PAGE:
        raise BadRequest(f"first must lie between 1 and {MAX_PAGE}; it is {first}.")
    rows = await read(first + 1, position)
    edges = [
        Edge(cursor=encode_cursor(list_name, account_id, *position_of(row)), node=node_of(row)) for row in rows[:first]
    ]
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
    """Return the exclusive upper bound of a page in a descending list. For the first page it is `maximum`."""
    return maximum if position is None else position[0]
