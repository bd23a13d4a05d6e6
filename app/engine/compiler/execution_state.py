"""The state of one execution of a compiled operation: its variables, its context, and the errors so far."""

from asyncio import gather
from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import Any

from graphql import (
    FieldNode,
    FragmentDefinitionNode,
    GraphQLError,
    GraphQLResolveInfo,
    GraphQLSchema,
    OperationDefinitionNode,
    located_error,
)
from graphql.execution.collect_fields import FragmentDetails
from graphql.execution.executor import CollectedErrors, Executor, default_field_resolver, default_type_resolver
from graphql.pyutils import Path, gather_with_cancel
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext
from strawberry.types.field import StrawberryField
from strawberry.types.info import Info

from app.engine.compiler.analysis import CollectedField
from app.engine.compiler.input_coercion import CoercedVariables

ResponsePath = tuple["ResponsePath | None", str | int, str | None]
"""The position of a value in the response: the outer path, the key, and the name of the type that has the field.

The name is None for a list item. The tuple corresponds to graphql-core's Path, which is created only if an error or an
info needs it: a tuple takes a tenth of the time.
"""
ExecuteField = Callable[["Execution", Any, "ResponsePath | None"], Any]
"""Executes one field of an object, and returns JSON or a coroutine that returns it.

The arguments are the execution, the object, and the path of the object.
"""
CompleteValue = Callable[["Execution", ResponsePath, Any], Any]
"""Converts a resolved value to JSON, or to a coroutine that returns it. Raises: any error in the value.

The arguments are the execution, the path of the value, and the value.
"""


class Operation:
    """The values that all executions of one operation share."""

    __slots__ = ("definition", "fragments", "hide_suggestions", "schema")

    def __init__(
        self,
        schema: GraphQLSchema,
        definition: OperationDefinitionNode,
        fragments: dict[str, FragmentDefinitionNode],
        *,
        hide_suggestions: bool,
    ) -> None:
        self.schema = schema
        self.definition = definition
        self.fragments = fragments
        self.hide_suggestions = hide_suggestions


class Execution:
    """The state of one execution. Objects that are rarely needed are created on demand."""

    __slots__ = ("_background", "_errors", "_executor", "context", "operation", "root", "variables")

    def __init__(self, operation: Operation, variables: CoercedVariables, context: Any, root: Any = None) -> None:
        """`root` is the source of the root fields. In a subscription it is the event."""
        self.operation = operation
        self.variables = variables
        self.context = context
        self.root = root
        self._errors: CollectedErrors | None = None
        self._executor: Executor[Any] | None = None
        self._background: set[Any] | None = None

    @property
    def errors(self) -> list[GraphQLError] | None:
        return self._errors.errors or None if self._errors is not None else None

    def add_error(self, error: GraphQLError, path: ResponsePath | None) -> None:
        """Record an error. Errors below a position that is already null are dropped, as in graphql-core."""
        self._collected_errors().add(error, to_graphql_path(path) if path else None)

    def executor(self) -> Executor[Any]:
        """Return graphql-core's executor for this execution. It completes values that the compiler does not support.

        It adds its errors to the same list.
        """
        if self._executor is None:
            operation = self.operation
            self._executor = StrawberryGraphQLCoreExecutionContext(
                schema=operation.schema,
                fragment_definitions=operation.fragments,
                fragments={name: FragmentDetails(fragment) for name, fragment in operation.fragments.items()},
                root_value=self.root,
                context_value=self.context,
                operation=operation.definition,
                variable_values=self.variables.for_graphql_core(),
                field_resolver=default_field_resolver,
                type_resolver=default_type_resolver,
                subscribe_field_resolver=default_field_resolver,
                hide_suggestions=operation.hide_suggestions,
            )
            self._executor.collected_errors = self._collected_errors()
        return self._executor

    def info(self, field: CollectedField, path: ResponsePath) -> GraphQLResolveInfo[Any]:
        """Return graphql-core's info for this field. For an item of a list it has the path of the field."""
        while isinstance(path[1], int) and path[0] is not None:
            path = path[0]
        return self.executor().build_resolve_info(field.definition, field.nodes, field.parent, to_graphql_path(path))

    def finish_in_background(self, awaitables: list[Awaitable[Any]]) -> None:
        """Let running resolvers finish in the background.

        Their results are not needed, because another field has failed.
        """
        if not awaitables:
            return
        if self._background is None:
            self._background = set()
        future = gather(*awaitables, return_exceptions=True)
        self._background.add(future)  # asyncio keeps only a weak reference
        future.add_done_callback(self._background.discard)

    def _collected_errors(self) -> CollectedErrors:
        if self._errors is None:
            self._errors = CollectedErrors()
        return self._errors


class LazyInfo:
    """graphql-core's info. Only the context exists from the beginning; the rest is created on first access."""

    __slots__ = ("_execution", "_field", "_path", "context")

    def __init__(self, execution: Execution, field: CollectedField, path: ResponsePath) -> None:
        self.context = execution.context
        self._execution = execution
        self._field = field
        self._path = path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._execution.info(self._field, self._path), name)


class LazyStrawberryInfo(Info[Any, Any]):
    """Strawberry's info, also created on first access."""

    def __init__(
        self, execution: Execution, field: CollectedField, path: ResponsePath, declaration: StrawberryField
    ) -> None:
        self._execution = execution
        self._collected_field = field
        self._path = path
        self._field = declaration

    @property
    def context(self) -> Any:
        return self._execution.context

    @cached_property
    def _raw_info(self) -> Any:  # type: ignore[override]  # an attribute in Strawberry
        return self._execution.info(self._collected_field, self._path)


def to_graphql_path(path: ResponsePath) -> Path:
    outer = path[0]
    return Path(to_graphql_path(outer) if outer is not None else None, path[1], path[2])


def locate_error(error: Exception, nodes: list[FieldNode], path: ResponsePath) -> GraphQLError:
    """Return the error with its locations in the document and its path in the response, unless it already has them."""
    keys: list[str | int] = []
    outer: ResponsePath | None = path
    while outer is not None:
        keys.append(outer[1])
        outer = outer[0]
    return located_error(error, nodes, keys[::-1])


async def await_values(results: Any, keys: list[Any]) -> Any:
    """Replace the coroutines at `keys` of a dict or list by their results. One is awaited, several are gathered."""
    if len(keys) == 1:
        [key] = keys
        results[key] = await results[key]
    else:
        for key, value in zip(keys, await gather_with_cancel(*(results[key] for key in keys)), strict=True):
            results[key] = value
    return results
