"""The scalars: whole credits and longs as JSON numbers, instants in UTC, and JSON for settings.

A parser raises GraphQLError, which graphql-core turns into an error that names the variable or the argument.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NewType

from graphql import GraphQLError, IntValueNode, ValueNode
from strawberry.scalars import JSON
from strawberry.types.scalar import ScalarDefinition, scalar

from app.credits import MAX_CREDITS
from app.engine.json_values import MAX_BYTES, MAX_DEPTH, MAX_DIGITS, parse, parse_literal, shorten

Credits = NewType("Credits", int)
Long = NewType("Long", int)
RateCardDocument = NewType("RateCardDocument", dict[str, Any])


def _parse_long(value: object) -> int:
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value) or abs(value) > MAX_CREDITS:
            raise GraphQLError(f"It must lie within ±{MAX_CREDITS:,} (2^53 - 1); it is {shorten(value)}.")
        if value == int(value):
            return int(value)
    raise GraphQLError(f"It must be a whole number, sent as a JSON number; it is {shorten(value)}.")


def _parse_long_literal(node: ValueNode, _variables: dict[str, Any] | None = None) -> int:
    if not isinstance(node, IntValueNode):
        raise GraphQLError(f"It must be a whole number; it is {shorten(node)}.", node)
    if len(node.value) > MAX_DIGITS:
        raise GraphQLError(f"It must lie within ±{MAX_CREDITS:,} (2^53 - 1); it is {shorten(node)}.", node)
    return _parse_long(int(node.value))


def _write_long(value: object) -> int:
    if type(value) is int and -MAX_CREDITS <= value <= MAX_CREDITS:
        return value
    raise ValueError(f"not a whole number within ±(2^53 - 1): {shorten(value)}")


def _parse_instant(value: object) -> datetime:
    if not isinstance(value, str) or len(value) > 40:
        raise GraphQLError(f"It must be an ISO 8601 instant as a string; it is {shorten(value)}.")
    try:
        instant = datetime.fromisoformat(value)
        if instant.tzinfo is not None:
            return instant.astimezone(UTC)
    except (ValueError, OverflowError):
        raise GraphQLError(
            f"It must be an ISO 8601 instant such as 2026-01-31T12:00:00Z; it is {shorten(value)}."
        ) from None
    raise GraphQLError(f"It must name its offset from UTC, such as 2026-01-31T12:00:00Z; it is {shorten(value)}.")


def _write_instant(value: object) -> str:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    raise ValueError(f"not an aware datetime: {shorten(value)}")


def _refuse_literal(node: ValueNode, _variables: dict[str, Any] | None = None) -> object:
    raise GraphQLError("Send the rate card in a variable: it is too large for the document.", node)


def _same(value: object) -> object:
    return value


def to_json(value: Mapping[str, Any] | None) -> JSON | None:
    """A value of ours that is JSON already, in the scalar's type."""
    return None if value is None else JSON(value)


SCALARS: Final[dict[object, ScalarDefinition]] = {
    Credits: scalar(
        name="Credits",
        description="Whole credits: an integer within ±(2^53 - 1), sent as a JSON number.",
        serialize=_write_long,
        parse_value=_parse_long,
        parse_literal=_parse_long_literal,
    ),
    Long: scalar(
        name="Long",
        description=("A 64-bit integer within ±(2^53 - 1), sent as a JSON number: versions, sequence numbers, bytes."),
        serialize=_write_long,
        parse_value=_parse_long,
        parse_literal=_parse_long_literal,
    ),
    datetime: scalar(
        name="DateTime",
        description=(
            "An instant, ISO 8601, written in UTC: 2026-01-31T12:00:00Z. Input must name its offset from UTC."
        ),
        serialize=_write_instant,
        parse_value=_parse_instant,
    ),
    RateCardDocument: scalar(
        name="RateCardDocument",
        description="A rate card as a JSON object, in the format of the default card (README, Prices).",
        serialize=_same,
        parse_value=_same,
        parse_literal=_refuse_literal,
    ),
    JSON: scalar(
        name="JSON",
        description=(
            f"Any JSON value, nested at most {MAX_DEPTH} deep and at most {MAX_BYTES // 1024} KiB: "
            "the settings of a block, the rule of a price."
        ),
        serialize=_same,
        parse_value=parse,
        parse_literal=parse_literal,
    ),
}
"""For StrawberryConfig.scalar_map."""
