"""Global object ids, and `node(id)`: each module says how its kind is fetched.

An id names its kind, then whatever finds the row: ("Entry", account id, seq). Garbage, an unknown kind and another's
thing are all null.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Final, TypeVar

import strawberry

from app.api.context import Context, ResolverInfo
from app.engine import declare
from app.engine.declare import Permission
from app.engine.opaque_text import Part, decode_parts, encode_parts


@declare.interface(
    description="Whatever has an id of its own and can be fetched again by it.", needs=Permission.INHERITED
)
class Node:
    id: strawberry.ID = declare.value(description="Opaque and global: the same object has the same id for everybody.")


Fetch = Callable[..., Awaitable[Node | None]]
FetchT = TypeVar("FetchT", bound=Fetch)
_FETCHES: Final[dict[str, tuple[tuple[type, ...], Fetch]]] = {}


def node_fetcher(kind: str, *shape: type) -> Callable[[FetchT], FetchT]:
    """`async def fetch(context, *parts)` finds a node of this kind, or None: absent, or not for this viewer."""

    def register(fetch: FetchT) -> FetchT:
        if kind in _FETCHES:
            raise TypeError(f"{kind} is fetched twice")
        _FETCHES[kind] = (shape, fetch)
        return fetch

    return register


def encode_id(kind: str, *parts: Part) -> strawberry.ID:
    return strawberry.ID(encode_parts(kind, *parts))


def decode_id(text: str, kind: str, *shape: type) -> tuple[Part, ...] | None:
    """The parts of an id of this kind, or None where it is none."""
    found = decode_parts(text)
    if found and found[0] == kind and [type(part) for part in found[1:]] == list(shape):
        return found[1:]
    return None


async def fetch_node(context: Context, text: str) -> Node | None:
    found = decode_parts(text)
    if not found or not isinstance(found[0], str) or found[0] not in _FETCHES:
        return None
    shape, fetch = _FETCHES[found[0]]
    parts = decode_id(text, found[0], *shape)
    return None if parts is None else await fetch(context, *parts)


@strawberry.type(description="Fetching by id.")
class NodeQueries:
    @declare.query(
        needs=Permission.AUTHENTICATED, description="Any object by its id; null where there is none for you."
    )
    async def node(
        self,
        info: ResolverInfo,
        id: Annotated[strawberry.ID, strawberry.argument(description="An `id` read before.")],
    ) -> Node | None:
        return await fetch_node(info.context, id)
