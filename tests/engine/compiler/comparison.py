"""One request, answered by the plan and by the ordinary executor: the same, byte for byte."""

import asyncio
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.api.context import AppState
from app.auth.caller import Caller
from app.engine.context import RequestContext
from app.engine.execution import GraphQLEngine, GraphQLRequest, GraphQLResponse, OperationFailed

LOOP_TURNS = 40
"""Of the event loop: more than any field of the schema waits."""
REFERENCE = "the-same-for-both"
"""The request id of both: it is the reference of masked errors."""


@dataclass
class ComparisonCounts:
    """What a comparison came to."""

    documents: int = 0
    valid: int = 0
    """Executed: parsed, validated, variables coerced."""
    with_errors: int = 0
    compiled: int = 0
    ordinary: dict[str, int] = field(default_factory=dict)

    @property
    def share(self) -> float:
        return self.compiled / (self.compiled + sum(self.ordinary.values()) or 1)

    def __str__(self) -> str:
        return (
            f"{self.documents:,} documents, {self.valid:,} executed, {self.with_errors:,} of them with errors; "
            f"{self.share:.1%} compiled, ordinary: {self.ordinary or 'none'}"
        )


class ExecutionComparison:
    """One schema, executed both ways over the same documents."""

    def __init__(self, schema: Any, *, ran: list[str] | None = None, hidden: re.Pattern[bytes] | None = None) -> None:
        """`ran`: what the resolvers note there must be the same, too.

        `hidden`: parts of answers that may differ; where it is given, errors are compared in any order, for the
        database decides which of two reads is answered first.
        """
        self.compiled = GraphQLEngine(schema, introspection=True, compile_operations=True)
        self.interpreted = GraphQLEngine(schema, introspection=True)
        self.interpreted._documents = self.compiled._documents  # validated once for both: that is most of the time
        self.figures = ComparisonCounts()
        self._ran = ran
        if ran is not None:
            ran.clear()  # of what others made run before
        self._hidden = hidden

    async def compare(self, request: GraphQLRequest, viewer: Caller | None, house: AppState) -> bytes:
        """The answer. Raises: AssertionError: they differ."""
        compiled, expected = [
            await self._answer(execution, request, viewer, house) for execution in (self.compiled, self.interpreted)
        ]
        assert compiled == expected, f"{request.query}\n\nvariables {request.variables}"
        self.figures.documents += 1
        tally = self.compiled.execution_counts
        self.figures.compiled = tally.compiled
        self.figures.ordinary = dict(tally.interpreted)
        if expected[1]:
            self.figures.valid += 1
            self.figures.with_errors += b'"errors":[{' in expected[0]
        return expected[0]

    async def _answer(
        self, execution: GraphQLEngine, request: GraphQLRequest, viewer: Caller | None, house: AppState
    ) -> tuple[bytes, bool, list[str]]:
        answer = await execution.execute(request, RequestContext(viewer, house, request_id=REFERENCE))
        return self._payload(answer), answer.ran, await self._what_ran()

    def _payload(self, answer: GraphQLResponse) -> bytes:
        if self._hidden is None:
            return orjson.dumps(answer.payload)
        errors = sorted(answer.payload.get("errors", ()), key=str)
        return self._hidden.sub(b"", orjson.dumps({**answer.payload, "errors": errors}))

    async def compare_stream(self, request: GraphQLRequest, viewer: Caller | None, house: AppState) -> Any:
        """The items of a subscription. Raises: AssertionError: they differ."""
        compiled, expected = [
            await self._items(execution, request, viewer, house) for execution in (self.compiled, self.interpreted)
        ]
        assert compiled == expected, f"{request.query}\n\nvariables {request.variables}"
        return expected

    async def _items(
        self, execution: GraphQLEngine, request: GraphQLRequest, viewer: Caller | None, house: AppState
    ) -> list[Any]:
        items: list[Any] = []
        try:
            context = RequestContext(viewer, house, request_id=REFERENCE)
            items.extend([item async for item in execution.stream(request, context)])
        except OperationFailed as failed:
            items.append(orjson.dumps(failed.errors))
        return [*items, await self._what_ran()]

    async def _what_ran(self) -> list[str]:
        """With what goes on in the background for a while, because an error has made it superfluous.

        Not to its end: Strawberry's data loader forgets whoever joins a batch whose first callers were cancelled.
        """
        if self._ran is None:
            return []
        for _ in range(LOOP_TURNS):
            await asyncio.sleep(0)
        for other in asyncio.all_tasks() - {asyncio.current_task()}:
            other.cancel()
            await asyncio.wait([other])
        ran = self._ran.copy()
        self._ran.clear()
        return ran


@contextmanager
def fault_log_disabled() -> Iterator[None]:
    """Masked faults are logged with their traceback, which takes longer than everything else here."""
    log = logging.getLogger("app.engine.errors")
    was = log.disabled
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = was
