"""Pages: opaque cursors, Connection, Edge and PageInfo (the Relay shape, forward only).

A cursor names its list, its account and a position, so that one taken elsewhere is refused and not misread.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, Final, Generic, TypeVar

import strawberry

from app.engine import declare
from app.engine.declare import Permission
from app.engine.opaque_text import Part, decode_parts, encode_parts
from app.errors import BadRequest

MAX_PAGE: Final = 100

Row = TypeVar("Row")
Item = TypeVar("Item")
NodeT = TypeVar("NodeT")

First = Annotated[int, strawberry.argument(description=f"How many, from 1 to {MAX_PAGE}.")]
After = Annotated[
    str | None, strawberry.argument(description="The endCursor of the page before; null for the first page.")
]


@declare.type(description="Where a page stands in its list.", needs=Permission.INHERITED)
class PageInfo:
    has_next_page: bool = declare.value(description="Whether there is more after this page.")
    has_previous_page: bool = declare.value(description="Whether this page was asked for with a cursor.")
    start_cursor: str | None = declare.value(description="The cursor of the first edge; null on an empty page.")
    end_cursor: str | None = declare.value(description="Send it as `after` to read on; null on an empty page.")


@declare.type(description="One item of a list and its place there.", needs=Permission.INHERITED)
class Edge(Generic[NodeT]):
    cursor: str = declare.value(description="The item's place, to read on from it.")
    node: NodeT = declare.value(description="The item.")


@declare.type(description="One page of a list.", needs=Permission.INHERITED)
class Connection(Generic[NodeT]):
    edges: list[Edge[NodeT]] = declare.value(description="The items of this page, in order.")
    page_info: PageInfo = declare.value(description="How to read on.")


def check_first(first: int) -> int:
    """Raises: BadRequest: not from 1 to 100."""
    if 1 <= first <= MAX_PAGE:
        return first
    raise BadRequest(f"first must lie between 1 and {MAX_PAGE}; it is {first}.")


def encode_cursor(kind: str, account_id: Part, *position: Part) -> str:
    return encode_parts(kind, account_id, *position)


def decode_cursor(text: str | None, kind: str, account_id: Part, *, shape: Sequence[type]) -> tuple[Any, ...] | None:
    """Where to read on: a value of each type in `shape`; None on the first page.

    Raises: BadRequest: it is not a cursor of this list and this account.
    """
    if text is None:
        return None
    match decode_parts(text):
        case (found_kind, found_account, *rest) if (
            found_kind == kind and found_account == account_id and [type(part) for part in rest] == list(shape)
        ):
            return tuple(rest)
    raise BadRequest("after is not a cursor of this list: take it from pageInfo.endCursor of the page before.")


def parse_cursor_time(text: str) -> datetime:
    """An instant out of a cursor. Raises: BadRequest: somebody wrote the cursor by hand."""
    with suppress(ValueError):
        found = datetime.fromisoformat(text)
        if found.tzinfo is not None:
            return found
    raise BadRequest("after is not a cursor of this list: take it from pageInfo.endCursor of the page before.")


def build_connection(
    rows: Sequence[Row],
    *,
    first: int,
    after: str | None,
    cursor_of: Callable[[Row], str],
    node_of: Callable[[Row], Item],
) -> Connection[Item]:
    """The page made of `rows`, read one more than `first`: the one too many says that there is a next page."""
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
