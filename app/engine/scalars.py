"""Scalars: ids, numbers, times in UTC, and JSON. A number that cannot be represented exactly is refused, never rounded.

The parsers raise GraphQLError, and graphql-core adds the name of the variable or argument.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NewType

import orjson
from graphql import (
    BooleanValueNode,
    EnumValueNode,
    FloatValueNode,
    GraphQLError,
    GraphQLFloat,
    GraphQLID,
    GraphQLInt,
    IntValueNode,
    ListValueNode,
    NullValueNode,
    ObjectValueNode,
    StringValueNode,
    ValueNode,
    VariableNode,
)
from strawberry.scalars import JSON
from strawberry.types.scalar import ScalarDefinition, scalar

from app.engine.coercion_messages import quote_literal
from app.errors import OutOfRange
from app.exact_json import INTEGERS_64_BIT, InexactNumber, parse_fraction, parse_integer
from app.instants import InvalidInstant, parse_instant
from app.wording import quote_value

MAX_INTEGER: Final = 2**53 - 1
"""Larger integers lose digits in JavaScript."""
MAX_JSON_DEPTH: Final = 8
MAX_JSON_BYTES: Final = 8 * 1024

Long = NewType("Long", int)


def integer_scalar(name: str, description: str) -> ScalarDefinition:
    """Return a scalar for integers between -(2^53 - 1) and 2^53 - 1."""
    return scalar(
        name=name,
        description=description,
        serialize=_serialize_integer,
        parse_value=_parse_integer,
        parse_literal=_parse_integer_literal,
    )


def _parse_integer(value: object) -> int:
    if type(value) is int:
        if abs(value) <= MAX_INTEGER:
            return value
        raise _out_of_bounds(value)
    if isinstance(value, InexactNumber) and value.is_integer:
        raise _out_of_bounds(value)
    raise GraphQLError(
        f"It must be a whole number, sent as a JSON number without fraction and exponent; it is {_quote(value)}."
    )


def _parse_integer_literal(node: ValueNode, _variables: dict[str, Any] | None = None) -> int:
    if not isinstance(node, IntValueNode):
        raise GraphQLError(f"It must be a whole number; it is {quote_literal(node)}.", node)
    return _parse_integer(parse_integer(node.value))


def _out_of_bounds(value: object) -> GraphQLError:
    return GraphQLError(f"It must lie within ±{MAX_INTEGER:,} (2^53 - 1); it is {_quote(value)}.")


def _parse_id(value: object) -> str:
    if isinstance(value, str):
        return value
    if type(value) is int and abs(value) <= MAX_INTEGER:
        return str(value)
    raise GraphQLError(
        f"An id must be a string, or a whole number within ±{MAX_INTEGER:,} (2^53 - 1) without fraction and exponent; "
        f"it is {_quote(value)}."
    )


def _parse_id_literal(node: ValueNode) -> str:
    match node:
        case StringValueNode():
            return node.value
        case IntValueNode():
            return _parse_id(parse_integer(node.value))
    return _parse_id(node)


def _parse_int_literal(node: ValueNode) -> int:
    if not isinstance(node, IntValueNode):
        raise GraphQLError(f"Int cannot represent non-integer value: {quote_literal(node)}", node)
    number: int = GraphQLInt.coerce_input_value(parse_integer(node.value))
    return number


def _parse_float_literal(node: ValueNode) -> float:
    match node:
        case IntValueNode():
            number: float = GraphQLFloat.coerce_input_value(parse_integer(node.value))
        case FloatValueNode():
            number = GraphQLFloat.coerce_input_value(parse_fraction(node.value))
        case _:
            raise GraphQLError(f"Float cannot represent non numeric value: {quote_literal(node)}", node)
    return number


def use_exact_scalars() -> None:
    """Make graphql-core's ID, Int and Float refuse numbers that it would round or cannot parse.

    Its ID accepts any whole float, so two different large ids can become the same id. Its Int fails for a literal of
    more digits than Python converts (4,300). A schema cannot have other types with these names, so the functions of
    graphql-core's types are replaced.
    """
    GraphQLID.coerce_input_value = _parse_id
    GraphQLID.coerce_input_literal = _parse_id_literal
    GraphQLInt.coerce_input_literal = _parse_int_literal
    GraphQLFloat.coerce_input_literal = _parse_float_literal


def _serialize_integer(value: object) -> int:
    if type(value) is int:
        if -MAX_INTEGER <= value <= MAX_INTEGER:
            return value
        raise OutOfRange(f"A sum exceeds {MAX_INTEGER:,} (2^53 - 1): request a part of it, or leave this field out.")
    raise ValueError(f"not a whole number: {_quote(value)}")


def _parse_instant(value: object) -> datetime:
    if not isinstance(value, str):
        raise GraphQLError(f"It must be an ISO 8601 instant as a string; it is {_quote(value)}.")
    try:
        return parse_instant(value)
    except InvalidInstant as error:
        raise GraphQLError(f"It {error}; it is {_quote(value)}.") from None


def _serialize_instant(value: object) -> str:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    raise ValueError(f"not an aware datetime: {_quote(value)}")


def to_json(value: Mapping[str, Any] | None) -> JSON | None:
    """Return the mapping, which must be JSON already, typed as a value of the JSON scalar."""
    return None if value is None else JSON(value)


def parse_json(value: object) -> object:
    """Return `value` if it is JSON within the limits of depth and encoded size. Raises: GraphQLError."""
    _check_json(value, 0)
    try:
        size = len(orjson.dumps(value))
    except TypeError:  # a lone surrogate: Python allows it, UTF-8 does not
        raise GraphQLError("Its strings must be valid Unicode.") from None
    if size > MAX_JSON_BYTES:
        raise GraphQLError(f"It must take at most {MAX_JSON_BYTES:,} bytes, encoded; it takes {size:,}.")
    return value


def _parse_json_literal(node: ValueNode, variables: dict[str, Any] | None = None) -> object:
    return parse_json(_literal_to_json(node, variables or {}, 0))


def _check_json(value: object, depth: int) -> None:
    """Refuse values that JSON or jsonb cannot represent. The recursion ends at MAX_JSON_DEPTH."""
    if isinstance(value, dict | list):
        if depth == MAX_JSON_DEPTH:
            raise _too_deep()
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise GraphQLError("Its keys must be strings.")
                _check_json_leaf(key)
        for child in value.values() if isinstance(value, dict) else value:
            _check_json(child, depth + 1)
    else:
        _check_json_leaf(value)


def _check_json_leaf(value: object) -> None:
    match value:
        case None | bool():
            pass
        case str():
            if "\x00" in value:  # jsonb cannot store it
                raise GraphQLError("Its strings must not contain the character U+0000.")
        case int():
            if value not in INTEGERS_64_BIT:
                raise GraphQLError("Its whole numbers must fit 64 bits.")
        case InexactNumber():
            if value.is_integer:
                raise GraphQLError("Its whole numbers must fit 64 bits.")
            raise GraphQLError(f"Its numbers must fit a double without rounding; {value} does not.")
        case float():
            if not math.isfinite(value):
                raise GraphQLError("Its numbers must be finite.")
        case _:
            raise GraphQLError("It must be a JSON value.")


def _literal_to_json(node: ValueNode, variables: dict[str, Any], depth: int) -> object:
    if isinstance(node, ListValueNode | ObjectValueNode):
        if depth == MAX_JSON_DEPTH:
            raise _too_deep()
        if isinstance(node, ListValueNode):
            return [_literal_to_json(item, variables, depth + 1) for item in node.values]
        return {field.name.value: _literal_to_json(field.value, variables, depth + 1) for field in node.fields}
    return _leaf_literal_to_json(node, variables)


def _leaf_literal_to_json(node: ValueNode, variables: dict[str, Any]) -> object:
    found: object = None
    match node:
        case BooleanValueNode() | StringValueNode() | EnumValueNode():
            found = node.value
        case IntValueNode():
            found = parse_integer(node.value)
        case FloatValueNode():
            found = parse_fraction(node.value)
        case VariableNode():
            found = variables.get(node.name.value)
        case NullValueNode():
            pass
        case _:
            raise GraphQLError("It must be a JSON value.")
    return found


def _too_deep() -> GraphQLError:
    return GraphQLError(f"It must be nested at most {MAX_JSON_DEPTH} deep.")


def _quote(value: object) -> str:
    return quote_literal(value) if isinstance(value, ValueNode) else quote_value(value)


def unchanged(value: object) -> object:
    return value


SCALARS: Final[Mapping[object, ScalarDefinition]] = {
    Long: integer_scalar(
        "Long", "A 64-bit integer within ±(2^53 - 1), sent as a JSON number: versions, sequence numbers, bytes."
    ),
    datetime: scalar(
        name="DateTime",
        description="An ISO 8601 instant, in UTC: 2026-01-31T12:00:00Z. Input must have an offset from UTC and lie "
        "between 2000-01-01 and 9999-01-01.",
        serialize=_serialize_instant,
        parse_value=_parse_instant,
    ),
    JSON: scalar(
        name="JSON",
        description=f"A JSON value, nested at most {MAX_JSON_DEPTH} deep, of at most {MAX_JSON_BYTES // 1024} KiB.",
        serialize=unchanged,
        parse_value=parse_json,
        parse_literal=_parse_json_literal,
    ),
}
"""The scalars for Strawberry's `scalar_map`."""
