"""Generates random requests from a schema: documents of every shape that a client could send, with their variables.

Most are valid. Some parts are wrong on purpose, each with a small probability: an argument of another type, a variable
that is missing, null or superfluous, an unknown field.
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
"""The probability that a part is wrong."""
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
_INVALID_VALUES: Final = ["wrong", 1.5, 2**40, True, [], {}, {"unknown": 1}, [None], None]


class DocumentGenerator:
    """Generates one request."""

    def __init__(
        self,
        random: Random,
        schema: GraphQLSchema,
        argument_values: Mapping[str, Sequence[Any]],
        *,
        error_probability: float = ERROR_PROBABILITY,
    ) -> None:
        """`argument_values`: values to choose from for arguments and input fields of these names."""
        self._random = random
        self._schema = schema
        self._argument_values = argument_values
        self._error_probability = error_probability
        self._max_selections = random.choice((1, 1, 1, 2, 2, 2, 2, 3, 3, 5))
        """Of the first level; each deeper level has one fewer."""
        self._definitions: list[str] = []
        self._variables: dict[str, Any] = {}
        self._fragments: dict[str, str] = {}
        self._by_type: dict[str, list[str]] = {}
        self._shapes: dict[tuple[str, str], list[str]] = {}

    def request(self, graphql_type: GraphQLObjectType, keyword: str) -> GraphQLRequest:
        """An operation of this root type."""
        if keyword == "subscription":
            self._max_selections = 1
        body = self._selections(graphql_type, 0)
        name = self._random.choice(["", "Asked"])
        header = f"({', '.join(self._definitions)})" if self._definitions else ""
        operation = "" if keyword == "query" and not header and not name else f"{keyword} {name}{header} "
        texts = [f"{operation}{body}", *self._fragments.values()]
        if name and self._with_probability(0.1):
            texts.append("query Other { __typename }")
        self._random.shuffle(texts)
        variables = self._variables | ({"extra": 1} if self._with_probability(self._error_probability) else {})
        return GraphQLRequest("\n".join(texts), variables or None, name or None)

    def _selections(self, graphql_type: Any, depth: int) -> str:
        count = self._random.randint(1, max(self._max_selections - depth, 1))
        return "{ " + " ".join(self._selection(graphql_type, depth) for _ in range(count)) + " }"

    def _selection(self, graphql_type: Any, depth: int) -> str:
        roll = self._random.random()
        if is_abstract_type(graphql_type):
            if roll < 0.15 or (isinstance(graphql_type, GraphQLUnionType) and depth >= MAX_DEPTH + 3):
                return "__typename"
            if roll < 0.7 or isinstance(graphql_type, GraphQLUnionType):
                return self._fragment(self._overlapping(graphql_type), depth)
        elif roll < 0.12:
            return self._fragment(self._type_or_abstract_type(graphql_type), depth)
        return self._field(graphql_type, depth)

    def _overlapping(self, graphql_type: Any) -> Any:
        possible = self._random.choice(list(self._schema.get_possible_types(graphql_type)))
        return self._type_or_abstract_type(possible) if self._with_probability(0.2) else possible

    def _type_or_abstract_type(self, graphql_type: GraphQLObjectType) -> Any:
        """The type itself, or an interface or union it belongs to."""
        return self._random.choice([graphql_type, *graphql_type.interfaces, *_unions(self._schema, graphql_type)])

    def _fragment(self, graphql_type: Any, depth: int) -> str:
        directives = self._directives()
        if self._with_probability(0.3):
            known = self._by_type.setdefault(graphql_type.name, [])
            if not known or self._with_probability(0.5):
                body = self._selections(graphql_type, depth)  # before it has a name, so that it cannot spread itself
                name = f"F{len(self._fragments)}"
                self._fragments[name] = f"fragment {name} on {graphql_type.name} {body}"
                known.append(name)
                return f"...{name}{directives}"
            return f"...{self._random.choice(known)}{directives}"
        return f"...on {graphql_type.name}{directives} {self._selections(graphql_type, depth)}"

    def _field(self, graphql_type: GraphQLObjectType | GraphQLInterfaceType, depth: int) -> str:
        if self._with_probability(0.06):
            return f"{self._random.choice(['', 'kind: '])}__typename{self._directives()}"
        if self._with_probability(self._error_probability / 3):
            return self._random.choice(["nothing", "name @nope", "name { deeper }", "... @defer { __typename }"])
        names = [name for name, field in graphql_type.fields.items() if depth < MAX_DEPTH or not is_composite(field)]
        if not names:
            return "__typename"
        name = self._random.choice(names)
        field = graphql_type.fields[name]
        arguments = self._arguments(field)
        alias = self._alias(name, arguments, field)
        below = f" {self._selections(get_named_type(field.type), depth + 1)}" if is_composite(field) else ""
        return f"{alias}{name}{arguments}{self._directives()}{below}"

    def _alias(self, name: str, arguments: str, field: GraphQLField) -> str:
        """Response names that never conflict: one for each field with its arguments and type."""
        shapes = self._shapes.setdefault((name, ""), [])
        shape = f"{arguments} {field.type}"
        if shape not in shapes:
            shapes.append(shape)
        number = shapes.index(shape)
        if number == 0 and not self._with_probability(0.1):
            return ""
        return f"{name}{number}: "

    def _directives(self) -> str:
        if not self._with_probability(0.12):
            return ""
        chosen = self._random.choice([["skip"], ["include"], ["skip", "include"], ["include", "skip"]])
        return "".join(f" @{name}(if: {self._condition()})" for name in chosen)

    def _condition(self) -> str:
        if self._with_probability(0.4):
            return self._random.choice(["true", "false"])
        name = f"c{self._random.randint(0, 2)}"
        if name not in self._variables and f"${name}:" not in " ".join(self._definitions):
            with_default = self._with_probability(0.3)
            self._definitions.append(f"${name}: Boolean = true" if with_default else f"${name}: Boolean!")
            value = self._random.choice([True, False])
            if with_default and self._with_probability(0.4):
                if self._with_probability(0.2):
                    self._variables[name] = None
            elif not self._with_probability(self._error_probability):
                self._variables[name] = value
        return f"${name}"

    def _arguments(self, field: GraphQLField) -> str:
        written = []
        for name, argument in field.args.items():
            if not (is_required_argument(argument) or self._with_probability(0.5)) or self._with_probability(
                self._error_probability / 2
            ):
                continue
            written.append(f"{name}: {self._argument(name, argument)}")
        return f"({', '.join(written)})" if written else ""

    def _argument(self, name: str, argument: GraphQLArgument) -> str:
        if self._with_probability(0.45):
            return self._variable(name, argument.type, argument)
        return self._literal(argument.type, name, 0)

    def _variable(self, name: str, graphql_type: Any, argument: Any) -> str:
        """A new variable of this type."""
        variable = f"v{len(self._definitions)}"
        nullable = graphql_type.of_type if isinstance(graphql_type, GraphQLNonNull) else graphql_type
        default = ""
        declared_type = str(graphql_type)
        if self._with_probability(0.3):
            declared_type = str(nullable)
            if isinstance(graphql_type, GraphQLNonNull) or self._with_probability(0.6):
                default = f" = {self._literal(GraphQLNonNull(nullable), name, 3)}"
        elif self._with_probability(0.2):
            declared_type = f"{nullable}!"
        self._definitions.append(f"${variable}: {declared_type}{default}")
        value = self._value(graphql_type, name, 0)
        if self._with_probability(0.3) and not declared_type.endswith("!"):
            value = None if self._with_probability(0.3) else _ABSENT
        if self._with_probability(self._error_probability):
            value = _ABSENT if self._with_probability(0.3) else self._random.choice(_INVALID_VALUES)
        if value is not _ABSENT:
            self._variables[variable] = value
        return f"${variable}"

    def _value(self, graphql_type: Any, name: str, depth: int) -> Any:
        """A value as JSON."""
        if self._with_probability(self._error_probability / 2):
            return self._random.choice(_INVALID_VALUES)
        if isinstance(graphql_type, GraphQLNonNull):
            return self._present(graphql_type.of_type, name, depth)
        return None if self._with_probability(0.15) else self._present(graphql_type, name, depth)

    def _present(self, graphql_type: Any, name: str, depth: int) -> Any:
        if name in self._argument_values and not isinstance(graphql_type, GraphQLList):
            return self._random.choice(self._argument_values[name])
        if isinstance(graphql_type, GraphQLList):
            if self._with_probability(0.15):
                return self._value(graphql_type.of_type, name, depth)
            return [self._value(graphql_type.of_type, name, depth) for _ in range(self._random.randint(0, 3))]
        if isinstance(graphql_type, GraphQLEnumType):
            return self._random.choice(list(graphql_type.values))
        if isinstance(graphql_type, GraphQLInputObjectType):
            return {
                field_name: self._value(field.type, field_name, depth + 1)
                for field_name, field in graphql_type.fields.items()
                if is_required_input_field(field) or (depth < 3 and self._with_probability(0.4))
            }
        return self._random.choice(_SCALARS[graphql_type.name])

    def _literal(self, graphql_type: Any, name: str, depth: int) -> str:
        """A value as a literal in a document."""
        if depth < 3 and self._with_probability(0.04):
            return self._variable(name, graphql_type, None)
        inner = graphql_type.of_type if isinstance(graphql_type, GraphQLNonNull) else graphql_type
        if isinstance(inner, GraphQLList) and name not in self._argument_values and not self._with_probability(0.1):
            return (
                f"[{', '.join(self._literal(inner.of_type, name, depth) for _ in range(self._random.randint(0, 3)))}]"
            )
        if isinstance(inner, GraphQLInputObjectType):
            parts = [
                f"{field_name}: {self._literal(field.type, field_name, depth + 1)}"
                for field_name, field in inner.fields.items()
                if is_required_input_field(field) or (depth < 3 and self._with_probability(0.4))
            ]
            return f"{{{', '.join(parts)}}}"
        return self._format_literal(self._value(graphql_type, name, depth), inner)

    def _format_literal(self, value: Any, graphql_type: Any) -> str:
        if isinstance(graphql_type, GraphQLEnumType) and isinstance(value, str):
            return value
        if isinstance(value, dict):
            return f"{{{', '.join(f'{key}: {self._format_literal(one, None)}' for key, one in value.items())}}}"
        if isinstance(value, list):
            inner = graphql_type.of_type if isinstance(graphql_type, GraphQLList) else None
            inner = inner.of_type if isinstance(inner, GraphQLNonNull) else inner
            return f"[{', '.join(self._format_literal(one, inner) for one in value)}]"
        return json.dumps(value)

    def _with_probability(self, probability: float) -> bool:
        return self._random.random() < probability


def is_composite(field: GraphQLField) -> bool:
    return is_composite_type(get_named_type(field.type))


@lru_cache(maxsize=1_000)
def _unions(schema: GraphQLSchema, graphql_type: GraphQLObjectType) -> list[GraphQLUnionType]:
    return [one for one in schema.type_map.values() if isinstance(one, GraphQLUnionType) and graphql_type in one.types]
