"""Global object ids and the field `node(id)`.

An id contains the name of a node type and the parts that identify the object, such as ("Entry", account id, seq).
`node` returns null for an invalid id, for an unknown type, and for an object that the caller may not read.

Ids and cursors (`pagination`) are parts encoded as JSON in base64url. They are neither secret nor signed, so anybody
can create one. Each kind of id and each list therefore declares the `PartType` of its parts. Decoding accepts only
values that the database can compare with its columns. The code that decodes an id must check what the caller may read.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, TypeVar

import orjson
import strawberry
from strawberry.types.info import Info

from app.engine import declare
from app.engine.context import RequestContext
from app.engine.permissions import Permission
from app.instants import InvalidInstant, parse_instant

Part = int | str
MAX_LENGTH: Final = 4096
"""No cursor is longer. The longest is of the tasks of an agent: two ids of 255 characters, each up to four bytes."""
_ALPHABET: Final = re.compile(r"[A-Za-z0-9_-]+")
_INTEGERS_64_BIT: Final = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class PartType:
    """The type and the bounds of one part. `decode` returns the value, or None if the part does not fit."""

    name: str
    decode: Callable[[Part], Part | datetime | None]


def _integer(name: str, maximum: int) -> PartType:
    return PartType(name, lambda part: part if isinstance(part, int) and 0 <= part <= maximum else None)


def _text(name: str, pattern: str) -> PartType:
    expression = re.compile(pattern)
    return PartType(name, lambda part: part if isinstance(part, str) and expression.fullmatch(part) else None)


def _decode_instant(part: Part) -> datetime | None:
    if isinstance(part, str):
        with suppress(InvalidInstant):
            return parse_instant(part)
    return None


INT32: Final = _integer("INT32", 2**31 - 1)
"""A number in an `integer` column: of a grant, hold or notification, or the position of a block run."""
LONG: Final = _integer("LONG", 2**53 - 1)
"""A number in a `bigint` column: an account id, a seq, credits. All are at most 2^53 - 1."""
KEY: Final = _text("KEY", r"\S{1,255}")
"""An id that the platform chose. `decode_parts` has checked that it is printable."""
UUID_HEX: Final = _text("UUID_HEX", "[0-9a-f]{32}")
"""An id that this server chose: a UUID without hyphens."""
INSTANT: Final = PartType("INSTANT", _decode_instant)
"""A time within the bounds of `app.instants`."""


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


def decode_values(parts: Iterable[Part], part_types: Sequence[PartType]) -> tuple[Any, ...] | None:
    """Return one value of each of `part_types`, or None if a part does not fit its type or their numbers differ."""
    found = list(parts)
    if len(found) != len(part_types):
        return None
    values = [part_type.decode(part) for part, part_type in zip(found, part_types, strict=True)]
    return None if None in values else tuple(values)


@declare.interface(description="An object with a global id, which `node` fetches.", needs=Permission.INHERITED)
class Node:
    id: strawberry.ID = declare.value(description="Opaque global id of the object, the same for every caller.")


FetchNode = Callable[..., Awaitable[Node | None]]
FetchT = TypeVar("FetchT", bound=FetchNode)
_FETCHERS: Final[dict[str, tuple[tuple[PartType, ...], FetchNode]]] = {}


def node_fetcher(node_type: str, *part_types: PartType) -> Callable[[FetchT], FetchT]:
    """Register `async def fetch(context, *parts)`. It is called only with parts that fit `part_types`.

    It returns the node, or None if the node does not exist or the caller may not read it.
    """

    def register(fetch: FetchT) -> FetchT:
        if node_type in _FETCHERS:
            raise TypeError(f"{node_type} has two fetchers")
        _FETCHERS[node_type] = (part_types, fetch)
        return fetch

    return register


def encode_id(node_type: str, *parts: Part) -> strawberry.ID:
    return strawberry.ID(encode_parts(node_type, *parts))


def decode_id(text: str, node_type: str) -> tuple[Any, ...] | None:
    """Return the decoded parts of an id of this node type, or None if the text is not such an id."""
    found = decode_parts(text)
    if not found or found[0] != node_type:
        return None
    part_types, _ = _FETCHERS[node_type]
    return decode_values(found[1:], part_types)


async def fetch_node(context: RequestContext[Any], text: str) -> Node | None:
    found = decode_parts(text)
    if not found or not isinstance(found[0], str) or found[0] not in _FETCHERS:
        return None
    parts = decode_id(text, found[0])
    _, fetch = _FETCHERS[found[0]]
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
