"""Implements ExecuteField: resolves and completes one field of one object, and handles its errors."""

from collections.abc import Awaitable
from operator import attrgetter
from types import CoroutineType
from typing import Any

from graphql import GraphQLLeafType
from graphql.pyutils import is_awaitable

from app.engine.compiler.analysis import CollectedField
from app.engine.compiler.completion import ValueCompletion
from app.engine.compiler.execution_state import ExecuteField, Execution, ResponsePath
from app.engine.compiler.input_coercion import CoerceArguments
from app.engine.compiler.output_types import class_identical_in_json, plain_classes, serializer
from app.engine.compiler.resolvers import DirectResolver, ResolveValue, handle_exception


def execute_typename(name: str) -> ExecuteField:
    """Return the execution of __typename. The object type is known when the field is compiled."""
    return lambda _execution, _source, _outer: name


def execute_attribute(completion: ValueCompletion, name: str, leaf_type: GraphQLLeafType | None) -> ExecuteField:
    """Return the execution of a field that returns an attribute.

    `leaf_type` is the nullable type of the field, or None if that is not a scalar or enum.
    """
    get = attrgetter(name)
    key, parent = completion.field.response_name, completion.field.parent.name
    if leaf_type is None:
        return _execute_composite(completion, get, key, parent)
    identical = class_identical_in_json(leaf_type)
    if identical is not None:
        return _execute_identical(completion, get, identical, key, parent)
    return _execute_serialized(completion, get, leaf_type, key, parent)


def _execute_composite(completion: ValueCompletion, get: Any, key: str, parent: str) -> ExecuteField:
    def execute(execution: Execution, source: Any, outer: ResponsePath | None) -> Any:
        path = (outer, key, parent)
        try:
            return completion.finish(execution, path, get(source))
        except Exception as error:
            return completion.handle_error(execution, path, error)

    return execute


def _execute_identical(completion: ValueCompletion, get: Any, cls: type, key: str, parent: str) -> ExecuteField:
    """Return the execution for strings, ids and booleans. The path is created only when it is needed."""

    def execute(execution: Execution, source: Any, outer: ResponsePath | None) -> Any:
        try:
            value = get(source)
            return value if type(value) is cls else completion.finish(execution, (outer, key, parent), value)
        except Exception as error:
            return completion.handle_error(execution, (outer, key, parent), error)

    return execute


def _execute_serialized(
    completion: ValueCompletion, get: Any, leaf_type: GraphQLLeafType, key: str, parent: str
) -> ExecuteField:
    serialize, plain, is_nullable = serializer(leaf_type), plain_classes(leaf_type), not completion.is_required

    def execute(execution: Execution, source: Any, outer: ResponsePath | None) -> Any:
        try:
            value = get(source)
            if type(value) in plain:
                return serialize(value)
            if value is None and is_nullable:
                return None
            return completion.finish(execution, (outer, key, parent), value)
        except Exception as error:
            return completion.handle_error(execution, (outer, key, parent), error)

    return execute


def execute_resolver(
    completion: ValueCompletion, resolve: ResolveValue, coerce_arguments: CoerceArguments | None
) -> ExecuteField:
    key, parent = completion.field.response_name, completion.field.parent.name

    def execute(execution: Execution, source: Any, outer: ResponsePath | None) -> Any:
        path = (outer, key, parent)
        try:
            arguments = coerce_arguments(execution.variables) if coerce_arguments is not None else {}
            return completion.finish(execution, path, resolve(execution, source, path, arguments))
        except Exception as error:
            return completion.handle_error(execution, path, error)

    return execute


def execute_event(completion: ValueCompletion, coerce_arguments: CoerceArguments | None) -> ExecuteField:
    """Return the execution of a subscription's field. Its value is the event, which is also the source."""
    return execute_resolver(completion, lambda _execution, source, _path, _arguments: source, coerce_arguments)


def execute_direct(
    completion: ValueCompletion, resolver: DirectResolver, coerce_arguments: CoerceArguments | None
) -> ExecuteField:
    if resolver.is_async:
        return _execute_async(completion, resolver, coerce_arguments)
    resolve = _with_handlers(completion.field, resolver) if resolver.handlers else resolver.resolve
    return execute_resolver(completion, resolve, coerce_arguments)


def _with_handlers(field: CollectedField, resolver: DirectResolver) -> ResolveValue:
    def resolve(execution: Execution, source: Any, path: ResponsePath, arguments: dict[str, Any]) -> Any:
        try:
            value = resolver.resolve(execution, source, path, arguments)
        except Exception as error:
            return handle_exception(resolver, field, execution, path, error)
        return await_value(execution, path, value) if is_awaitable(value) else value

    async def await_value(execution: Execution, path: ResponsePath, value: Awaitable[Any]) -> Any:
        try:
            return await value
        except Exception as error:
            result = handle_exception(resolver, field, execution, path, error)
            return await result if is_awaitable(result) else result

    return resolve


def _execute_async(
    completion: ValueCompletion, resolver: DirectResolver, coerce_arguments: CoerceArguments | None
) -> ExecuteField:
    """Like `execute_resolver`, with one coroutine for the field instead of one for each stage."""
    field, complete, handle_error = completion.field, completion.complete, completion.handle_error
    key, parent = field.response_name, field.parent.name
    resolve, has_handlers = resolver.resolve, bool(resolver.handlers)

    def execute(execution: Execution, source: Any, outer: ResponsePath | None) -> Any:
        path = (outer, key, parent)
        try:
            arguments = coerce_arguments(execution.variables) if coerce_arguments is not None else {}
        except Exception as error:
            return handle_error(execution, path, error)
        return execute_later(execution, source, path, arguments)

    async def execute_later(execution: Execution, source: Any, path: ResponsePath, arguments: dict[str, Any]) -> Any:
        try:
            try:
                value = resolve(execution, source, path, arguments)
                if is_awaitable(value):
                    value = await value
            except Exception as error:
                if not has_handlers:
                    raise
                value = handle_exception(resolver, field, execution, path, error)
                if is_awaitable(value):
                    value = await value
            completed = complete(execution, path, value)
            return await completed if type(completed) is CoroutineType else completed
        except Exception as error:
            return handle_error(execution, path, error)

    return execute
