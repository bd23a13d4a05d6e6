"""How a subscription begins: its arguments are coerced by the plan, its field is subscribed to, its events follow.

    subscription ($owner: ID) { balance(ownerId: $owner) { available } }

comes to a **beginning**: read $owner, call what `Subscription.balance` subscribes by, see that events come of it. Each
event is then answered by the plan's steps, with the variables of the beginning.
"""

from collections.abc import AsyncIterable, Awaitable, Callable
from inspect import isawaitable
from typing import Any

from graphql import GraphQLError
from graphql.execution.execute import assert_event_stream

from app.engine.compiler.analysis import NotCompilable
from app.engine.compiler.arguments import arguments_of
from app.engine.compiler.execution_state import Run, Trail, located
from app.engine.compiler.field_collection import Place

Beginning = Callable[[Run], Awaitable[AsyncIterable[Any]]]
"""The events of a subscription for this run. Raises: GraphQLError with its place in document and answer."""


def beginning(place: Place, *, hides_suggestions: bool) -> Beginning:
    """How the one field of a subscription begins. Raises: NotUnderstood: nothing of ours subscribes to it."""
    subscribe = place.definition.subscribe
    if subscribe is None:
        raise NotCompilable("subscriber")
    arguments = arguments_of(place, hides_suggestions=hides_suggestions)
    trail: Trail = (None, place.response_name, place.parent.name)

    async def begin(run: Run) -> AsyncIterable[Any]:
        try:
            given = arguments(run.values) if arguments is not None else {}
            events: Any = subscribe(run.root, run.info(place, trail), **given)
            if isawaitable(events):
                events = await events
            found: AsyncIterable[Any] = assert_event_stream(events)
        except Exception as error:
            told: GraphQLError = located(error, place.nodes, trail)
            raise told from error
        return found

    return begin
