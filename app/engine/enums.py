"""Enums of the domain, shown in GraphQL with a description for each value."""

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

import strawberry
from strawberry.types.enum import StrawberryEnumDefinition

E = TypeVar("E", bound=Enum)


def describe_enum(enum: type[E], *, description: str, values: Mapping[E, str], name: str | None = None) -> type[E]:
    """`enum` as a GraphQL enum. Raises: TypeError: a value has no description."""
    if missing := [member.name for member in enum if member not in values]:
        raise TypeError(f"{enum.__name__}: no description for {', '.join(missing)}")
    strawberry.enum(enum, name=name, description=description)
    definition: StrawberryEnumDefinition = enum.__strawberry_definition__  # type: ignore[attr-defined]  # set just above
    for value in definition.values:
        value.description = values[enum[value.name]]
    return enum
