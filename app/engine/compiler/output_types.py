"""Output types: how scalars and enums are serialized, and to which object type an instance of a Python class belongs.

Strawberry finds the object type of a value by a search over all types of the schema. If its rules allow only one result
for a class, that result is computed once. `strawberry.cast` sets the type of a single object, so Strawberry always
resolves an object that was cast.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from graphql import (
    GraphQLAbstractType,
    GraphQLBoolean,
    GraphQLID,
    GraphQLInt,
    GraphQLLeafType,
    GraphQLObjectType,
    GraphQLSchema,
    GraphQLString,
    GraphQLUnionType,
)
from graphql.pyutils import Undefined, inspect
from strawberry.schema.schema_converter import CustomGraphQLEnumType
from strawberry.types.base import StrawberryObjectDefinition
from strawberry.types.cast import TYPE_CAST_ATTRIBUTE
from strawberry.types.union import StrawberryUnion

from app.engine.declare import IsExactClass

Serialize = Callable[[Any], Any]

DEFINITION: Final = "strawberry-definition"
"""The key of the extension in which Strawberry stores its own definition of a type or field."""

_IDENTICAL_IN_JSON: Final[Mapping[Any, type]] = {GraphQLString: str, GraphQLID: str, GraphQLBoolean: bool}
_PLAIN_CLASSES: Final = frozenset({str, int, float, bool, datetime})


def plain_classes(leaf_type: GraphQLLeafType) -> frozenset[type]:
    """Return the classes whose instances are neither awaitable nor exceptions, and can be serialized at once."""
    if type(leaf_type) is CustomGraphQLEnumType:
        return _PLAIN_CLASSES | {leaf_type.wrapped_cls}
    return _PLAIN_CLASSES


def class_identical_in_json(leaf_type: GraphQLLeafType) -> type | None:
    """Return the class whose instances this type serializes unchanged, or None."""
    return _IDENTICAL_IN_JSON.get(leaf_type)


def serializer(leaf_type: GraphQLLeafType) -> Serialize:
    """Return a function that serializes values that are not null, with the results and errors of graphql-core."""
    coerce = leaf_type.coerce_output_value

    def serialize(value: Any) -> Any:
        serialized = coerce(value)
        if serialized is None or serialized is Undefined:
            raise TypeError(
                f"Expected `{inspect(leaf_type)}.coerce_output_value({inspect(value)})` to return non-nullable value,"
                f" returned: {inspect(serialized)}"
            )
        return serialized

    if leaf_type is GraphQLInt:
        return _int_serializer(serialize)
    if type(leaf_type) is CustomGraphQLEnumType:
        return _enum_serializer(leaf_type, serialize)
    return serialize


def _int_serializer(fallback: Serialize) -> Serialize:
    def serialize(value: Any) -> Any:
        return value if type(value) is int and -(2**31) <= value < 2**31 else fallback(value)

    return serialize


def _enum_serializer(enum_type: CustomGraphQLEnumType, fallback: Serialize) -> Serialize:
    """Return a function that looks up the name of a member. Strawberry searches all members for each value."""
    members: Iterable[Any] = enum_type.wrapped_cls
    names = {id(member): fallback(member) for member in members}

    def serialize(value: Any) -> Any:
        return names.get(id(value)) or fallback(value)  # compares identity, because a string may equal a StrEnum member

    return serialize


def is_cast(value: Any) -> bool:
    return getattr(value, TYPE_CAST_ATTRIBUTE, None) is not None


@lru_cache(maxsize=1_024)
def classes_of_type(object_type: GraphQLObjectType) -> frozenset[type]:
    """Return the classes whose instances always belong to this type."""
    definition = _definition(object_type)
    if definition is None:
        return frozenset()
    classes = {definition.origin}
    if isinstance(definition.is_type_of, IsExactClass):
        classes &= {definition.is_type_of.cls}
    elif definition.is_type_of is not None:
        return frozenset()
    elif definition.concrete_of is not None:
        classes.add(definition.concrete_of.origin)
    return frozenset(filter(_is_plain_class, classes))


@lru_cache(maxsize=1_024)
def types_by_class(schema: GraphQLSchema, abstract_type: GraphQLAbstractType) -> dict[type, GraphQLObjectType]:
    """Return the classes for which Strawberry's type resolver can return only one type, with that type."""
    if not _is_resolved_by_strawberry(abstract_type):
        return {}
    found: dict[type, GraphQLObjectType] = {}
    for possible in schema.get_possible_types(abstract_type):
        definition = _definition(possible)
        if (
            definition is not None
            and _is_identified_by_class(definition, possible.name)
            and _implements(definition, abstract_type)
        ):
            found.setdefault(definition.origin, possible)
    return found


def _is_resolved_by_strawberry(abstract_type: GraphQLAbstractType) -> bool:
    definition = abstract_type.extensions.get(DEFINITION)
    if isinstance(abstract_type, GraphQLUnionType):
        return type(definition) is StrawberryUnion
    return isinstance(definition, StrawberryObjectDefinition) and definition.resolve_type is None


def _is_identified_by_class(definition: StrawberryObjectDefinition, name: str) -> bool:
    """Return whether the class alone identifies the type: it is not generic and has its own definition."""
    return (
        definition.concrete_of is None
        and not definition.is_graphql_generic
        and definition.name == name
        and _is_plain_class(definition.origin)
        and definition.origin.__dict__.get("__strawberry_definition__") is definition
    )


def _implements(definition: StrawberryObjectDefinition, abstract_type: GraphQLAbstractType) -> bool:
    """Return whether the class implements the interface.

    Strawberry accepts only instances of the interface's own class.
    """
    if isinstance(abstract_type, GraphQLUnionType):
        return True
    interface: StrawberryObjectDefinition = abstract_type.extensions[DEFINITION]
    return issubclass(definition.origin, interface.origin)


def _is_plain_class(cls: type) -> bool:
    """Return whether instances of the class are neither exceptions nor awaitable."""
    return not issubclass(cls, Exception) and not hasattr(cls, "__await__")


def _definition(object_type: GraphQLObjectType) -> StrawberryObjectDefinition | None:
    definition = object_type.extensions.get(DEFINITION)
    return definition if isinstance(definition, StrawberryObjectDefinition) else None
