"""Builds a schema, and checks that every field has a permission and that every part of the schema has a description."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, TypeVar

import strawberry
from graphql import (
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLSchema,
)
from strawberry.printer import print_schema
from strawberry.schema.config import StrawberryConfig
from strawberry.types.enum import StrawberryEnumDefinition
from strawberry.types.scalar import ScalarDefinition

from app.engine.coercion_messages import use_plain_coercion_messages
from app.engine.declare import GuardedField
from app.engine.permissions import AuditPolicy, Permission
from app.engine.scalars import use_exact_scalars

E = TypeVar("E", bound=Enum)


class IncompleteSchema(Exception):
    """A field has no permission, or a part of the schema has no description."""


def create_schema(
    *,
    query: type,
    mutation: type | None = None,
    subscription: type | None = None,
    types: Iterable[type] = (),
    scalars: Mapping[object, ScalarDefinition],
    exception_handlers: Sequence[Any] = (),
) -> strawberry.Schema:
    """Return the schema of these root types. Raises: IncompleteSchema.

    `types` are implementations of interfaces that no field returns. `exception_handlers` are Strawberry's; they convert
    exceptions of resolvers to members of the field's union.
    """
    use_exact_scalars()
    use_plain_coercion_messages()
    schema = strawberry.Schema(
        query=query,
        mutation=mutation,
        subscription=subscription,
        types=types,
        config=StrawberryConfig(scalar_map=dict(scalars)),
        exception_handlers=exception_handlers,
    )
    core_schema = schema._schema  # graphql-core's schema; Strawberry has no public name for it
    if missing := fields_without_permission(core_schema):
        raise IncompleteSchema(f"Fields without a permission: {', '.join(missing)}")
    if missing := parts_without_description(core_schema):
        raise IncompleteSchema(f"Without a description: {', '.join(missing)}")
    _use_dict_resolvers(core_schema)
    return schema


def format_schema(schema: strawberry.Schema) -> str:
    """Return the schema in SDL. It is the same in every process: types are ordered by name, fields as declared."""
    return print_schema(schema) + "\n"


def describe_enum(enum: type[E], *, description: str, values: Mapping[E, str], name: str | None = None) -> type[E]:
    """Make `enum` a GraphQL enum.

    `values` contains the description of each member. Raises: TypeError: a description is missing.
    """
    if missing := [member.name for member in enum if member not in values]:
        raise TypeError(f"{enum.__name__}: no description for {', '.join(missing)}")
    strawberry.enum(enum, name=name, description=description)
    definition: StrawberryEnumDefinition = enum.__strawberry_definition__  # type: ignore[attr-defined]  # set just above
    for value in definition.values:
        value.description = values[enum[value.name]]
    return enum


def fields_without_permission(schema: GraphQLSchema) -> list[str]:
    """Return the fields without a permission, as `Type.field`.

    On the root types INHERITED does not count as a permission, because no permission was checked before.
    """
    roots = {schema.query_type, schema.mutation_type, schema.subscription_type}
    return [
        f"{named_type.name}.{name}"
        for named_type in schema.type_map.values()
        if isinstance(named_type, GraphQLObjectType | GraphQLInterfaceType) and not named_type.name.startswith("__")
        for name, field in named_type.fields.items()
        if (declared := _declaration(field)) is None
        or declared.needs is None
        or (declared.needs is Permission.INHERITED and named_type in roots)
    ]


def audit_policies(schema: GraphQLSchema) -> dict[str, AuditPolicy | None]:
    """Return the audit policy of each mutation, or None for mutations without one."""
    return {
        name: declared.audit if (declared := _declaration(field)) is not None else None
        for name, field in _mutations(schema).items()
    }


def mutations_without_audit_policy(schema: GraphQLSchema) -> list[str]:
    return [name for name, policy in audit_policies(schema).items() if policy is None]


def parts_without_description(schema: GraphQLSchema) -> list[str]:
    """Return types, fields, arguments, input fields and enum values without description, as `Type.field(argument)`."""
    return [
        part
        for named_type in schema.type_map.values()
        if not named_type.name.startswith("__")
        for part, description in _descriptions(named_type)
        if not (description or "").strip()
    ]


def _descriptions(named_type: GraphQLNamedType) -> Iterator[tuple[str, str | None]]:
    yield named_type.name, named_type.description
    if isinstance(named_type, GraphQLObjectType | GraphQLInterfaceType):
        for name, field in named_type.fields.items():
            yield f"{named_type.name}.{name}", field.description
            for argument_name, argument in field.args.items():
                yield f"{named_type.name}.{name}({argument_name})", argument.description
    elif isinstance(named_type, GraphQLInputObjectType):
        for name, input_field in named_type.fields.items():
            yield f"{named_type.name}.{name}", input_field.description
    elif isinstance(named_type, GraphQLEnumType):
        for name, value in named_type.values.items():
            yield f"{named_type.name}.{name}", value.description


def _use_dict_resolvers(schema: GraphQLSchema) -> None:
    """Make graphql-core call the resolvers of mutations with `input_as_dict` directly."""
    for field in _mutations(schema).values():
        declared = _declaration(field)
        if declared is not None and declared.input_as_dict:
            field.resolve = declared.resolve_with_dicts


def _mutations(schema: GraphQLSchema) -> Mapping[str, GraphQLField]:
    return schema.mutation_type.fields if schema.mutation_type else {}


def _declaration(field: GraphQLField) -> GuardedField | None:
    declared = field.extensions.get("strawberry-definition")
    return declared if isinstance(declared, GuardedField) else None
