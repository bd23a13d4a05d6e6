"""Executes one request compiled and by graphql-core, and compares the responses byte for byte."""

import asyncio
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.auth.caller import Caller
from app.engine.context import RequestContext
from app.engine.execution import GraphQLEngine, GraphQLRequest, GraphQLResponse, OperationFailed

LOOP_TURNS = 40
"""More turns of the event loop than any field of the schemas waits."""
REQUEST_ID = "the-same-for-both"
"""It is the reference of masked errors."""


@dataclass
class ComparisonCounts:
    documents: int = 0
    valid: int = 0
    """Documents that were executed: parsed, validated, variables coerced."""
    with_errors: int = 0
    compiled: int = 0
    interpreted: dict[str, int] = field(default_factory=dict)

    @property
    def compiled_share(self) -> float:
        return self.compiled / (self.compiled + sum(self.interpreted.values()) or 1)

    def __str__(self) -> str:
        return (
            f"{self.documents:,} documents, {self.valid:,} executed, {self.with_errors:,} of them with errors; "
            f"{self.compiled_share:.1%} compiled, others by reason: {self.interpreted or 'none'}"
        )


class ExecutionComparison:
    """Two engines over one schema."""

    def __init__(
        self, schema: Any, *, resolver_calls: list[str] | None = None, hidden: re.Pattern[bytes] | None = None
    ) -> None:
        """`resolver_calls`: a log that resolvers write; it must be the same, too.

        `hidden`: parts of responses that may differ. With it errors are compared in any order, because the database
        decides which of two reads ends first.
        """
        self.compiled = GraphQLEngine(schema, introspection=True, compile_operations=True)
        self.interpreted = GraphQLEngine(schema, introspection=True)
        self.interpreted._documents = self.compiled._documents  # validate once for both: it takes most of the time
        self.counts = ComparisonCounts()
        self._resolver_calls = resolver_calls
        if resolver_calls is not None:
            resolver_calls.clear()
        self._hidden = hidden

    async def compare(self, request: GraphQLRequest, caller: Caller | None, state: Any = None) -> bytes:
        """The response. Raises: AssertionError: they differ."""
        compiled, expected = [
            await self._execute(engine, request, caller, state) for engine in (self.compiled, self.interpreted)
        ]
        assert compiled == expected, f"{request.query}\n\nvariables {request.variables}"
        self.counts.documents += 1
        counts = self.compiled.execution_counts
        self.counts.compiled = counts.compiled
        self.counts.interpreted = dict(counts.interpreted)
        if expected[1]:
            self.counts.valid += 1
            self.counts.with_errors += b'"errors":[{' in expected[0]
        return expected[0]

    async def _execute(
        self, engine: GraphQLEngine, request: GraphQLRequest, caller: Caller | None, state: Any
    ) -> tuple[bytes, bool, list[str]]:
        response = await engine.execute(request, RequestContext(caller, state, request_id=REQUEST_ID))
        return self._payload(response), response.ran, await self._finished_calls()

    def _payload(self, response: GraphQLResponse) -> bytes:
        if self._hidden is None:
            return orjson.dumps(response.payload)
        errors = sorted(response.payload.get("errors", ()), key=str)
        return self._hidden.sub(b"", orjson.dumps({**response.payload, "errors": errors}))

    async def compare_stream(self, request: GraphQLRequest, caller: Caller | None, state: Any = None) -> Any:
        """The items of a subscription. Raises: AssertionError: they differ."""
        compiled, expected = [
            await self._items(engine, request, caller, state) for engine in (self.compiled, self.interpreted)
        ]
        assert compiled == expected, f"{request.query}\n\nvariables {request.variables}"
        return expected

    async def _items(
        self, engine: GraphQLEngine, request: GraphQLRequest, caller: Caller | None, state: Any
    ) -> list[Any]:
        items: list[Any] = []
        try:
            context = RequestContext(caller, state, request_id=REQUEST_ID)
            items.extend([item async for item in engine.stream(request, context)])
        except OperationFailed as failed:
            items.append(orjson.dumps(failed.errors))
        return [*items, await self._finished_calls()]

    async def _finished_calls(self) -> list[str]:
        """The resolver calls, including those that go on in the background after an error has made them superfluous.

        Not to their end: Strawberry's data loader drops callers that join a batch whose first callers were cancelled.
        """
        if self._resolver_calls is None:
            return []
        for _ in range(LOOP_TURNS):
            await asyncio.sleep(0)
        for other in asyncio.all_tasks() - {asyncio.current_task()}:
            other.cancel()
            await asyncio.wait([other])
        calls = self._resolver_calls.copy()
        self._resolver_calls.clear()
        return calls


@contextmanager
def fault_log_disabled() -> Iterator[None]:
    """Masked faults are logged with their traceback, which takes longer than everything else in a comparison."""
    log = logging.getLogger("app.engine.errors")
    was_disabled = log.disabled
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = was_disabled
