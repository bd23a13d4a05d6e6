"""Lists: each item is completed at its index; those that wait are awaited together."""

from collections.abc import Awaitable, Iterable
from contextlib import suppress
from types import CoroutineType
from typing import Any

from graphql import GraphQLError, GraphQLList, is_non_null_type
from graphql.execution.collect_fields import FieldDetails
from graphql.pyutils import Undefined, is_async_iterable, is_awaitable, is_iterable

from app.engine.compiler.execution_state import Completion, Run, Trail, fill, located, path_of
from app.engine.compiler.field_collection import Place


class ListCompletion:
    """The completion of a nullable list."""

    __slots__ = ("_complete", "_is_required", "_kind", "_place", "_plain")

    def __init__(self, place: Place, kind: GraphQLList[Any], complete: Completion, plain: frozenset[type]) -> None:
        """`complete`: for an item. `plain`: classes whose objects do not wait."""
        self._place = place
        self._kind = kind
        self._complete = complete
        self._plain = plain
        self._is_required = is_non_null_type(kind.of_type)

    def __call__(self, run: Run, trail: Trail, value: Any) -> Any:
        if type(value) is list:
            return self._items(run, trail, value)
        if isinstance(value, Exception):
            raise value
        if value is None or value is Undefined:
            return None
        if is_async_iterable(value):
            return self._left_to_graphql_core(run, trail, value)
        if is_iterable(value):
            return self._items(run, trail, value)
        place = self._place
        raise GraphQLError(f"Expected Iterable, but did not find one for field '{place.parent}.{place.field_name}'.")

    def _items(self, run: Run, trail: Trail, value: Iterable[Any]) -> Any:
        results: list[Any] = []
        waiting: list[int] = []
        rest = iter(value)
        try:
            for index, one in enumerate(rest):
                done = self._item(run, (trail, index, None), one)
                if type(done) is CoroutineType:
                    waiting.append(index)
                results.append(done)
        except Exception:
            run.settle([*(results[index] for index in waiting), *_awaitable(rest)])
            raise
        return fill(results, waiting) if waiting else results

    def _item(self, run: Run, trail: Trail, one: Any) -> Any:
        if type(one) not in self._plain and is_awaitable(one):
            return self._later(run, trail, one)
        try:
            done = self._complete(run, trail, one)
        except Exception as error:
            return self._failed(run, trail, error)
        return self._guarded(run, trail, done) if type(done) is CoroutineType else done

    async def _later(self, run: Run, trail: Trail, one: Awaitable[Any]) -> Any:
        try:
            done = self._complete(run, trail, await one)
            return await done if type(done) is CoroutineType else done
        except Exception as error:
            return self._failed(run, trail, error)

    async def _guarded(self, run: Run, trail: Trail, done: Awaitable[Any]) -> Any:
        try:
            return await done
        except Exception as error:
            return self._failed(run, trail, error)

    def _failed(self, run: Run, trail: Trail, error: Exception) -> None:
        told = located(error, self._place.nodes, trail)
        if self._is_required:
            raise told
        run.fail(told, trail)

    def _left_to_graphql_core(self, run: Run, trail: Trail, value: Any) -> Any:
        details = [FieldDetails(node, None) for node in self._place.nodes]
        info = run.info(self._place, trail)
        return run.executor().complete_value(self._kind, details, info, path_of(trail), value, None)


def _awaitable(rest: Iterable[Any]) -> list[Awaitable[Any]]:
    """What waits among the items that were not reached; an iterator that has failed has no more."""
    found: list[Awaitable[Any]] = []
    with suppress(Exception):  # the error that brought us here is the one that is told
        found.extend(item for item in rest if is_awaitable(item))
    return found
