"""Global object ids and the field `node(id)`.

An id contains the name of a node type and the parts that identify the object, such as ("Entry", account id, seq).
`node` returns null for an invalid id, for an unknown type, and for an object that the caller may not read.

Ids and cursors (`pagination`) are parts encoded as JSON in base64url. They are neither secret nor signed, so the code
that decodes one must check what the caller may read.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, TypeVar

import orjson
import strawberry
from strawberry.types.info import Info

from app.engine import declare
from app.engine.context import RequestContext
from app.engine.permissions import Permission

Part = int | str
MAX_LENGTH: Final = 2048
"""This is enough for two ids of 255 characters of four bytes each."""
_ALPHABET: Final = re.compile(r"[A-Za-z0-9_-]+")
_INTEGERS_64_BIT: Final = range(-(2**63), 2**63)


def encode_parts(*parts: Part) -> str:
    return urlsafe_b64encode(orjson.dumps(parts)).rstrip(b"=").decode()


def decode_parts(text: str) -> tuple[Part, ...] | None:
    """Return the parts: 64-bit integers and printable strings.

    Returns None if `encode_parts` did not write this text.
    """
    if len(text) > MAX_LENGTH or not _ALPHABET.fullmatch(text):
        return None
    try:
        parts = orjson.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except ValueError:
        return None
    if isinstance(parts, list) and parts and all(map(_is_part, parts)) and encode_parts(*parts) == text:
        return tuple(parts)
    return None


def _is_part(part: object) -> bool:
    if isinstance(part, str):
        return part.isprintable()
    return type(part) is int and part in _INTEGERS_64_BIT


@declare.interface(description="An object with a global id, which `node` fetches.", needs=Permission.INHERITED)
class Node:
    id: strawberry.ID = declare.value(description="Opaque global id of the object, the same for every caller.")


FetchNode = Callable[..., Awaitable[Node | None]]
FetchT = TypeVar("FetchT", bound=FetchNode)
_FETCHERS: Final[dict[str, tuple[tuple[type, ...], FetchNode]]] = {}


def node_fetcher(node_type: str, *part_types: type) -> Callable[[FetchT], FetchT]:
    """Register `async def fetch(context, *parts)`.

    It returns the node, or None if the caller may not read it or it does not exist.
    """

    def register(fetch: FetchT) -> FetchT:
        if node_type in _FETCHERS:
            raise TypeError(f"{node_type} has two fetchers")
        _FETCHERS[node_type] = (part_types, fetch)
        return fetch

    return register


def encode_id(node_type: str, *parts: Part) -> strawberry.ID:
    return strawberry.ID(encode_parts(node_type, *parts))


def decode_id(text: str, node_type: str, *part_types: type) -> tuple[Part, ...] | None:
    """Return the parts of an id of this type, or None if the text is not one."""
    found = decode_parts(text)
    if found and found[0] == node_type and [type(part) for part in found[1:]] == list(part_types):
        return found[1:]
    return None


async def fetch_node(context: RequestContext[Any], text: str) -> Node | None:
    found = decode_parts(text)
    if not found or not isinstance(found[0], str) or found[0] not in _FETCHERS:
        return None
    part_types, fetch = _FETCHERS[found[0]]
    parts = decode_id(text, found[0], *part_types)
    return None if parts is None else await fetch(context, *parts)


@strawberry.type(description="Fetching objects by global id.")
class NodeQueries:
    @declare.query(
        needs=Permission.AUTHENTICATED,
        description="The object with this id; null if there is none, or if the caller may not read it.",
    )
    async def node(
        self,
        info: Info[RequestContext[Any], None],
        id: Annotated[strawberry.ID, strawberry.argument(description="The `id` of an object.")],
    ) -> Node | None:
        return await fetch_node(info.context, id)
