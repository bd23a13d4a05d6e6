"""Who may ask for what: every field says what it needs, and says it where it is declared.

Fields of Query, Mutation and Subscription say it one by one (`query`, `mutation`, `subscription`). A type says it once
for all its fields (`type`, `interface`), a field may ask for more (`field`, `value`). `undeclared` finds the silent.

Why a field class and no permission extension: the check is one comparison before the resolver, and a field that needs
nothing keeps Strawberry's short path.
"""

import builtins
import dataclasses
from collections.abc import Callable
from copy import copy
from enum import Enum
from typing import Any, Final, TypeVar, dataclass_transform

import strawberry
from graphql import GraphQLField, GraphQLInterfaceType, GraphQLObjectType, GraphQLResolveInfo, GraphQLSchema
from strawberry.annotation import StrawberryAnnotation
from strawberry.types.base import get_object_definition, has_object_definition
from strawberry.types.field import StrawberryField
from strawberry.types.info import Info

from app.auth.caller import Caller, Scope, has_scope
from app.errors import Forbidden, Unauthenticated

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class Permission(Enum):
    PUBLIC = "anyone, signed in or not"
    INHERITED = "whoever could reach the object"
    """For the fields of types only: what led to the object was checked."""
    AUTHENTICATED = "a user, a service or an operator"
    SERVICE = "a service key with the scope charge, or an operator"
    OPERATOR = "an operator"


class AuditPolicy(Enum):
    """What a mutation leaves behind, so that it can be said who did it."""

    SERVICES_AND_OPERATORS = "a record of the trail, whoever calls but a user for itself"
    OPERATORS = (
        "the ledger's own: its entry, hold or block run names actor (of a service: its key) and request; an "
        "operator's leaves a record too"
    )


_UNCHECKED: Final = frozenset({None, Permission.PUBLIC, Permission.INHERITED})


def check_permission(caller: Caller | None, needs: Permission) -> None:
    """Raises: Unauthenticated: nobody is calling. Forbidden: somebody who may not."""
    if needs is Permission.PUBLIC or needs is Permission.INHERITED:
        return
    if caller is None:
        raise Unauthenticated("Say who you are: send an Authorization header with a bearer token.")
    if needs is Permission.AUTHENTICATED or has_scope(caller, Scope.ADMIN):
        return
    if needs is Permission.SERVICE and has_scope(caller, Scope.CHARGE):
        return
    raise Forbidden(f"This needs {needs.value}.")


class GuardedField(StrawberryField):
    """A field that knows what it needs and checks it before its resolver runs, or before a subscription begins."""

    needs: Permission | None
    input_as_dict: bool
    """Whether the resolver takes its arguments as graphql-core has coerced them (see `mutation`)."""
    is_mutation: bool
    """Whether it changes something: what was loaded before it is no longer true."""
    audit: AuditPolicy | None
    """What a mutation leaves behind; None: it does not say."""

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
        """Whether anybody may be refused here."""
        return self.needs not in _UNCHECKED

    @property
    def is_basic_field(self) -> bool:
        return super().is_basic_field and not self.is_checked

    def resolve_with_dicts(self, source: Any, info: GraphQLResolveInfo[Any], **arguments: Any) -> Any:
        """The resolver for graphql-core itself, where `plain_input` asks for it."""
        if self.needs is None or self.base_resolver is None:
            raise TypeError(f"{self.python_name} declares no need, or has no resolver")
        check_permission(info.context.caller, self.needs)
        info.context.clear_loaders()
        resolver: Any = self.base_resolver.wrapped_func
        return resolver(source, info, **arguments)

    def get_result(self, source: Any, info: Info[Any, Any] | None, args: list[Any], kwargs: Any) -> Any:
        if info is not None and self.needs is not None:  # without info nothing is to be checked: see is_basic_field
            check_permission(info.context.caller, self.needs)
            if self.is_mutation:
                info.context.clear_loaders()
        return super().get_result(source, info, args, kwargs)


class IsExactClass:
    """The `is_type_of` of a type whose objects are of one class and no other."""

    __slots__ = ("cls",)

    def __init__(self, cls: "builtins.type[Any]") -> None:
        self.cls = cls

    def __call__(self, found: object, _info: object) -> bool:
        return builtins.type(found) is self.cls


def value(
    *,
    description: str,
    needs: Permission | None = None,
    name: str | None = None,
    default: Any = dataclasses.MISSING,
    default_factory: Any = dataclasses.MISSING,
    deprecation_reason: str | None = None,
) -> Any:
    """An attribute of a type: `credits: Credits = access.value(description=...)`."""
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
    """A method of a type that resolves a field; it needs what its type needs, unless it says otherwise."""
    return _resolved(needs=needs, description=description, name=name, graphql_type=graphql_type)


def query(
    *, needs: Permission, description: str, name: str | None = None, graphql_type: Any = None
) -> Callable[[F], F]:
    """A field of Query."""
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
    """A field of Mutation. `trail`: what it leaves behind; `untraced` finds those that do not say.

    `plain_input`: the resolver gets its input as the coerced dictionaries, by GraphQL names, and returns its refusals.
    Strawberry makes input objects by asking each field anew for its type: a fifth of all CPU of a charge.
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
    """A field of Subscription, over an async generator."""
    return _resolved(needs=needs, description=description, name=name, graphql_type=graphql_type, is_subscription=True)


def _resolved(
    *,
    needs: Permission | None,
    description: str,
    name: str | None,
    graphql_type: Any,
    is_subscription: bool = False,
    input_as_dict: bool = False,
    is_mutation: bool = False,
    audit: AuditPolicy | None = None,
) -> Callable[[F], F]:
    annotation = StrawberryAnnotation.from_annotation(graphql_type)

    def declare(resolver: F) -> F:
        declared: Any = GuardedField(
            needs=needs,
            graphql_name=name,
            description=description,
            type_annotation=annotation,
            is_subscription=is_subscription,
            input_as_dict=input_as_dict,
            is_mutation=is_mutation,
            audit=audit,
        )(resolver)
        return declared  # type: ignore[no-any-return]  # to the type checker the method stays a method

    return declare


@dataclass_transform(kw_only_default=True, field_specifiers=(value,))
def type(
    *, description: str, needs: Permission, name: str | None = None
) -> Callable[[builtins.type[T]], builtins.type[T]]:
    """An object type whose fields need `needs`, each unless it says otherwise."""

    def declare(cls: builtins.type[T]) -> builtins.type[T]:
        if any(has_object_definition(base) for base in cls.__mro__[1:]) and not hasattr(cls, "__parameters__"):
            # Strawberry's own test takes anything with the same interface: an error that a union does not name would
            # be sent as the first error that it does.
            cls.is_type_of = IsExactClass(cls)  # type: ignore[attr-defined]  # Strawberry looks for it
        return _declared(strawberry.type(cls, name=name, description=description), needs)

    return declare


@dataclass_transform(kw_only_default=True, field_specifiers=(value,))
def interface(
    *, description: str, needs: Permission, name: str | None = None
) -> Callable[[builtins.type[T]], builtins.type[T]]:
    """An interface, declared like a type."""

    def declare(cls: builtins.type[T]) -> builtins.type[T]:
        return _declared(strawberry.interface(cls, name=name, description=description), needs)

    return declare


def _declared(cls: builtins.type[T], needs: Permission) -> builtins.type[T]:
    """Write the type's need into each field that says none. Raises: TypeError: a field that cannot hold one."""
    definition = get_object_definition(cls, strict=True)
    for place, declared in enumerate(definition.fields):
        if not isinstance(declared, GuardedField):
            raise TypeError(f"{cls.__name__}.{declared.python_name}: declare it with access.value or access.field")
        if declared.needs is None:
            definition.fields[place] = mine = copy(declared)  # a copy: an inherited field is its parent's too
            mine.needs = needs
    return cls


def fields_without_permission(schema: GraphQLSchema) -> list[str]:
    """The fields that say nothing, as `Type.field`; on the root types REACHED says nothing either."""
    roots = {schema.query_type, schema.mutation_type, schema.subscription_type}
    return [
        f"{kind.name}.{name}"
        for kind in schema.type_map.values()
        if isinstance(kind, GraphQLObjectType | GraphQLInterfaceType) and not kind.name.startswith("__")
        for name, found in kind.fields.items()
        if (needs := _needs(found)) is None or (needs is Permission.INHERITED and kind in roots)
    ]


def mutations_without_audit_policy(schema: GraphQLSchema) -> list[str]:
    """The mutations that do not say what they leave behind."""
    return [name for name, trail in audit_policies(schema).items() if trail is None]


def audit_policies(schema: GraphQLSchema) -> dict[str, AuditPolicy | None]:
    """What each mutation leaves behind."""
    fields = schema.mutation_type.fields if schema.mutation_type else {}
    return {
        name: getattr(found.extensions.get("strawberry-definition"), "trail", None) for name, found in fields.items()
    }


def use_dict_resolvers(schema: GraphQLSchema) -> None:
    """Give graphql-core the resolvers of fields that take their input plainly."""
    for found in (schema.mutation_type.fields if schema.mutation_type else {}).values():
        declared = found.extensions.get("strawberry-definition")
        if isinstance(declared, GuardedField) and declared.input_as_dict:
            found.resolve = declared.resolve_with_dicts


def _needs(found: GraphQLField) -> Permission | None:
    declared = found.extensions.get("strawberry-definition")
    return declared.needs if isinstance(declared, GuardedField) else None
