"""Implements ResolveFieldValue: reads an attribute, calls a resolver directly, or calls the resolver of graphql-core.

Strawberry's own resolver inspects the type of each argument for every call and runs every call through wrappers for
extensions. A field without extensions is resolved directly, in Strawberry's order: convert the arguments, check the
permission, call the method. Other fields are resolved by the function that graphql-core would call.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from inspect import isawaitable
from typing import Any, Final

from graphql import GraphQLSchema
from graphql.execution.executor import default_field_resolver
from strawberry.schema.exception_handlers import ExceptionHandler
from strawberry.types.arguments import StrawberryArgument, convert_argument
from strawberry.types.field import StrawberryField
from strawberry.types.fields.resolver import StrawberryResolver
from strawberry.types.info import Info

from app.engine.compiler.analysis import CollectedField
from app.engine.compiler.execution_state import Execution, LazyInfo, LazyStrawberryInfo, ResponsePath
from app.engine.compiler.output_types import DEFINITION
from app.engine.declare import GuardedField
from app.engine.permissions import check_permission

ResolveValue = Callable[[Execution, Any, ResponsePath, dict[str, Any]], Any]
"""Resolves a field.

The arguments are the execution, the source, the path, and the field's arguments by GraphQL name.
"""
Handlers = tuple[tuple[tuple[type[Exception], ...], ExceptionHandler[Any]], ...]
_SUPPORTED_FIELDS: Final = (GuardedField, StrawberryField)


@dataclass(frozen=True, slots=True)
class DirectResolver:
    """A resolver that is called without Strawberry's wrappers."""

    resolve: ResolveValue
    is_async: bool
    """Whether the resolver is a coroutine function, which does not run before it is awaited."""
    declaration: StrawberryField
    handlers: Handlers
    """Functions that convert exceptions to members of the field's union."""


def attribute_name(field: CollectedField, schema: GraphQLSchema) -> str | None:
    """Return the attribute that this field returns, or None if the field does more than return an attribute."""
    declaration = _supported_declaration(field)
    if declaration is None or not declaration.is_basic_field or declaration.default_resolver is not getattr:
        return None
    return None if field.definition.args or _handlers(declaration, schema) else declaration.python_name


def is_subscription_event(field: CollectedField) -> bool:
    """Return whether the field returns the event of a subscription."""
    declaration = field.definition.extensions.get(DEFINITION)
    return isinstance(declaration, StrawberryField) and declaration.is_subscription


def direct_resolver(field: CollectedField, schema: GraphQLSchema) -> DirectResolver | None:
    """Return the method that resolves this field, or None if it cannot be called directly."""
    declaration = _supported_declaration(field)
    if (
        declaration is None
        or declaration.extensions
        or declaration.is_subscription
        or _takes_input_as_dict(field, declaration)
    ):
        return None
    resolver = declaration.base_resolver
    if type(resolver) is not StrawberryResolver or resolver.parent_parameter or resolver.root_parameter:
        return None
    converter = _strawberry_schema(schema).schema_converter
    if converter.config.info_class is not Info:
        return None
    return DirectResolver(
        resolve=_call_method(field, declaration, resolver, converter),
        is_async=declaration.is_async,
        declaration=declaration,
        handlers=_handlers(declaration, schema),
    )


def schema_resolver(field: CollectedField) -> ResolveValue:
    """Return the resolver that graphql-core would call."""
    resolve: Any = field.definition.resolve or default_field_resolver
    declaration = field.definition.extensions.get(DEFINITION)
    make_info: Any = LazyInfo if _takes_input_as_dict(field, declaration) else Execution.info

    def resolve_value(execution: Execution, source: Any, path: ResponsePath, arguments: dict[str, Any]) -> Any:
        return resolve(source, make_info(execution, field, path), **arguments)

    return resolve_value


def handle_exception(
    resolver: DirectResolver, field: CollectedField, execution: Execution, path: ResponsePath, error: Exception
) -> Any:
    """Return the value with which the field's handler replaces an exception, or an awaitable of that value.

    Raises: `error`: no handler handles it.
    """
    for exception_types, handler in resolver.handlers:
        if isinstance(error, exception_types):
            info = LazyStrawberryInfo(execution, field, path, resolver.declaration)
            result = handler.handle(error, field=resolver.declaration, info=info)
            if result is not None:
                return _await_result(result, error) if isawaitable(result) else result
            break
    raise error


async def _await_result(pending: Any, error: Exception) -> Any:
    if (result := await pending) is None:
        raise error
    return result


def _call_method(
    field: CollectedField, declaration: StrawberryField, resolver: StrawberryResolver[Any], converter: Any
) -> ResolveValue:
    function: Any = resolver.wrapped_func
    guarded = declaration if isinstance(declaration, GuardedField) else None
    needs = guarded.needs if guarded is not None and guarded.is_checked else None
    is_mutation = guarded is not None and guarded.is_mutation
    info_name = resolver.info_parameter.name if resolver.info_parameter else None
    takes_source = resolver.self_parameter is not None
    if takes_source and not (needs or info_name or declaration.arguments):
        return lambda _execution, source, _path, _arguments: function(source)
    convert = _argument_conversion(declaration.arguments, converter)

    def resolve_value(execution: Execution, source: Any, path: ResponsePath, arguments: dict[str, Any]) -> Any:
        info = LazyStrawberryInfo(execution, field, path, declaration)
        named = convert(arguments, info)
        if needs is not None:
            check_permission(execution.context.caller, needs)
        if is_mutation:
            execution.context.clear_loaders()
        if info_name is not None:
            named[info_name] = info
        return function(source, **named) if takes_source else function(**named)

    return resolve_value


def _argument_conversion(
    arguments: list[StrawberryArgument], converter: Any
) -> Callable[[dict[str, Any], Info], dict[str, Any]]:
    """Return a conversion from GraphQL names to Python names, and from coerced input objects to Strawberry's.

    Coerced scalars and enums are passed on unchanged.
    """
    name_of = converter.config.name_converter.from_argument
    known = [(name_of(one), one.python_name, None if _is_passed_on(one, converter) else one.type) for one in arguments]

    def convert(given: dict[str, Any], info: Info) -> dict[str, Any]:
        named = {}
        for name, python_name, input_type in known:
            if name in given:
                value = given[name]
                if input_type is not None:
                    value = convert_argument(
                        value, input_type, converter.scalar_registry, converter.config, info, path=(name,)
                    )
                named[python_name] = value
        return named

    return convert


def _is_passed_on(argument: StrawberryArgument, converter: Any) -> bool:
    """Return whether Strawberry passes on the coerced value unchanged. This is tried with a test value."""
    probe = object()
    try:
        return convert_argument(probe, argument.type, converter.scalar_registry, converter.config) is probe
    except Exception:  # input objects and lists cannot convert the test value
        return False


def _supported_declaration(field: CollectedField) -> StrawberryField | None:
    """Return Strawberry's declaration of the field, or None if its class is unknown and may resolve differently."""
    declaration = field.definition.extensions.get(DEFINITION)
    return declaration if type(declaration) in _SUPPORTED_FIELDS else None


def _takes_input_as_dict(field: CollectedField, declaration: Any) -> bool:
    return (
        isinstance(declaration, GuardedField)
        and declaration.input_as_dict
        and field.definition.resolve == declaration.resolve_with_dicts
    )


@lru_cache(maxsize=4_096)
def _handlers(declaration: StrawberryField, schema: GraphQLSchema) -> Handlers:
    """Return the exception handlers of a field.

    Cached, because Strawberry compares the field's type with all handlers.
    """
    found: Handlers = _strawberry_schema(schema).schema_converter._get_field_exception_handlers(declaration)
    return found


def _strawberry_schema(schema: GraphQLSchema) -> Any:
    return schema._strawberry_schema  # type: ignore[attr-defined]  # set by Strawberry
