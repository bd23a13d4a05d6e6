"""Requests in which one argument of a field has a boundary value and, mostly, all others are valid.

`TARGETS` lists every argument of every query, mutation and subscription, of their input fields, and of the fields with
arguments of the types they return.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any, Final

from graphql import (
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    get_named_type,
    is_abstract_type,
    is_composite_type,
    is_leaf_type,
    is_required_argument,
    is_required_input_field,
)
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from app.api.schema import build_schema
from tests.hostile.boundary_values import (
    CARD,
    LISTS,
    NODES,
    OTHER_TYPES,
    SCALARS,
    VALID_INSTANTS,
    VALID_SETTINGS,
    RawJson,
    Reference,
    encoded,
    rate_cards,
    to_json,
)

SCHEMA: Final = build_schema()._schema
ROOTS: Final = {"query": SCHEMA.query_type, "mutation": SCHEMA.mutation_type, "subscription": SCHEMA.subscription_type}
MAX_DEPTH: Final = 4
CALLERS: Final = ("operator", "operator", "service", "service", "user", "user", "stranger", "anonymous")

_TASKS: Final = ("running", "running", "budget", "nested", "stopped", "ended", "other", "new")
_BLOCK_RUNS: Final = ("new", "new", "new", "charged", "by-model", "held", "held-too", "captured")
VALID: Final[Mapping[str, Sequence[Any]]] = {
    "ownerId": (Reference("owner"), Reference("owner"), Reference("other-owner")),
    "ownerIds": (Reference("owner"), Reference("other-owner")),
    "taskId": tuple(map(Reference, _TASKS)),
    "taskIds": tuple(map(Reference, _TASKS)),
    "parentTaskId": (None, Reference("running"), Reference("budget")),
    "agentId": (Reference("agent"),),
    "blockRunId": tuple(map(Reference, _BLOCK_RUNS)),
    "grantId": (Reference("Grant"), Reference("second-grant")),
    "topUpId": (Reference("paid-top-up"), Reference("disputed-top-up"), Reference("TopUp")),
    "notificationIds": (Reference("Notification"),),
    "id": tuple(map(Reference, NODES)),
    "block": ("ReplicateModelBlock", "AITextGeneratorBlock", "ExtractWebsiteContentBlock", "ItemBlock", "SecondBlock",
        "ByteBlock", "DollarBlock", "OutcomeBlock"),
    "settings": VALID_SETTINGS,
    "seconds": (0, 12.5, 3600),
    "usd": ("0.0123", "5"),
    "credits": (1, 500, 1000, 5000),
    "threshold": (0, 500),
    "target": (5_000,),
    "amount": (500, 1000),
    "maxPerDay": (None, 10_000),
    "budget": (None, 100, 1000),
    "closingReserve": (None, 10),
    "addBudget": (None, 100),
    "budgetTimeoutSeconds": (None, 1, 3600),
    "timeoutSeconds": (60, 3600),
    "idempotencyKey": (Reference("new"), Reference("new"), Reference("new"), Reference("used-key")),
    "currency": (None, "usd", "USD"),
    "returnUrl": ("https://shop.example/return", None),
    "timeZone": ("UTC", "Europe/Zurich"),
    "first": (1, 2, 25, 100),
    "after": (None,),
    "version": (None, 1),
    "sinceVersion": (None, 0, 1),
    "document": (CARD,),
    "effectiveAt": (None,),
}  # fmt: skip
"""Valid values by the names of arguments and input fields."""
_VALID_SCALARS: Final[Mapping[str, Sequence[Any]]] = {
    "ID": ("a",), "String": ("a", "because"), "Int": (1, 2), "Float": (1.5,), "Boolean": (True, False),
    "Credits": (1, 100), "Long": (1, 100), "JSON": ({},), "DateTime": VALID_INSTANTS,
}  # fmt: skip
_ENCODED: Final = {
    "after": LISTS,
    "id": NODES,
    "grantId": ("Grant", "Entry", "Hold"),
    "topUpId": ("TopUp", "paid-top-up", "Grant"),
    "notificationIds": ("Notification", "Grant"),
}
_NAME: Final = re.compile(r"[_A-Za-z][_0-9A-Za-z]*")


class EnumValue(str):
    """A value of an enum: a string in JSON, a name in a document."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Target:
    """An argument: the fields from the root to the one that has it, and the path of the value in the arguments."""

    keyword: str
    fields: tuple[str, ...]
    path: tuple[str, ...]

    def __str__(self) -> str:
        return f"{'.'.join(self.fields)}({'.'.join(self.path)})"


@dataclass(frozen=True, slots=True)
class Call:
    """A field with its arguments. Those in `inline` are written into the document; the others are variables."""

    field: str
    arguments: Mapping[str, Any]
    inline: frozenset[str]


@dataclass(frozen=True, slots=True)
class Request:
    target: Target
    calls: tuple[Call, ...]
    caller: str
    depth: int
    """How deep the selection is."""


def _argument_paths(name: str, graphql_type: Any) -> Iterator[tuple[str, ...]]:
    yield (name,)
    named = get_named_type(graphql_type)
    if isinstance(named, GraphQLInputObjectType):
        for field_name, field in named.fields.items():
            for path in _argument_paths(field_name, field.type):
                yield (name, *path)


def _targets() -> Iterator[Target]:
    for keyword, root in ROOTS.items():
        assert root is not None
        paths: list[tuple[tuple[str, ...], GraphQLObjectType]] = [((), root)]
        seen = {root.name}
        while paths:
            path, graphql_type = paths.pop(0)
            for name, field in graphql_type.fields.items():
                for argument_name, argument in field.args.items():
                    for argument_path in _argument_paths(argument_name, argument.type):
                        yield Target(keyword, (*path, name), argument_path)
                below = get_named_type(field.type)
                if keyword == "query" and isinstance(below, GraphQLObjectType) and below.name not in seen:
                    seen.add(below.name)
                    paths.append(((*path, name), below))


TARGETS: Final = tuple(_targets())


def fields_of(target: Target) -> Iterator[GraphQLField]:
    graphql_type: Any = ROOTS[target.keyword]
    for name in target.fields:
        yield (field := graphql_type.fields[name])
        graphql_type = get_named_type(field.type)


@st.composite
def requests(draw: DrawFn) -> Request:
    """Requests in which one argument has a boundary value, and each other one with a probability of 1/16."""
    target = draw(st.sampled_from(TARGETS))
    calls = []
    for depth, (name, field) in enumerate(zip(target.fields, fields_of(target), strict=True), 1):
        focus = target.path if depth == len(target.fields) else (None,)
        arguments = {
            argument_name: _value(draw, argument.type, argument_name, focus[1:] if focus[0] == argument_name else None)
            if focus[0] == argument_name or draw(st.integers(0, 15)) > 0
            else draw(_boundary(argument.type, argument_name))
            for argument_name, argument in field.args.items()
            if is_required_argument(argument) or argument_name in {focus[0], "ownerId"} or draw(st.booleans())
        }
        inline = frozenset(name for name, value in arguments.items() if draw(st.booleans()) and _fits_document(value))
        calls.append(Call(name, arguments, inline))
    return Request(target, tuple(calls), draw(st.sampled_from(CALLERS)), draw(st.integers(1, MAX_DEPTH)))


def _value(draw: DrawFn, graphql_type: Any, name: str, focus: tuple[str, ...] | None) -> Any:
    """A value. `focus`: the path of the part that has a boundary value; None for a valid value."""
    if isinstance(graphql_type, GraphQLNonNull):
        return _value(draw, graphql_type.of_type, name, focus)
    if focus == ():
        return draw(_boundary(graphql_type, name))
    if isinstance(graphql_type, GraphQLList):
        items = [_value(draw, graphql_type.of_type, name, focus)]
        return items + [_value(draw, graphql_type.of_type, name, None)] * draw(st.integers(0, 2))
    if isinstance(graphql_type, GraphQLInputObjectType):
        wanted = focus[0] if focus else None
        return {
            field_name: _value(draw, field.type, field_name, focus[1:] if focus and wanted == field_name else None)
            for field_name, field in graphql_type.fields.items()
            if field_name == wanted or is_required_input_field(field) or draw(st.booleans())
        }
    if isinstance(graphql_type, GraphQLEnumType):
        return EnumValue(draw(st.sampled_from(sorted(graphql_type.values))))
    return draw(st.sampled_from(VALID.get(name) or _VALID_SCALARS[graphql_type.name]))


@cache
def _boundary(graphql_type: Any, name: str) -> SearchStrategy[Any]:
    if isinstance(graphql_type, GraphQLNonNull):
        return _boundary(graphql_type.of_type, name)
    if isinstance(graphql_type, GraphQLList):
        item = _boundary(graphql_type.of_type, name)
        return st.one_of(
            st.lists(item, min_size=1, max_size=3),
            item,
            st.builds(lambda one, size: [one] * size, item, st.sampled_from((0, 101, 1_001))),
        )
    if isinstance(graphql_type, GraphQLInputObjectType):
        return st.sampled_from((*OTHER_TYPES, {"unknown": 1}))
    if isinstance(graphql_type, GraphQLEnumType):
        valid = next(iter(graphql_type.values))
        return st.sampled_from((EnumValue("NOPE"), EnumValue(valid.lower()), f"{valid}\x00", 0, *OTHER_TYPES))
    if name in _ENCODED:
        return encoded(_ENCODED[name])
    return rate_cards() if name == "document" else st.sampled_from(SCALARS[graphql_type.name])


def _fits_document(value: Any) -> bool:
    """Whether a value can be written as a literal: names of its objects are names, and it is no rate card."""
    match value:
        case RawJson():
            return not value.text.startswith("{")
        case dict():
            return (
                len(value) < 500
                and "blocks" not in value
                and all(_NAME.fullmatch(name) and _fits_document(part) for name, part in value.items())
            )
        case list():
            return all(map(_fits_document, value))
    return True


def to_literal(value: Any) -> str:
    """The value as a literal of a document."""
    match value:
        case EnumValue():
            return str(value)
        case dict():
            return "{" + ", ".join(f"{name}: {to_literal(part)}" for name, part in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(to_literal, value)) + "]"
    return to_json(value)


def to_body(request: Request, calls: Sequence[Mapping[str, Any]]) -> str:
    """The JSON body of a request. `calls`: the arguments of each field, without references."""
    definitions: list[str] = []
    variables: list[str] = []
    opening = ""
    for call, field, values in zip(request.calls, fields_of(request.target), calls, strict=True):
        written = []
        for name, value in values.items():
            if name in call.inline:
                written.append(f"{name}: {to_literal(value)}")
                continue
            variable = f"v{len(definitions)}"
            definitions.append(f"${variable}: {field.args[name].type}")
            variables.append(f"{json.dumps(variable)}: {to_json(value)}")
            written.append(f"{name}: ${variable}")
        opening += f" {{ {call.field}" + (f"({', '.join(written)})" if written else "")
    header = f"({', '.join(definitions)})" if definitions else ""
    *_, last = fields_of(request.target)
    selection = _selection(get_named_type(last.type), request.depth)
    query = f"{request.target.keyword}{header}{opening} {selection}{' }' * len(request.calls)}"
    return f'{{"query": {json.dumps(query)}, "variables": {{{", ".join(variables)}}}}}'


@cache
def _selection(graphql_type: Any, depth: int) -> str:
    """All fields without arguments of a type, and those of the objects in it to a depth."""
    if is_leaf_type(graphql_type):
        return ""
    if is_abstract_type(graphql_type):
        members = SCHEMA.get_possible_types(graphql_type)
        shapes: dict[str, set[str]] = {}
        for name, field in chain.from_iterable(member.fields.items() for member in members):
            shapes.setdefault(name, set()).add(str(field.type))
        conflicting = {name for name, types in shapes.items() if len(types) > 1}
        parts = [f"... on {member.name} {_fields(member, depth - 1, conflicting)}" for member in members]
        return f"{{ __typename {' '.join(parts)} }}"
    return _fields(graphql_type, depth, set())


def _fields(graphql_type: GraphQLObjectType, depth: int, conflicting: set[str]) -> str:
    parts = ["__typename"]
    for name, field in graphql_type.fields.items():
        below = get_named_type(field.type)
        is_page = graphql_type.name.endswith(("Connection", "Edge"))
        if field.args or below.name.endswith("Connection") or (is_composite_type(below) and depth < 1 and not is_page):
            continue
        alias = f"{graphql_type.name}_{name}: " if name in conflicting else ""
        parts.append(f"{alias}{name} {_selection(below, depth if is_page else depth - 1)}")
    return f"{{ {' '.join(parts)} }}"
