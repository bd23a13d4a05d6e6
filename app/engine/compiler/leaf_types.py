"""Scalars and enums, written as graphql-core writes them."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from graphql import GraphQLBoolean, GraphQLID, GraphQLInt, GraphQLLeafType, GraphQLString
from graphql.pyutils import Undefined, inspect
from strawberry.schema.schema_converter import CustomGraphQLEnumType

from app.engine.compiler.execution_state import Completion, Run, Trail

Write = Callable[[Any], Any]
_WRITTEN_AS_THEY_ARE: Final[Mapping[Any, type]] = {GraphQLString: str, GraphQLID: str, GraphQLBoolean: bool}
_PLAIN: Final = frozenset({str, int, float, bool, datetime})


def plain_classes(kind: GraphQLLeafType) -> frozenset[type]:
    """Classes whose values neither wait nor are faults, and may be written at once."""
    return _PLAIN | {kind.wrapped_cls} if type(kind) is CustomGraphQLEnumType else _PLAIN


def exact_class(kind: GraphQLLeafType) -> type | None:
    """The class whose values are their own JSON in this type."""
    return _WRITTEN_AS_THEY_ARE.get(kind)


def writer(kind: GraphQLLeafType) -> Write:
    """How a value that is not null is written. Raises: whatever the type says of a wrong one."""
    coerce = kind.coerce_output_value

    def write(value: Any) -> Any:
        written = coerce(value)
        if written is None or written is Undefined:
            raise TypeError(
                f"Expected `{inspect(kind)}.coerce_output_value({inspect(value)})` to return non-nullable value,"
                f" returned: {inspect(written)}"
            )
        return written

    if kind is GraphQLInt:
        return _int_writer(write)
    if type(kind) is CustomGraphQLEnumType:
        return _enum_writer(kind, write)
    return write


def leaf_completion(kind: GraphQLLeafType) -> Completion:
    """The completion of a nullable scalar or enum."""
    write = writer(kind)

    def complete(_run: Run, _trail: Trail, value: Any) -> Any:
        if isinstance(value, Exception):
            raise value
        return None if value is None or value is Undefined else write(value)

    return complete


def _int_writer(otherwise: Write) -> Write:
    def write(value: Any) -> Any:
        return value if type(value) is int and -(2**31) <= value < 2**31 else otherwise(value)

    return write


def _enum_writer(kind: CustomGraphQLEnumType, otherwise: Write) -> Write:
    """Strawberry looks through all values for each; here each member's name is looked up."""
    members: Iterable[Any] = kind.wrapped_cls
    names = {id(member): otherwise(member) for member in members}

    def write(value: Any) -> Any:
        return names.get(id(value)) or otherwise(value)  # by identity: a text that equals a member is not one

    return write
