"""What has no description yet: everything the person who reads GraphiQL sees must have one."""

from collections.abc import Iterator

from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLSchema,
)


def parts_without_description(schema: GraphQLSchema) -> list[str]:
    """Types, fields, arguments, input fields and enum values without a description, as `Type.field(argument)`."""
    return [
        place
        for kind in schema.type_map.values()
        if not kind.name.startswith("__")
        for place, description in _descriptions(kind)
        if not (description or "").strip()
    ]


def _descriptions(kind: GraphQLNamedType) -> Iterator[tuple[str, str | None]]:
    yield kind.name, kind.description
    if isinstance(kind, GraphQLObjectType | GraphQLInterfaceType):
        for name, field in kind.fields.items():
            yield f"{kind.name}.{name}", field.description
            for argument_name, argument in field.args.items():
                yield f"{kind.name}.{name}({argument_name})", argument.description
    elif isinstance(kind, GraphQLInputObjectType):
        for name, input_field in kind.fields.items():
            yield f"{kind.name}.{name}", input_field.description
    elif isinstance(kind, GraphQLEnumType):
        for name, value in kind.values.items():
            yield f"{kind.name}.{name}", value.description
