"""Result unions: the success type of a field and the types of its expected errors."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar, Union

import strawberry
from strawberry.types.base import get_object_definition

from app.api.error_types import ERROR_TYPES, UserError
from app.engine import declare
from app.engine.permissions import AuditPolicy, Permission
from app.errors import BillingError

F = TypeVar("F", bound=Callable[..., Any])


def result_union(name: str, success: type[Any], errors: Sequence[type[BillingError] | type[UserError]]) -> Any:
    """Return the union of a success type and the types of `errors`, as an annotation for Strawberry."""
    members = [ERROR_TYPES[error].error_type if issubclass(error, BillingError) else error for error in errors]
    description = f"{success.__name__}, or the reason why the request was refused."
    return Annotated[Union[(success, *members)], strawberry.union(name, description=description)]


def mutation(
    *, needs: Permission, audit: AuditPolicy, description: str, errors: Sequence[type[BillingError]]
) -> Callable[[F], F]:
    """Declare a field of Mutation whose resolver returns `<Name>Success` and raises `errors`.

    Its GraphQL type is the union `<Name>Result` of both. An argument without a description has that of its type.
    """

    def declare_mutation(resolver: F) -> F:
        success = resolver.__annotations__["return"]
        result = result_union(f"{success.__name__.removesuffix('Success')}Result", success, errors)
        field: Any = declare.mutation(needs=needs, audit=audit, description=description, graphql_type=result)(resolver)
        for argument in field.arguments:
            if argument.description is None:
                argument.description = get_object_definition(argument.type, strict=True).description
        return field  # type: ignore[no-any-return]  # to the type checker the method stays a method

    return declare_mutation
