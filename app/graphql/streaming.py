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

from app.graphql.context import Context
from app.graphql.faults import sent
from app.graphql.plans.cache import Known, Plans
from app.graphql.plans.plan import Begun

Items = AsyncGenerator[bytes, None]
Errors = list[dict[str, Any]]
"""Why there are no items, as it is sent."""


async def planned(plans: Plans, known: Known, context: Context, given: Mapping[str, Any] | None) -> Items | Errors:
    """By the plan. Raises: NotUnderstood, counted, before anything has run."""
    begun = await plans.begin(known, context, given)
    return sent(begun, context) if isinstance(begun, list) else _planned_items(plans, known, begun, context)


async def ordinary(executor: Executor[Any], context: Context) -> Items | Errors:
    """By graphql-core, which has coerced the variables."""
    source = create_source_event_stream(executor)
    if isawaitable(source):
        source = await source
    if isinstance(source, ExecutionResult):
        return sent(source.errors or [], context)
    return _ordinary_items(executor, source, context)


def payload_of(result: ExecutionResult, context: Context) -> Mapping[str, Any]:
    """A result as it is sent, errors masked."""
    if result.errors:
        return {"data": result.data, "errors": sent(result.errors, context)}
    return {"data": result.data}


def told(fault: Exception, context: Context) -> Errors:
    """What a client is told when a subscription's own generator raises."""
    return sent([fault if isinstance(fault, GraphQLError) else GraphQLError(str(fault), original_error=fault)], context)


async def _planned_items(plans: Plans, known: Known, begun: Begun, context: Context) -> Items:
    """The events end when this does."""
    try:
        async for event in begun.events:
            item = plans.encoded_event(known, context, begun, event)
            if item is None:
                result = plans.execute_event(known, context.renewed(), begun, event)
                item = _encoded(result if isinstance(result, ExecutionResult) else await result, context)
            yield item
    finally:
        if isinstance(begun.events, AsyncGenerator):
            await begun.events.aclose()


async def _ordinary_items(executor: Executor[Any], source: AsyncIterable[Any], context: Context) -> Items:
    def executed(event: Executor[Any]) -> AwaitableOrValue[ExecutionResult]:
        event.context_value = event.context_value.renewed()
        return execute_subscription_event(event)

    async with aclosing(map_source_to_response_event(executor, source, executed)) as results:
        async for result in results:
            yield _encoded(result, context)


def _encoded(result: ExecutionResult, context: Context) -> bytes:
    return orjson.dumps(payload_of(result, context))
