"""Completions: what a resolver gave, turned into JSON. Each raises what is wrong; the step around it catches that."""

from collections.abc import Awaitable, Callable
from types import CoroutineType
from typing import Any

from graphql import (
    GraphQLAbstractType,
    GraphQLError,
    GraphQLObjectType,
)
from graphql.execution.collect_fields import FieldDetails
from graphql.pyutils import Undefined, inspect, is_awaitable

from app.engine.compiler.execution_state import Completion, Run, Step, Trail, fill
from app.engine.compiler.field_collection import Place
from app.engine.compiler.infos import BareInfo
from app.engine.compiler.object_types import is_cast

NamedSteps = list[tuple[str, Step]]
Fields = Callable[[Run, Any, Trail | None], Any]
"""Answers all places of an object: a dict, or a coroutine of it."""


def together(steps: NamedSteps) -> Fields:
    """All steps are begun in order, then awaited together."""

    def fields(run: Run, source: Any, trail: Trail | None) -> Any:
        results: dict[str, Any] = {}
        waiting: list[str] = []
        try:
            for name, step in steps:
                results[name] = value = step(run, source, trail)
                if type(value) is CoroutineType:
                    waiting.append(name)
        except Exception:
            run.settle([results[name] for name in waiting])
            raise
        return fill(results, waiting) if waiting else results

    return fields


def one_by_one(steps: NamedSteps) -> Fields:
    """For the root of a mutation: each step has ended before the next begins."""

    def fields(run: Run, source: Any, trail: Trail | None) -> Any:
        results: dict[str, Any] = {}
        for place, (name, step) in enumerate(steps):
            results[name] = value = step(run, source, trail)
            if type(value) is CoroutineType:
                return rest(run, source, results, place)
        return results

    async def rest(run: Run, source: Any, results: dict[str, Any], place: int) -> dict[str, Any]:
        name = steps[place][0]
        results[name] = await results[name]
        for name, step in steps[place + 1 :]:
            value = step(run, source, None)
            results[name] = await value if type(value) is CoroutineType else value
        return results

    return fields


def non_null(place: Place, inner: Completion) -> Completion:
    def complete(run: Run, trail: Trail, value: Any) -> Any:
        done = inner(run, trail, value)
        if done is None:
            raise null_refused(place)
        return done

    return complete


def null_refused(place: Place) -> TypeError:
    return TypeError(f"Cannot return null for non-nullable field {place.parent}.{place.field_name}.")


def object_completion(
    place: Place, kind: GraphQLObjectType, fields: Fields, own: frozenset[type], *, is_required: bool
) -> Completion:
    """`own`: classes whose objects need not be asked whether they are of this type."""
    is_type_of = kind.is_type_of

    def complete(run: Run, trail: Trail, value: Any) -> Any:
        if type(value) in own and not is_cast(value):
            return fields(run, value, trail)
        if isinstance(value, Exception):
            raise value
        if value is None or value is Undefined:
            if is_required:
                raise null_refused(place)
            return None
        if is_type_of is not None:
            info: Any = BareInfo(run, place, trail)
            belongs: Any = is_type_of(value, info)
            if is_awaitable(belongs):
                return once_known(run, trail, value, belongs)
            if not belongs:
                raise wrong(value)
        return fields(run, value, trail)

    async def once_known(run: Run, trail: Trail, value: Any, belongs: Awaitable[Any]) -> Any:
        if not await belongs:
            raise wrong(value)
        done = fields(run, value, trail)
        return await done if type(done) is CoroutineType else done

    def wrong(value: Any) -> GraphQLError:
        return GraphQLError(f"Expected value of type '{kind}' but got: {inspect(value)}.", place.nodes)

    return complete


def abstract_completion(
    place: Place,
    kind: GraphQLAbstractType,
    completion_of: Callable[[GraphQLObjectType], Completion],
    sure: dict[type, GraphQLObjectType],
    resolve_type: Any,
) -> Completion:
    """`completion_of`: made when the first object of a type is met. `sure`: classes that need not be asked."""
    known: dict[type, Completion] = {}

    def complete(run: Run, trail: Trail, value: Any) -> Any:
        completion = known.get(type(value))
        if completion is not None and not is_cast(value):
            return completion(run, trail, value)
        if type(value) in sure and not is_cast(value):
            completion = known[type(value)] = completion_of(sure[type(value)])
            return completion(run, trail, value)
        if isinstance(value, Exception):
            raise value
        if value is None or value is Undefined:
            return None
        named = resolve_type(value, BareInfo(run, place, trail), kind)
        if is_awaitable(named):
            return once_known(run, trail, value, named)
        return completion_of(valid(run, trail, value, named))(run, trail, value)

    async def once_known(run: Run, trail: Trail, value: Any, named: Awaitable[Any]) -> Any:
        done = completion_of(valid(run, trail, value, await named))(run, trail, value)
        return await done if type(done) is CoroutineType else done

    def valid(run: Run, trail: Trail, value: Any, named: Any) -> GraphQLObjectType:
        details = [FieldDetails(node, None) for node in place.nodes]
        return run.executor().ensure_valid_runtime_type(named, kind, details, run.info(place, trail), value)

    return complete
