"""One execution of a plan: its variables, its context, and the errors that it has met so far."""

from asyncio import gather
from collections.abc import Awaitable, Callable
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

from app.engine.compiler.field_collection import Place
from app.engine.compiler.input_coercion import Values

Trail = tuple["Trail | None", str | int, str | None]
"""Where a value stands in the answer: the trail above it, its key, the type that it is a field of (None in a list).

It equals graphql-core's Path, which a plan makes only of the trails of errors: a tuple costs a tenth of it.
"""
Step = Callable[["Run", Any, "Trail | None"], Any]
"""Answers one place for one source, whose trail is the third argument: JSON, or a coroutine of it."""
Completion = Callable[["Run", Trail, Any], Any]
"""Turns what a resolver gave at this trail into JSON, or a coroutine of it. Raises: whatever is wrong with it."""


class Operation:
    """What all executions of one operation share."""

    __slots__ = ("definition", "fragments", "hides_suggestions", "schema")

    def __init__(
        self,
        schema: GraphQLSchema,
        definition: OperationDefinitionNode,
        fragments: dict[str, FragmentDefinitionNode],
        *,
        hides_suggestions: bool,
    ) -> None:
        self.schema = schema
        self.definition = definition
        self.fragments = fragments
        self.hides_suggestions = hides_suggestions


class Run:
    """One execution. What only rare values need is made when it is asked for."""

    __slots__ = ("_background", "_errors", "_executor", "context", "operation", "root", "values")

    def __init__(self, operation: Operation, values: Values, context: Any, root: Any = None) -> None:
        self.operation = operation
        self.values = values
        self.context = context
        self.root = root
        self._errors: CollectedErrors | None = None
        self._executor: Executor[Any] | None = None
        self._background: set[Any] | None = None

    @property
    def errors(self) -> list[GraphQLError] | None:
        return self._errors.errors or None if self._errors is not None else None

    def fail(self, error: GraphQLError, trail: Trail | None) -> None:
        """Note an error; what stands below a place that is null already is left out."""
        self._collected().add(error, path_of(trail) if trail else None)

    def executor(self) -> Executor[Any]:
        """graphql-core's executor for this run, sharing its errors: for what the plan leaves to graphql-core."""
        if self._executor is None:
            operation = self.operation
            self._executor = StrawberryGraphQLCoreExecutionContext(
                operation.schema,
                operation.fragments,
                {name: FragmentDetails(fragment) for name, fragment in operation.fragments.items()},
                self.root,
                self.context,
                operation.definition,
                self.values.whole(),
                default_field_resolver,
                default_type_resolver,
                default_field_resolver,
                hide_suggestions=operation.hides_suggestions,
            )
            self._executor.collected_errors = self._collected()
        return self._executor

    def info(self, place: Place, trail: Trail) -> GraphQLResolveInfo[Any]:
        """graphql-core's info for this place; items of its list share it."""
        while isinstance(trail[1], int) and trail[0] is not None:
            trail = trail[0]
        return self.executor().build_resolve_info(place.definition, place.nodes, place.parent, path_of(trail))

    def settle(self, awaitables: list[Awaitable[Any]]) -> None:
        """See to it that what has begun ends, though nobody waits for it: its siblings have failed."""
        if not awaitables:
            return
        if self._background is None:
            self._background = set()
        future = gather(*awaitables, return_exceptions=True)
        self._background.add(future)
        future.add_done_callback(self._background.discard)

    def _collected(self) -> CollectedErrors:
        if self._errors is None:
            self._errors = CollectedErrors()
        return self._errors


def path_of(trail: Trail) -> Path:
    above = trail[0]
    return Path(path_of(above) if above is not None else None, trail[1], trail[2])


def located(error: Exception, nodes: list[FieldNode], trail: Trail) -> GraphQLError:
    """The error with its place in the document and in the answer, unless it has them already."""
    keys: list[str | int] = []
    above: Trail | None = trail
    while above is not None:
        keys.append(above[1])
        above = above[0]
    return located_error(error, nodes, keys[::-1])


async def fill(results: Any, keys: list[Any]) -> Any:
    """The dict or list with the coroutines at `keys` awaited: one by itself, several at once."""
    if len(keys) == 1:
        [key] = keys
        results[key] = await results[key]
    else:
        for key, value in zip(keys, await gather_with_cancel(*(results[key] for key in keys)), strict=True):
            results[key] = value
    return results
