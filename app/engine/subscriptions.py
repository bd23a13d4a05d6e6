"""The items of a subscription as JSON, one for each event: by its plan, or by graphql-core's executor.

Each item has a context of its own, so that none is answered from what an earlier one loaded. What many subscribers are
given is encoded once for all who ask the same of it (`plans.sharing`).
"""

from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from contextlib import aclosing
from inspect import isawaitable
from typing import Any

import orjson
from graphql import (
    ExecutionResult,
    Executor,
    GraphQLError,
    create_source_event_stream,
    execute_subscription_event,
    map_source_to_response_event,
)
from graphql.pyutils import AwaitableOrValue

from app.api.context import Context
from app.engine.compiler.cache import OperationCache, PreparedOperation
from app.engine.compiler.compiled_operation import StartedSubscription
from app.engine.errors import format_errors

Items = AsyncGenerator[bytes, None]
Errors = list[dict[str, Any]]
"""Why there are no items, as it is sent."""


async def compiled_items(
    plans: OperationCache, known: PreparedOperation, context: Context, given: Mapping[str, Any] | None
) -> Items | Errors:
    """By the plan. Raises: NotUnderstood, counted, before anything has run."""
    begun = await plans.subscribe(known, context, given)
    return format_errors(begun, context) if isinstance(begun, list) else _planned_items(plans, known, begun, context)


async def interpreted_items(executor: Executor[Any], context: Context) -> Items | Errors:
    """By graphql-core, which has coerced the variables."""
    source = create_source_event_stream(executor)
    if isawaitable(source):
        source = await source
    if isinstance(source, ExecutionResult):
        return format_errors(source.errors or [], context)
    return _ordinary_items(executor, source, context)


def response_payload(result: ExecutionResult, context: Context) -> Mapping[str, Any]:
    """A result as it is sent, errors masked."""
    if result.errors:
        return {"data": result.data, "errors": format_errors(result.errors, context)}
    return {"data": result.data}


def format_subscription_fault(fault: Exception, context: Context) -> Errors:
    """What a client is told when a subscription's own generator raises."""
    return format_errors(
        [fault if isinstance(fault, GraphQLError) else GraphQLError(str(fault), original_error=fault)], context
    )


async def _planned_items(
    plans: OperationCache, known: PreparedOperation, begun: StartedSubscription, context: Context
) -> Items:
    """The events end when this does."""
    try:
        async for event in begun.events:
            item = plans.encode_event(known, context, begun, event)
            if item is None:
                result = plans.execute_event(known, context.for_next_item(), begun, event)
                item = _encoded(result if isinstance(result, ExecutionResult) else await result, context)
            yield item
    finally:
        if isinstance(begun.events, AsyncGenerator):
            await begun.events.aclose()


async def _ordinary_items(executor: Executor[Any], source: AsyncIterable[Any], context: Context) -> Items:
    def executed(event: Executor[Any]) -> AwaitableOrValue[ExecutionResult]:
        event.context_value = event.context_value.for_next_item()
        return execute_subscription_event(event)

    async with aclosing(map_source_to_response_event(executor, source, executed)) as results:
        async for result in results:
            yield _encoded(result, context)


def _encoded(result: ExecutionResult, context: Context) -> bytes:
    return orjson.dumps(response_payload(result, context))
