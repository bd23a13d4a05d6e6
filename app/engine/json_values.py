"""JSON from callers, bounded before anything walks it: the settings of a block, the rule of a price."""

import math
from typing import Any, Final

import orjson
from graphql import (
    BooleanValueNode,
    EnumValueNode,
    FloatValueNode,
    GraphQLError,
    IntValueNode,
    ListValueNode,
    NullValueNode,
    ObjectValueNode,
    StringValueNode,
    ValueNode,
    VariableNode,
    print_ast,
)

MAX_DEPTH: Final = 8
MAX_BYTES: Final = 8 * 1024
MAX_DIGITS: Final = 20
"""As many as a 64-bit integer and its sign can have: a longer literal is refused before Python multiplies it out."""
_INTEGERS: Final = range(-(2**63), 2**64)


def parse(value: object) -> object:
    """`value`, if it is JSON nested at most 8 deep that takes at most 8 KiB, encoded. Raises: GraphQLError."""
    _check(value, 0)
    try:
        size = len(orjson.dumps(value))
    except TypeError:  # a lone surrogate: Python holds it, UTF-8 does not
        raise GraphQLError("Its strings must be valid Unicode.") from None
    if size > MAX_BYTES:
        raise GraphQLError(f"It must take at most {MAX_BYTES:,} bytes, encoded; it takes {size:,}.")
    return value


def parse_literal(node: ValueNode, variables: dict[str, Any] | None = None) -> object:
    """The same for a value written into the document. Raises: GraphQLError."""
    return parse(_from_literal(node, variables or {}, 0))


def shorten(value: object) -> str:
    """A value that was refused, short enough for a message."""
    text = print_ast(value) if isinstance(value, ValueNode) else repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _check(value: object, depth: int) -> None:
    """Refuse what JSON, jsonb or a careful matcher could not hold. The recursion ends at MAX_DEPTH."""
    if isinstance(value, dict | list):
        if depth == MAX_DEPTH:
            raise _too_deep()
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise GraphQLError("Its keys must be strings.")
                _check_leaf(key)
        for child in value.values() if isinstance(value, dict) else value:
            _check(child, depth + 1)
    else:
        _check_leaf(value)


def _check_leaf(value: object) -> None:
    match value:
        case None | bool():
            pass
        case str():
            if "\x00" in value:  # jsonb cannot hold it
                raise GraphQLError("Its strings must not contain the character U+0000.")
        case int():
            if value not in _INTEGERS:
                raise GraphQLError("Its whole numbers must fit 64 bits.")
        case float():
            if not math.isfinite(value):
                raise GraphQLError("Its numbers must be finite.")
        case _:
            raise GraphQLError("It must be a JSON value.")


def _from_literal(node: ValueNode, variables: dict[str, Any], depth: int) -> object:
    if isinstance(node, ListValueNode | ObjectValueNode):
        if depth == MAX_DEPTH:
            raise _too_deep()
        if isinstance(node, ListValueNode):
            return [_from_literal(item, variables, depth + 1) for item in node.values]
        return {field.name.value: _from_literal(field.value, variables, depth + 1) for field in node.fields}
    return _leaf(node, variables)


def _leaf(node: ValueNode, variables: dict[str, Any]) -> object:
    found: object = None
    match node:
        case BooleanValueNode() | StringValueNode() | EnumValueNode():
            found = node.value
        case IntValueNode():
            if len(node.value) > MAX_DIGITS:
                raise GraphQLError("Its whole numbers must fit 64 bits.")
            found = int(node.value)
        case FloatValueNode():
            found = float(node.value)
        case VariableNode():
            found = variables.get(node.name.value)
        case NullValueNode():
            pass
        case _:
            raise GraphQLError("It must be a JSON value.")
    return found


def _too_deep() -> GraphQLError:
    return GraphQLError(f"It must be nested at most {MAX_DEPTH} deep.")
