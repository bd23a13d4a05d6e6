"""Steps: each answers one place for one source.

A step catches what goes wrong at its place, for a nullable field answers null, and for one that is not raises the
located error to the object around it.
"""

from collections.abc import Awaitable
from operator import attrgetter
from types import CoroutineType
from typing import Any

from graphql import GraphQLLeafType, is_non_null_type
from graphql.pyutils import is_awaitable

from app.engine.compiler.arguments import Arguments
from app.engine.compiler.execution_state import Completion, Run, Step, Trail, located
from app.engine.compiler.field_collection import Place
from app.engine.compiler.leaf_types import exact_class, plain_classes, writer
from app.engine.compiler.resolvers import Call, Method, handled


class Answering:
    """What becomes of the value of one place: completed, awaited, or failed."""

    __slots__ = ("complete", "expected", "non_null", "place")

    def __init__(self, place: Place, complete: Completion, expected: frozenset[type]) -> None:
        """`expected`: classes whose objects do not wait."""
        self.place = place
        self.complete = complete
        self.expected = expected
        self.non_null = is_non_null_type(place.definition.type)

    def answer(self, run: Run, trail: Trail, value: Any) -> Any:
        """JSON, or a coroutine of it. Raises: whatever is wrong with the value at once."""
        if type(value) not in self.expected and is_awaitable(value):
            return self.later(run, trail, value)
        done = self.complete(run, trail, value)
        return self.guarded(run, trail, done) if type(done) is CoroutineType else done

    async def later(self, run: Run, trail: Trail, value: Awaitable[Any]) -> Any:
        try:
            done = self.complete(run, trail, await value)
            return await done if type(done) is CoroutineType else done
        except Exception as error:
            return self.failed(run, trail, error)

    async def guarded(self, run: Run, trail: Trail, done: Awaitable[Any]) -> Any:
        try:
            return await done
        except Exception as error:
            return self.failed(run, trail, error)

    def failed(self, run: Run, trail: Trail, error: Exception) -> None:
        """Null, where that is allowed. Raises: GraphQLError, where it is not."""
        told = located(error, self.place.nodes, trail)
        if self.non_null:
            raise told
        run.fail(told, trail)


def constant(text: str) -> Step:
    """For __typename: the type of a place is known beforehand."""
    return lambda _run, _source, _above: text


def attribute(answering: Answering, name: str, leaf: GraphQLLeafType | None) -> Step:
    """`leaf`: its type where that is a scalar or an enum, null or not."""
    get = attrgetter(name)
    key, parent = answering.place.response_name, answering.place.parent.name
    if leaf is None:
        return _attribute(answering, get, key, parent)
    exact = exact_class(leaf)
    if exact is not None:
        return _exact(answering, get, exact, key, parent)
    return _written(answering, get, leaf, key, parent)


def _attribute(answering: Answering, get: Any, key: str, parent: str) -> Step:
    def step(run: Run, source: Any, above: Trail | None) -> Any:
        trail = (above, key, parent)
        try:
            return answering.answer(run, trail, get(source))
        except Exception as error:
            return answering.failed(run, trail, error)

    return step


def _exact(answering: Answering, get: Any, exact: type, key: str, parent: str) -> Step:
    """Texts, ids and booleans are their own JSON; the trail of anything else is made when it is needed."""

    def step(run: Run, source: Any, above: Trail | None) -> Any:
        try:
            value = get(source)
            return value if type(value) is exact else answering.answer(run, (above, key, parent), value)
        except Exception as error:
            return answering.failed(run, (above, key, parent), error)

    return step


def _written(answering: Answering, get: Any, leaf: GraphQLLeafType, key: str, parent: str) -> Step:
    write, plain, is_nullable = writer(leaf), plain_classes(leaf), not answering.non_null

    def step(run: Run, source: Any, above: Trail | None) -> Any:
        try:
            value = get(source)
            if type(value) in plain:
                return write(value)
            if value is None and is_nullable:
                return None
            return answering.answer(run, (above, key, parent), value)
        except Exception as error:
            return answering.failed(run, (above, key, parent), error)

    return step


def called(answering: Answering, call: Call, arguments: Arguments | None) -> Step:
    """What graphql-core would call."""
    key, parent = answering.place.response_name, answering.place.parent.name

    def step(run: Run, source: Any, above: Trail | None) -> Any:
        trail = (above, key, parent)
        try:
            given = arguments(run.values) if arguments is not None else {}
            return answering.answer(run, trail, call(run, source, trail, given))
        except Exception as error:
            return answering.failed(run, trail, error)

    return step


def event(answering: Answering, arguments: Arguments | None) -> Step:
    """The field of a subscription, for what its generator has yielded: the source itself."""
    return called(answering, lambda _run, source, _trail, _arguments: source, arguments)


def method(answering: Answering, found: Method, arguments: Arguments | None) -> Step:
    """A method that is called directly."""
    if found.is_async:
        return _async_method(answering, found, arguments)
    return called(answering, _handling(answering.place, found) if found.handlers else found.call, arguments)


def _handling(place: Place, found: Method) -> Call:
    def call(run: Run, source: Any, trail: Trail, given: dict[str, Any]) -> Any:
        try:
            value = found.call(run, source, trail, given)
        except Exception as error:
            return handled(found, place, run, trail, error)
        return awaited(run, trail, value) if is_awaitable(value) else value

    async def awaited(run: Run, trail: Trail, value: Awaitable[Any]) -> Any:
        try:
            return await value
        except Exception as error:
            member = handled(found, place, run, trail, error)
            return await member if is_awaitable(member) else member

    return call


def _async_method(answering: Answering, found: Method, arguments: Arguments | None) -> Step:
    place, complete, failed = answering.place, answering.complete, answering.failed
    key, parent = place.response_name, place.parent.name
    call, has_handlers = found.call, bool(found.handlers)

    def step(run: Run, source: Any, above: Trail | None) -> Any:
        trail = (above, key, parent)
        try:
            given = arguments(run.values) if arguments is not None else {}
        except Exception as error:
            return failed(run, trail, error)
        return resolved(run, source, trail, given)

    async def resolved(run: Run, source: Any, trail: Trail, given: dict[str, Any]) -> Any:
        try:
            try:
                value = call(run, source, trail, given)
                if is_awaitable(value):
                    value = await value
            except Exception as error:
                if not has_handlers:
                    raise
                value = handled(found, place, run, trail, error)
                if is_awaitable(value):
                    value = await value
            done = complete(run, trail, value)
            return await done if type(done) is CoroutineType else done
        except Exception as error:
            return failed(run, trail, error)

    return step
