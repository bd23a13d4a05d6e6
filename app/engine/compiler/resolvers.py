"""How the value of a place is got: an attribute, a method called as Strawberry would call it, or graphql-core's way.

Strawberry's own resolver makes an info, converts each argument by asking its type anew, and wraps every call for its
extensions. A field that uses none of that is called directly: arguments converted, need checked, method called, in
Strawberry's order. A field that is not understood is resolved by what graphql-core would call.
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

from app.engine.compiler.execution_state import Run, Trail
from app.engine.compiler.field_collection import Place
from app.engine.compiler.infos import BareInfo, FieldInfo
from app.engine.compiler.object_types import DEFINITION
from app.engine.declare import GuardedField, check_permission

Call = Callable[[Run, Any, Trail, dict[str, Any]], Any]
"""Calls what resolves a place: run, source, trail, arguments by their GraphQL names."""
Handlers = tuple[tuple[tuple[type[Exception], ...], ExceptionHandler[Any]], ...]
_CALLABLE: Final = (GuardedField, StrawberryField)


@dataclass(frozen=True, slots=True)
class Method:
    """A resolver that is called directly."""

    call: Call
    is_async: bool
    """Whether nothing of it may run before it is awaited."""
    field: StrawberryField
    handlers: Handlers
    """What makes union members of exceptions."""


def attribute_of(place: Place, schema: GraphQLSchema) -> str | None:
    """The attribute that this place shows, if that is all there is to it."""
    field = _field(place)
    if field is None or not field.is_basic_field or field.default_resolver is not getattr or place.definition.args:
        return None
    return None if _handlers(field, schema) else field.python_name


def is_event(place: Place) -> bool:
    """Whether the place shows what a subscription has yielded."""
    field = place.definition.extensions.get(DEFINITION)
    return isinstance(field, StrawberryField) and field.is_subscription


def method_of(place: Place, schema: GraphQLSchema) -> Method | None:
    """The method that resolves this place, if it can be called directly."""
    field = _field(place)
    if field is None or field.extensions or field.is_subscription or _is_plain(place, field):
        return None
    resolver = field.base_resolver
    if type(resolver) is not StrawberryResolver or resolver.parent_parameter or resolver.root_parameter:
        return None
    converter = _strawberry(schema).schema_converter
    if converter.config.info_class is not Info:
        return None
    return Method(
        call=_direct(place, field, resolver, converter),
        is_async=field.is_async,
        field=field,
        handlers=_handlers(field, schema),
    )


def whole(place: Place) -> Call:
    """The resolver that graphql-core would call, called as it would."""
    resolve: Any = place.definition.resolve or default_field_resolver
    make_info: Any = BareInfo if _is_plain(place, place.definition.extensions.get(DEFINITION)) else Run.info

    def call(run: Run, source: Any, trail: Trail, arguments: dict[str, Any]) -> Any:
        return resolve(source, make_info(run, place, trail), **arguments)

    return call


def handled(method: Method, place: Place, run: Run, trail: Trail, error: Exception) -> Any:
    """What the field's handler makes of an exception; the awaitable of it, if it says so. Raises: `error`."""
    for exception_types, handler in method.handlers:
        if isinstance(error, exception_types):
            found = handler.handle(error, field=method.field, info=FieldInfo(run, place, trail, method.field))
            if found is not None:
                return _or_raised(found, error) if isawaitable(found) else found
            break
    raise error


async def _or_raised(found: Any, error: Exception) -> Any:
    if (member := await found) is None:
        raise error
    return member


def _direct(place: Place, field: StrawberryField, resolver: StrawberryResolver[Any], converter: Any) -> Call:
    function: Any = resolver.wrapped_func
    needs = field.needs if isinstance(field, GuardedField) and field.is_checked else None
    changes = isinstance(field, GuardedField) and field.is_mutation
    info_name = resolver.info_parameter.name if resolver.info_parameter else None
    takes_source = resolver.self_parameter is not None
    if takes_source and not (needs or info_name or field.arguments):
        return lambda _run, source, _trail, _arguments: function(source)
    convert = _conversion(field.arguments, converter)

    def call(run: Run, source: Any, trail: Trail, arguments: dict[str, Any]) -> Any:
        info = FieldInfo(run, place, trail, field)
        named = convert(arguments, info)
        if needs is not None:
            check_permission(run.context.caller, needs)
        if changes:
            run.context.clear_loaders()
        if info_name is not None:
            named[info_name] = info
        return function(source, **named) if takes_source else function(**named)

    return call


def _conversion(
    arguments: list[StrawberryArgument], converter: Any
) -> Callable[[dict[str, Any], Info], dict[str, Any]]:
    """From GraphQL names to Python's, and from coerced inputs to Strawberry's: scalars and enums are that already."""
    name_of = converter.config.name_converter.from_argument
    known = [(name_of(one), one.python_name, None if _is_leaf(one, converter) else one.type) for one in arguments]

    def convert(given: dict[str, Any], info: Info) -> dict[str, Any]:
        named = {}
        for name, python_name, kind in known:
            if name in given:
                value = given[name]
                named[python_name] = (
                    value
                    if kind is None
                    else convert_argument(value, kind, converter.scalar_registry, converter.config, info, path=(name,))
                )
        return named

    return convert


def _is_leaf(argument: StrawberryArgument, converter: Any) -> bool:
    """Whether Strawberry hands the coerced value on: asked with a value that nothing equals."""
    token = object()
    try:
        return convert_argument(token, argument.type, converter.scalar_registry, converter.config) is token
    except Exception:  # an input object or a list has no use for such a value
        return False


def _field(place: Place) -> StrawberryField | None:
    """The declaration of this place, if it is of a class whose ways are known."""
    field = place.definition.extensions.get(DEFINITION)
    return field if type(field) in _CALLABLE else None


def _is_plain(place: Place, field: Any) -> bool:
    return (
        isinstance(field, GuardedField) and field.input_as_dict and place.definition.resolve == field.resolve_with_dicts
    )


@lru_cache(maxsize=4_096)
def _handlers(field: StrawberryField, schema: GraphQLSchema) -> Handlers:
    """Strawberry compares the field's type with each line of the table; here it does once."""
    found: Handlers = _strawberry(schema).schema_converter._get_field_exception_handlers(field)
    return found


def _strawberry(schema: GraphQLSchema) -> Any:
    return schema._strawberry_schema  # type: ignore[attr-defined]  # Strawberry puts it there
