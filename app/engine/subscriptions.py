"""Executes the operation of a subscription for each event, and returns the results as items in JSON.

Each item has its own context, so it contains no data that was loaded for an earlier item. The response to a
`SharedEvent` is encoded once for all subscribers with the same operation (`compiler.compiled_operation`).
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Mapping
from contextlib import aclosing
from inspect import isawaitable
from typing import Any, Final, TypeVar

import orjson
from graphql import (
    DocumentNode,
    ExecutionResult,
    Executor,
    GraphQLError,
    GraphQLSchema,
    create_source_event_stream,
    execute_subscription_event,
    map_source_to_response_event,
)
from graphql.pyutils import AwaitableOrValue
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext

from app.db import failures
from app.engine.compiler.compiled_operation import CompiledOperation, StartedSubscription
from app.engine.context import RequestContext
from app.engine.errors import format_errors
from app.engine.operations import ExecutionCounts

RETRY_SECONDS: Final = 1.0

T = TypeVar("T")
Items = AsyncGenerator[bytes, None]
Errors = list[dict[str, Any]]
"""The errors of a subscription that cannot start, in the form in which they are sent."""

log = logging.getLogger(__name__)


async def compiled_items(
    compiled: CompiledOperation,
    context: RequestContext[Any],
    variables: Mapping[str, Any] | None,
    counts: ExecutionCounts,
) -> Items | Errors:
    """Return the items of a subscription, executed by the compiled operation. `counts` counts each event.

    Raises: NotCompilable: no resolver has run.
    """
    started = await compiled.subscribe(context, variables)
    if isinstance(started, list):
        return format_errors(started, context)
    return _compiled_items(compiled, started, context, counts)


async def interpreted_items(
    schema: GraphQLSchema,
    document: DocumentNode,
    context: RequestContext[Any],
    *,
    variables: dict[str, Any] | None,
    operation_name: str | None,
    hide_suggestions: bool,
) -> Items | Errors:
    """Return the items of a subscription, executed by graphql-core."""
    executor = StrawberryGraphQLCoreExecutionContext.build(
        schema,
        document,
        context_value=context,
        raw_variable_values=variables,
        operation_name=operation_name,
        hide_suggestions=hide_suggestions,
    )
    if isinstance(executor, list):
        return format_errors(executor, context)
    source = create_source_event_stream(executor)
    if isawaitable(source):
        source = await source
    if isinstance(source, ExecutionResult):
        return format_errors(source.errors or [], context)
    return _interpreted_items(executor, source, context)


def response_payload(result: ExecutionResult, context: RequestContext[Any]) -> Mapping[str, Any]:
    """Return a result in the form in which it is sent."""
    if result.errors:
        return {"data": result.data, "errors": format_errors(result.errors, context)}
    return {"data": result.data}


def format_source_error(fault: Exception, context: RequestContext[Any]) -> Errors:
    """Return the errors to send when a subscription's resolver raises between two events."""
    error = fault if isinstance(fault, GraphQLError) else GraphQLError(str(fault), original_error=fault)
    return format_errors([error], context)


async def retry_until_available(read: Callable[[], Awaitable[T]]) -> T:
    """Call `read` and return its result. If the database cannot be reached, try again every second.

    So subscriptions do not end when the database is restarted.
    """
    while True:
        try:
            return await read()
        except Exception as fault:
            if not failures.is_database_failure(fault):
                raise
            log.warning("a subscription waits for the database: %s", fault)
        await asyncio.sleep(RETRY_SECONDS)


async def _compiled_items(
    compiled: CompiledOperation, started: StartedSubscription, context: RequestContext[Any], counts: ExecutionCounts
) -> Items:
    try:
        async for event in started.events:
            item = compiled.encode_event(context, started, event)
            if item is None:
                result = compiled.execute_event(context.for_next_item(), started, event)
                item = _encode(result if isinstance(result, ExecutionResult) else await result, context)
            counts.compiled += 1
            yield item
    finally:
        if isinstance(started.events, AsyncGenerator):
            await started.events.aclose()


async def _interpreted_items(
    executor: Executor[Any], source: AsyncIterable[Any], context: RequestContext[Any]
) -> Items:
    def execute_event(event: Executor[Any]) -> AwaitableOrValue[ExecutionResult]:
        event.context_value = event.context_value.for_next_item()
        return execute_subscription_event(event)

    async with aclosing(map_source_to_response_event(executor, source, execute_event)) as results:
        async for result in results:
            yield _encode(result, context)


def _encode(result: ExecutionResult, context: RequestContext[Any]) -> bytes:
    return orjson.dumps(response_payload(result, context))
