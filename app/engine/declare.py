"""Declares the types and fields of a schema, each with a description and the permission that it needs.

Each field of Query, Mutation and Subscription states its permission (`query`, `mutation`, `subscription`). An object
type or interface states one permission for all its fields (`type`, `interface`), and a field may state another
(`field`, `value`).

The permission is checked by a field class, not by a Strawberry extension. So the check is one comparison before the
resolver, and a field that needs no check keeps Strawberry's fast path.
"""

import builtins
import dataclasses
from collections.abc import Callable
from copy import copy
from typing import Any, Final, TypeVar, dataclass_transform

import strawberry
from graphql import GraphQLResolveInfo
from strawberry.annotation import StrawberryAnnotation
from strawberry.types.base import get_object_definition, has_object_definition
from strawberry.types.field import StrawberryField
from strawberry.types.info import Info

from app.engine.permissions import AuditPolicy, Permission, check_permission

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_UNCHECKED: Final = frozenset({None, Permission.PUBLIC, Permission.INHERITED})


class GuardedField(StrawberryField):
    """A field that checks its permission before its resolver runs, or before its subscription starts."""

    needs: Permission | None
    input_as_dict: bool
    """Whether the resolver receives input objects as dicts, as graphql-core has coerced them (see `mutation`)."""
    is_mutation: bool
    """Whether the field is a mutation. Then the data loaded before it is removed (`RequestContext.clear_loaders`)."""
    audit: AuditPolicy | None
    """The audit policy of a mutation, or None if it is not declared."""

    def __init__(
        self,
        *args: Any,
        needs: Permission | None = None,
        input_as_dict: bool = False,
        is_mutation: bool = False,
        audit: AuditPolicy | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.needs = needs
        self.input_as_dict = input_as_dict
        self.is_mutation = is_mutation
        self.audit = audit

    def __copy__(self) -> "GuardedField":
        twin: GuardedField = super().__copy__()
        twin.needs = self.needs
        twin.input_as_dict = self.input_as_dict
        twin.is_mutation = self.is_mutation
        twin.audit = self.audit
        return twin

    @property
    def is_checked(self) -> bool:
        """Whether the permission can refuse a caller."""
        return self.needs not in _UNCHECKED

    @property
    def is_basic_field(self) -> bool:
        return super().is_basic_field and not self.is_checked

    def resolve_with_dicts(self, source: Any, info: GraphQLResolveInfo[Any], **arguments: Any) -> Any:
        """Check the permission and call the resolver. graphql-core calls this if `input_as_dict` is set."""
        if self.needs is None or self.base_resolver is None:
            raise TypeError(f"{self.python_name} has no permission or no resolver")
        check_permission(info.context.caller, self.needs)
        info.context.clear_loaders()
        resolver: Any = self.base_resolver.wrapped_func
        return resolver(source, info, **arguments)

    def get_result(self, source: Any, info: Info[Any, Any] | None, args: list[Any], kwargs: Any) -> Any:
        if info is not None and self.needs is not None:  # there is no info if nothing is checked: see is_basic_field
            check_permission(info.context.caller, self.needs)
            if self.is_mutation:
                info.context.clear_loaders()
        return super().get_result(source, info, args, kwargs)


class IsExactClass:
    """The `is_type_of` of a type whose objects are instances of exactly one class, without subclasses."""

    __slots__ = ("cls",)

    def __init__(self, cls: "builtins.type[Any]") -> None:
        self.cls = cls

    def __call__(self, value: object, _info: object) -> bool:
        return builtins.type(value) is self.cls


def value(
    *,
    description: str,
    needs: Permission | None = None,
    name: str | None = None,
    default: Any = dataclasses.MISSING,
    default_factory: Any = dataclasses.MISSING,
    deprecation_reason: str | None = None,
) -> Any:
    """Declare an attribute of a type: `credits: Credits = declare.value(description=...)`."""
    return GuardedField(
        needs=needs,
        graphql_name=name,
        description=description,
        default=default,
        default_factory=default_factory,
        deprecation_reason=deprecation_reason,
    )


def field(
    *, description: str, needs: Permission | None = None, name: str | None = None, graphql_type: Any = None
) -> Callable[[F], F]:
    """Declare a method of a type that resolves a field. If `needs` is None, the permission of the type is needed."""
    return _resolved(needs=needs, description=description, name=name, graphql_type=graphql_type)


def query(
    *, needs: Permission, description: str, name: str | None = None, graphql_type: Any = None
) -> Callable[[F], F]:
    """Declare a field of Query."""
    return _resolved(needs=needs, description=description, name=name, graphql_type=graphql_type)


def mutation(
    *,
    needs: Permission,
    audit: AuditPolicy | None = None,
    description: str,
    name: str | None = None,
    graphql_type: Any = None,
    input_as_dict: bool = False,
) -> Callable[[F], F]:
    """Declare a field of Mutation. `schema.mutations_without_audit_policy` lists mutations without `audit`.

    If `input_as_dict` is set, the resolver receives input objects as dicts by their GraphQL names, and must return its
    refusals instead of raising them. Strawberry's input objects take a fifth of the CPU time of a charge, because
    Strawberry inspects the type of each input field again for each value.
    """
    return _resolved(
        needs=needs,
        description=description,
        name=name,
        graphql_type=graphql_type,
        input_as_dict=input_as_dict,
        is_mutation=True,
        audit=audit,
    )


def subscription(
    *, needs: Permission, description: str, name: str | None = None, graphql_type: Any = None
) -> Callable[[F], F]:
    """Declare a field of Subscription: an async generator that yields events."""
    return _resolved(needs=needs, description=description, name=name, graphql_type=graphql_type, is_subscription=True)


def _resolved(*, description: str, name: str | None, graphql_type: Any, **options: Any) -> Callable[[F], F]:
    annotation = StrawberryAnnotation.from_annotation(graphql_type)

    def declare(resolver: F) -> F:
        declared: Any = GuardedField(graphql_name=name, description=description, type_annotation=annotation, **options)(
            resolver
        )
        return declared  # type: ignore[no-any-return]  # the type checker sees a method

    return declare


@dataclass_transform(kw_only_default=True, field_specifiers=(value,))
def type(
    *, description: str, needs: Permission, name: str | None = None
) -> Callable[[builtins.type[T]], builtins.type[T]]:
    """Declare an object type. `needs` is the permission of all its fields that state none."""

    def declare(cls: builtins.type[T]) -> builtins.type[T]:
        if any(has_object_definition(base) for base in cls.__mro__[1:]) and not hasattr(cls, "__parameters__"):
            # By default Strawberry accepts any object with the same interface. An error that is not a member of the
            # union would then be sent as the first error type of the union.
            cls.is_type_of = IsExactClass(cls)  # type: ignore[attr-defined]  # read by Strawberry
        return _with_permission(strawberry.type(cls, name=name, description=description), needs)

    return declare


@dataclass_transform(kw_only_default=True, field_specifiers=(value,))
def interface(
    *, description: str, needs: Permission, name: str | None = None
) -> Callable[[builtins.type[T]], builtins.type[T]]:
    """Declare an interface, in the same way as a type."""

    def declare(cls: builtins.type[T]) -> builtins.type[T]:
        return _with_permission(strawberry.interface(cls, name=name, description=description), needs)

    return declare


def _with_permission(cls: builtins.type[T], needs: Permission) -> builtins.type[T]:
    """Set the type's permission on each field without one. Raises: TypeError: a field is not a `GuardedField`."""
    definition = get_object_definition(cls, strict=True)
    for index, declared in enumerate(definition.fields):
        if not isinstance(declared, GuardedField):
            raise TypeError(f"{cls.__name__}.{declared.python_name}: declare it with declare.value or declare.field")
        if declared.needs is None:
            definition.fields[index] = own = copy(declared)  # an inherited field belongs to the base type
            own.needs = needs
    return cls
