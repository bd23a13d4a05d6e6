"""What object types, unions and interfaces make of a value: which class is surely of which type, and who says so else.

Strawberry knows its objects by their class; asking it takes a walk over all types of the schema. For a class that
Strawberry's own rules can only answer one way the answer is kept here. `strawberry.cast` overrules the class: an object
that was cast is never answered from here.
"""

from functools import lru_cache
from typing import Any, Final

from graphql import GraphQLAbstractType, GraphQLObjectType, GraphQLSchema, GraphQLUnionType
from strawberry.types.base import StrawberryObjectDefinition
from strawberry.types.cast import TYPE_CAST_ATTRIBUTE
from strawberry.types.union import StrawberryUnion

from app.engine.declare import IsExactClass

DEFINITION: Final = "strawberry-definition"


def is_cast(value: Any) -> bool:
    return getattr(value, TYPE_CAST_ATTRIBUTE, None) is not None


@lru_cache(maxsize=1_024)
def own_classes(kind: GraphQLObjectType) -> frozenset[type]:
    """The classes whose objects are of this type without asking: Strawberry decides by the class alone."""
    definition = _definition(kind)
    if definition is None:
        return frozenset()
    classes = {definition.origin}
    if isinstance(definition.is_type_of, IsExactClass):
        classes &= {definition.is_type_of.cls}
    elif definition.is_type_of is not None:
        return frozenset()
    elif definition.concrete_of is not None:
        classes.add(definition.concrete_of.origin)
    return frozenset(filter(_is_ordinary, classes))


@lru_cache(maxsize=1_024)
def sure_classes(schema: GraphQLSchema, kind: GraphQLAbstractType) -> dict[type, GraphQLObjectType]:
    """The classes whose objects Strawberry's resolver of `kind` can only call one type."""
    if not _is_resolved_by_strawberry(kind):
        return {}
    found: dict[type, GraphQLObjectType] = {}
    for possible in schema.get_possible_types(kind):
        definition = _definition(possible)
        if definition is not None and _is_known_by_class(definition, possible.name) and _is_a(definition, kind):
            found.setdefault(definition.origin, possible)
    return found


def _is_resolved_by_strawberry(kind: GraphQLAbstractType) -> bool:
    declared = kind.extensions.get(DEFINITION)
    if isinstance(kind, GraphQLUnionType):
        return type(declared) is StrawberryUnion
    return isinstance(declared, StrawberryObjectDefinition) and declared.resolve_type is None


def _is_known_by_class(definition: StrawberryObjectDefinition, name: str) -> bool:
    """Whether the class alone decides: it is no generic, nor one of a generic's, and its definition is its own."""
    return (
        definition.concrete_of is None
        and not definition.is_graphql_generic
        and definition.name == name
        and _is_ordinary(definition.origin)
        and definition.origin.__dict__.get("__strawberry_definition__") is definition
    )


def _is_a(definition: StrawberryObjectDefinition, kind: GraphQLAbstractType) -> bool:
    """An interface takes only instances of its own class by their class."""
    if isinstance(kind, GraphQLUnionType):
        return True
    interface: StrawberryObjectDefinition = kind.extensions[DEFINITION]
    return issubclass(definition.origin, interface.origin)


def _is_ordinary(cls: type) -> bool:
    """Whether its objects neither wait nor are faults."""
    return not issubclass(cls, Exception) and not hasattr(cls, "__await__")


def _definition(kind: GraphQLObjectType) -> StrawberryObjectDefinition | None:
    declared = kind.extensions.get(DEFINITION)
    return declared if isinstance(declared, StrawberryObjectDefinition) else None
