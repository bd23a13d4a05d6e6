"""Implements CompleteValue: converts a resolved value to JSON.

The functions raise errors. `ValueCompletion` handles them. If the field or item is nullable, it becomes null and the
error is recorded. Otherwise the error is raised again, with its location, and the field that contains the value handles
it in the same way.
"""

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from types import CoroutineType
from typing import Any

from graphql import (
    GraphQLAbstractType,
    GraphQLError,
    GraphQLLeafType,
    GraphQLList,
    GraphQLObjectType,
    is_non_null_type,
)
from graphql.execution.collect_fields import FieldDetails
from graphql.pyutils import Undefined, inspect, is_async_iterable, is_awaitable, is_iterable

from app.engine.compiler.analysis import CollectedField
from app.engine.compiler.execution_state import (
    CompleteValue,
    ExecuteField,
    Execution,
    LazyInfo,
    ResponsePath,
    await_values,
    locate_error,
    to_graphql_path,
)
from app.engine.compiler.output_types import is_cast, serializer

ExecuteFields = Callable[[Execution, Any, ResponsePath | None], Any]
"""Executes all selected fields of an object. Returns a dict, or a coroutine that returns it."""
NamedFields = list[tuple[str, ExecuteField]]


def in_parallel(fields: NamedFields) -> ExecuteFields:
    """Return a function that starts all fields in order, then awaits them together."""

    def execute(execution: Execution, source: Any, path: ResponsePath | None) -> Any:
        results: dict[str, Any] = {}
        pending: list[str] = []
        try:
            for name, field in fields:
                results[name] = value = field(execution, source, path)
                if type(value) is CoroutineType:
                    pending.append(name)
        except Exception:
            execution.finish_in_background([results[name] for name in pending])
            raise
        return await_values(results, pending) if pending else results

    return execute


def in_series(fields: NamedFields) -> ExecuteFields:
    """Return a function for the root of a mutation: each field ends before the next one starts."""

    def execute(execution: Execution, source: Any, path: ResponsePath | None) -> Any:
        results: dict[str, Any] = {}
        for index, (name, field) in enumerate(fields):
            results[name] = value = field(execution, source, path)
            if type(value) is CoroutineType:
                return execute_rest(execution, source, results, index)
        return results

    async def execute_rest(execution: Execution, source: Any, results: dict[str, Any], index: int) -> dict[str, Any]:
        name = fields[index][0]
        results[name] = await results[name]
        for name, field in fields[index + 1 :]:
            value = field(execution, source, None)
            results[name] = await value if type(value) is CoroutineType else value
        return results

    return execute


class ValueCompletion:
    """Awaits and completes the resolved value of a field or list item, and handles its errors."""

    __slots__ = ("complete", "field", "is_required", "plain_classes")

    def __init__(
        self, field: CollectedField, complete: CompleteValue, plain_classes: frozenset[type], *, is_required: bool
    ) -> None:
        """`plain_classes` are classes whose instances are not awaitable."""
        self.field = field
        self.complete = complete
        self.plain_classes = plain_classes
        self.is_required = is_required

    def finish(self, execution: Execution, path: ResponsePath, value: Any) -> Any:
        """Return JSON, or a coroutine that returns it. Raises: any error that is found without awaiting."""
        if type(value) not in self.plain_classes and is_awaitable(value):
            return self._await_value(execution, path, value)
        completed = self.complete(execution, path, value)
        return self._await_completed(execution, path, completed) if type(completed) is CoroutineType else completed

    async def _await_value(self, execution: Execution, path: ResponsePath, value: Awaitable[Any]) -> Any:
        try:
            completed = self.complete(execution, path, await value)
            return await completed if type(completed) is CoroutineType else completed
        except Exception as error:
            return self.handle_error(execution, path, error)

    async def _await_completed(self, execution: Execution, path: ResponsePath, completed: Awaitable[Any]) -> Any:
        try:
            return await completed
        except Exception as error:
            return self.handle_error(execution, path, error)

    def handle_error(self, execution: Execution, path: ResponsePath, error: Exception) -> None:
        """Record the error if null is allowed here. Raises: GraphQLError: null is not allowed."""
        located = locate_error(error, self.field.nodes, path)
        if self.is_required:
            raise located
        execution.add_error(located, path)


def complete_leaf(leaf_type: GraphQLLeafType) -> CompleteValue:
    """Return the completion of a nullable scalar or enum."""
    serialize = serializer(leaf_type)

    def complete(_execution: Execution, _path: ResponsePath, value: Any) -> Any:
        if isinstance(value, Exception):
            raise value
        return None if value is None or value is Undefined else serialize(value)

    return complete


def complete_non_null(field: CollectedField, inner: CompleteValue) -> CompleteValue:
    def complete(execution: Execution, path: ResponsePath, value: Any) -> Any:
        completed = inner(execution, path, value)
        if completed is None:
            raise _null_error(field)
        return completed

    return complete


def _null_error(field: CollectedField) -> TypeError:
    return TypeError(f"Cannot return null for non-nullable field {field.parent}.{field.field_name}.")


def complete_object(
    field: CollectedField,
    object_type: GraphQLObjectType,
    execute_fields: ExecuteFields,
    known_classes: frozenset[type],
    *,
    is_required: bool,
) -> CompleteValue:
    """Return the completion of an object. For instances of `known_classes`, `is_type_of` is not called."""
    is_type_of = object_type.is_type_of

    def complete(execution: Execution, path: ResponsePath, value: Any) -> Any:
        if type(value) in known_classes and not is_cast(value):
            return execute_fields(execution, value, path)
        if isinstance(value, Exception):
            raise value
        if value is None or value is Undefined:
            if is_required:
                raise _null_error(field)
            return None
        if is_type_of is not None:
            info: Any = LazyInfo(execution, field, path)
            belongs: Any = is_type_of(value, info)
            if is_awaitable(belongs):
                return complete_later(execution, path, value, belongs)
            if not belongs:
                raise type_error(value)
        return execute_fields(execution, value, path)

    async def complete_later(execution: Execution, path: ResponsePath, value: Any, belongs: Awaitable[Any]) -> Any:
        if not await belongs:
            raise type_error(value)
        completed = execute_fields(execution, value, path)
        return await completed if type(completed) is CoroutineType else completed

    def type_error(value: Any) -> GraphQLError:
        return GraphQLError(f"Expected value of type '{object_type}' but got: {inspect(value)}.", field.nodes)

    return complete


def complete_abstract(
    field: CollectedField,
    abstract_type: GraphQLAbstractType,
    completion_for: Callable[[GraphQLObjectType], CompleteValue],
    types_by_class: dict[type, GraphQLObjectType],
    resolve_type: Any,
) -> CompleteValue:
    """Return the completion of a union or interface.

    `completion_for` compiles the completion of an object type; it is called for the first object of the type.
    `types_by_class` contains the object types of classes whose instances are not passed to `resolve_type`.
    """
    completions: dict[type, CompleteValue] = {}

    def complete(execution: Execution, path: ResponsePath, value: Any) -> Any:
        completion = completions.get(type(value))
        if completion is not None and not is_cast(value):
            return completion(execution, path, value)
        if type(value) in types_by_class and not is_cast(value):
            completion = completions[type(value)] = completion_for(types_by_class[type(value)])
            return completion(execution, path, value)
        if isinstance(value, Exception):
            raise value
        if value is None or value is Undefined:
            return None
        type_name = resolve_type(value, LazyInfo(execution, field, path), abstract_type)
        if is_awaitable(type_name):
            return complete_later(execution, path, value, type_name)
        return completion_for(valid_type(execution, path, value, type_name))(execution, path, value)

    async def complete_later(execution: Execution, path: ResponsePath, value: Any, type_name: Awaitable[Any]) -> Any:
        object_type = valid_type(execution, path, value, await type_name)
        completed = completion_for(object_type)(execution, path, value)
        return await completed if type(completed) is CoroutineType else completed

    def valid_type(execution: Execution, path: ResponsePath, value: Any, type_name: Any) -> GraphQLObjectType:
        details = [FieldDetails(node, None) for node in field.nodes]
        return execution.executor().ensure_valid_runtime_type(
            type_name, abstract_type, details, execution.info(field, path), value
        )

    return complete


class CompleteList:
    """Completes the items of a nullable list. Items that must be awaited are awaited together."""

    __slots__ = ("_field", "_items", "_list_type")

    def __init__(
        self,
        field: CollectedField,
        list_type: GraphQLList[Any],
        complete_item: CompleteValue,
        plain_classes: frozenset[type],
    ) -> None:
        """`plain_classes` are classes whose instances are not awaitable."""
        self._field = field
        self._list_type = list_type
        self._items = ValueCompletion(
            field, complete_item, plain_classes, is_required=is_non_null_type(list_type.of_type)
        )

    def __call__(self, execution: Execution, path: ResponsePath, value: Any) -> Any:
        if type(value) is list:
            return self._complete(execution, path, value)
        if isinstance(value, Exception):
            raise value
        if value is None or value is Undefined:
            return None
        field = self._field
        if is_async_iterable(value):
            details = [FieldDetails(node, None) for node in field.nodes]
            info = execution.info(field, path)
            executor = execution.executor()
            return executor.complete_value(self._list_type, details, info, to_graphql_path(path), value, None)
        if is_iterable(value):
            return self._complete(execution, path, value)
        raise GraphQLError(f"Expected Iterable, but did not find one for field '{field.parent}.{field.field_name}'.")

    def _complete(self, execution: Execution, path: ResponsePath, value: Iterable[Any]) -> Any:
        results: list[Any] = []
        pending: list[int] = []
        items = iter(value)
        finish, handle_error = self._items.finish, self._items.handle_error
        try:
            for index, item in enumerate(items):
                item_path = (path, index, None)
                try:
                    completed = finish(execution, item_path, item)
                except Exception as error:
                    completed = handle_error(execution, item_path, error)
                if type(completed) is CoroutineType:
                    pending.append(index)
                results.append(completed)
        except Exception:
            execution.finish_in_background([*(results[index] for index in pending), *_remaining_awaitables(items)])
            raise
        return await_values(results, pending) if pending else results


def _remaining_awaitables(items: Iterable[Any]) -> list[Awaitable[Any]]:
    """Return the awaitables among the items that are left. An iterator that has raised yields no more items."""
    found: list[Awaitable[Any]] = []
    with suppress(Exception):  # only the error that is being raised is reported
        found.extend(item for item in items if is_awaitable(item))
    return found
