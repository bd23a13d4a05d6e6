"""One request, answered by the plan and by the ordinary executor: the same, byte for byte."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.callers.rules import Viewer
from app.graphql.context import Context, House
from app.graphql.execution import Execution, OperationFailed, Request

REFERENCE = "the-same-for-both"
"""The request id of both: it is the reference of masked errors."""


@dataclass
class Figures:
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


class Twins:
    """One schema, executed both ways over the same documents."""

    def __init__(self, schema: Any, *, open_to_explorers: bool = True, ran: list[str] | None = None) -> None:
        """`ran`: what the resolvers note there must be the same, too."""
        self.planned = Execution(schema, open_to_explorers=open_to_explorers, plans=True)
        self.ordinary = Execution(schema, open_to_explorers=open_to_explorers)
        self.ordinary._documents = self.planned._documents  # validated once for both: that is most of the time
        self.figures = Figures()
        self._ran = ran if ran is not None else []

    async def compare(self, request: Request, viewer: Viewer | None, house: House) -> Any:
        """The answer. Raises: AssertionError: they differ."""
        compiled, expected = [
            await self._answer(execution, request, viewer, house) for execution in (self.planned, self.ordinary)
        ]
        assert compiled == expected, f"{request.query}\n\nvariables {request.variables}"
        self.figures.documents += 1
        tally = self.planned.tally
        self.figures.compiled = tally.compiled
        self.figures.ordinary = dict(tally.ordinary)
        answer = orjson.loads(expected[0])
        if isinstance(answer, dict) and "data" in answer:
            self.figures.valid += 1
            self.figures.with_errors += "errors" in answer
        return answer

    async def _answer(
        self, execution: Execution, request: Request, viewer: Viewer | None, house: House
    ) -> tuple[bytes, bool, list[str]]:
        self._ran.clear()
        answer = await execution.answer(request, Context(viewer, house, request_id=REFERENCE))
        await _until_all_is_done()
        return orjson.dumps(answer.payload), answer.ran, self._ran.copy()

    async def compare_stream(self, request: Request, viewer: Viewer | None, house: House) -> Any:
        """The items of a subscription. Raises: AssertionError: they differ."""
        compiled, expected = [
            await self._items(execution, request, viewer, house) for execution in (self.planned, self.ordinary)
        ]
        assert compiled == expected, f"{request.query}\n\nvariables {request.variables}"
        return expected

    async def _items(self, execution: Execution, request: Request, viewer: Viewer | None, house: House) -> list[Any]:
        self._ran.clear()
        items: list[Any] = []
        try:
            context = Context(viewer, house, request_id=REFERENCE)
            items.extend([orjson.dumps(item) async for item in execution.stream(request, context)])
        except OperationFailed as failed:
            items.append(orjson.dumps(failed.errors))
        await _until_all_is_done()
        return [*items, self._ran.copy()]


async def _until_all_is_done() -> None:
    """What an error has made superfluous goes on in the background, and is compared too."""
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)


@contextmanager
def silence() -> Iterator[None]:
    """Masked faults are logged with their traceback, which takes longer than everything else here."""
    log = logging.getLogger("app.graphql.faults")
    was = log.disabled
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = was
