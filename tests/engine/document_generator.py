"""Requests written at random from a schema: documents of every shape that a client could send, with their variables.

Most are valid. A few parts are wrong on purpose, each with a small chance: an argument of another type, a variable that
is missing, null or too much, a field that is not there.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from random import Random
from typing import Any, Final

from graphql import (
    GraphQLArgument,
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLSchema,
    GraphQLUnionType,
    get_named_type,
    is_abstract_type,
    is_composite_type,
    is_required_argument,
    is_required_input_field,
)

from app.engine.execution import GraphQLRequest

MAX_DEPTH: Final = 3
ERROR_PROBABILITY: Final = 0.015
"""The chance that one part is wrong."""
_ABSENT: Final = object()
_SCALARS: Final[Mapping[str, Sequence[Any]]] = {
    "String": ["a", "", "Zoë ☃", "13"],
    "ID": ["a", "7", 7],
    "Int": [0, 1, 2, 3, 4, 5, -1, 13, 14, 101, 2**31 - 1],
    "Float": [0.5, 2, -1.25],
    "Boolean": [True, False],
    "Credits": [0, 5, 2**53 - 1],
    "Long": [1, -1],
    "DateTime": ["2026-01-31T12:00:00Z", "2026-01-31T12:00:00+02:00"],
    "JSON": [{"a": [1, None, {"b": "c"}]}, "text", 5, None, [True]],
    "RateCardDocument": [{}],
}
_WRONG_VALUES: Final = ["wrong", 1.5, 2**40, True, [], {}, {"unknown": 1}, [None], None]


class DocumentGenerator:
    """Writes one request."""

    def __init__(
        self,
        random: Random,
        schema: GraphQLSchema,
        pools: Mapping[str, Sequence[Any]],
        *,
        error_probability: float = ERROR_PROBABILITY,
    ) -> None:
        """`pools`: values to choose from for arguments and input fields of these names."""
        self._chance = random
        self._schema = schema
        self._pools = pools
        self._wrong = error_probability
        self._breadth = random.choice((1, 1, 1, 2, 2, 2, 2, 3, 3, 5))
        """How many selections a level has at most; each deeper one has one fewer."""
        self._definitions: list[str] = []
        self._variables: dict[str, Any] = {}
        self._fragments: dict[str, str] = {}
        self._by_type: dict[str, list[str]] = {}
        self._shapes: dict[tuple[str, str], list[str]] = {}

    def request(self, kind: GraphQLObjectType, keyword: str) -> GraphQLRequest:
        """An operation on this root type."""
        if keyword == "subscription":
            self._breadth = 1
        body = self._selections(kind, 0)
        name = self._chance.choice(["", "Asked"])
        header = f"({', '.join(self._definitions)})" if self._definitions else ""
        operation = "" if keyword == "query" and not header and not name else f"{keyword} {name}{header} "
        texts = [f"{operation}{body}", *self._fragments.values()]
        if name and self._rarely(0.1):
            texts.append("query Other { __typename }")
        self._chance.shuffle(texts)
        variables = self._variables | ({"extra": 1} if self._rarely(self._wrong) else {})
        return GraphQLRequest("\n".join(texts), variables or None, name or None)

    def _selections(self, kind: Any, depth: int) -> str:
        count = self._chance.randint(1, max(self._breadth - depth, 1))
        return "{ " + " ".join(self._selection(kind, depth) for _ in range(count)) + " }"

    def _selection(self, kind: Any, depth: int) -> str:
        roll = self._chance.random()
        if is_abstract_type(kind):
            if roll < 0.15 or (isinstance(kind, GraphQLUnionType) and depth >= MAX_DEPTH + 3):
                return "__typename"
            if roll < 0.7 or isinstance(kind, GraphQLUnionType):
                return self._fragment(self._overlapping(kind), depth)
        elif roll < 0.12:
            return self._fragment(self._around(kind), depth)
        return self._field(kind, depth)

    def _overlapping(self, kind: Any) -> Any:
        possible = self._chance.choice(list(self._schema.get_possible_types(kind)))
        return self._around(possible) if self._rarely(0.2) else possible

    def _around(self, kind: GraphQLObjectType) -> Any:
        """The type itself, or an interface or union that it belongs to."""
        return self._chance.choice([kind, *kind.interfaces, *_unions(self._schema, kind)])

    def _fragment(self, kind: Any, depth: int) -> str:
        directives = self._directives()
        if self._rarely(0.3):
            known = self._by_type.setdefault(kind.name, [])
            if not known or self._rarely(0.5):
                body = self._selections(kind, depth)  # before it has a name: it cannot spread itself
                name = f"F{len(self._fragments)}"
                self._fragments[name] = f"fragment {name} on {kind.name} {body}"
                known.append(name)
                return f"...{name}{directives}"
            return f"...{self._chance.choice(known)}{directives}"
        return f"...on {kind.name}{directives} {self._selections(kind, depth)}"

    def _field(self, kind: GraphQLObjectType | GraphQLInterfaceType, depth: int) -> str:
        if self._rarely(0.06):
            return f"{self._chance.choice(['', 'kind: '])}__typename{self._directives()}"
        if self._rarely(self._wrong / 3):
            return self._chance.choice(["nothing", "name @nope", "name { deeper }", "... @defer { __typename }"])
        names = [name for name, field in kind.fields.items() if depth < MAX_DEPTH or not is_composite(field)]
        if not names:
            return "__typename"
        name = self._chance.choice(names)
        field = kind.fields[name]
        arguments = self._arguments(field)
        alias = self._alias(name, arguments, field)
        below = f" {self._selections(get_named_type(field.type), depth + 1)}" if is_composite(field) else ""
        return f"{alias}{name}{arguments}{self._directives()}{below}"

    def _alias(self, name: str, arguments: str, field: GraphQLField) -> str:
        """Response names that never conflict: each stands for one field with the same arguments and type."""
        shapes = self._shapes.setdefault((name, ""), [])
        shape = f"{arguments} {field.type}"
        if shape not in shapes:
            shapes.append(shape)
        number = shapes.index(shape)
        if number == 0 and not self._rarely(0.1):
            return ""
        return f"{name}{number}: "

    def _directives(self) -> str:
        if not self._rarely(0.12):
            return ""
        chosen = self._chance.choice([["skip"], ["include"], ["skip", "include"], ["include", "skip"]])
        return "".join(f" @{name}(if: {self._condition()})" for name in chosen)

    def _condition(self) -> str:
        if self._rarely(0.4):
            return self._chance.choice(["true", "false"])
        name = f"c{self._chance.randint(0, 2)}"
        if name not in self._variables and f"${name}:" not in " ".join(self._definitions):
            with_default = self._rarely(0.3)
            self._definitions.append(f"${name}: Boolean = true" if with_default else f"${name}: Boolean!")
            value = self._chance.choice([True, False])
            if with_default and self._rarely(0.4):
                if self._rarely(0.2):
                    self._variables[name] = None
            elif not self._rarely(self._wrong):
                self._variables[name] = value
        return f"${name}"

    def _arguments(self, field: GraphQLField) -> str:
        written = []
        for name, argument in field.args.items():
            if not (is_required_argument(argument) or self._rarely(0.5)) or self._rarely(self._wrong / 2):
                continue
            written.append(f"{name}: {self._argument(name, argument)}")
        return f"({', '.join(written)})" if written else ""

    def _argument(self, name: str, argument: GraphQLArgument) -> str:
        if self._rarely(0.45):
            return self._variable(name, argument.type, argument)
        return self._literal(argument.type, name, 0)

    def _variable(self, name: str, kind: Any, argument: Any) -> str:
        """A new variable of this type."""
        variable = f"v{len(self._definitions)}"
        nullable = kind.of_type if isinstance(kind, GraphQLNonNull) else kind
        default = ""
        shown = str(kind)
        if self._rarely(0.3):
            shown = str(nullable)
            if isinstance(kind, GraphQLNonNull) or self._rarely(0.6):
                default = f" = {self._literal(GraphQLNonNull(nullable), name, 3)}"
        elif self._rarely(0.2):
            shown = f"{nullable}!"
        self._definitions.append(f"${variable}: {shown}{default}")
        value = self._value(kind, name, 0)
        if self._rarely(0.3) and not shown.endswith("!"):
            value = None if self._rarely(0.3) else _ABSENT
        if self._rarely(self._wrong):
            value = _ABSENT if self._rarely(0.3) else self._chance.choice(_WRONG_VALUES)
        if value is not _ABSENT:
            self._variables[variable] = value
        return f"${variable}"

    def _value(self, kind: Any, name: str, depth: int) -> Any:
        """As JSON."""
        if self._rarely(self._wrong / 2):
            return self._chance.choice(_WRONG_VALUES)
        if isinstance(kind, GraphQLNonNull):
            return self._present(kind.of_type, name, depth)
        return None if self._rarely(0.15) else self._present(kind, name, depth)

    def _present(self, kind: Any, name: str, depth: int) -> Any:
        if name in self._pools and not isinstance(kind, GraphQLList):
            return self._chance.choice(self._pools[name])
        if isinstance(kind, GraphQLList):
            if self._rarely(0.15):
                return self._value(kind.of_type, name, depth)
            return [self._value(kind.of_type, name, depth) for _ in range(self._chance.randint(0, 3))]
        if isinstance(kind, GraphQLEnumType):
            return self._chance.choice(list(kind.values))
        if isinstance(kind, GraphQLInputObjectType):
            return {
                field_name: self._value(field.type, field_name, depth + 1)
                for field_name, field in kind.fields.items()
                if is_required_input_field(field) or (depth < 3 and self._rarely(0.4))
            }
        return self._chance.choice(_SCALARS[kind.name])

    def _literal(self, kind: Any, name: str, depth: int) -> str:
        """As it stands in a document."""
        if depth < 3 and self._rarely(0.04):
            return self._variable(name, kind, None)
        inner = kind.of_type if isinstance(kind, GraphQLNonNull) else kind
        if isinstance(inner, GraphQLList) and name not in self._pools and not self._rarely(0.1):
            return (
                f"[{', '.join(self._literal(inner.of_type, name, depth) for _ in range(self._chance.randint(0, 3)))}]"
            )
        if isinstance(inner, GraphQLInputObjectType):
            parts = [
                f"{field_name}: {self._literal(field.type, field_name, depth + 1)}"
                for field_name, field in inner.fields.items()
                if is_required_input_field(field) or (depth < 3 and self._rarely(0.4))
            ]
            return f"{{{', '.join(parts)}}}"
        return self._written(self._value(kind, name, depth), inner)

    def _written(self, value: Any, kind: Any) -> str:
        if isinstance(kind, GraphQLEnumType) and isinstance(value, str):
            return value
        if isinstance(value, dict):
            return f"{{{', '.join(f'{key}: {self._written(one, None)}' for key, one in value.items())}}}"
        if isinstance(value, list):
            inner = kind.of_type if isinstance(kind, GraphQLList) else None
            inner = inner.of_type if isinstance(inner, GraphQLNonNull) else inner
            return f"[{', '.join(self._written(one, inner) for one in value)}]"
        return json.dumps(value)

    def _rarely(self, share: float) -> bool:
        return self._chance.random() < share


def is_composite(field: GraphQLField) -> bool:
    return is_composite_type(get_named_type(field.type))


@lru_cache(maxsize=1_000)
def _unions(schema: GraphQLSchema, kind: GraphQLObjectType) -> list[GraphQLUnionType]:
    return [one for one in schema.type_map.values() if isinstance(one, GraphQLUnionType) and kind in one.types]
