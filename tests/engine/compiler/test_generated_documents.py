"""Generated documents, each answered by its plan and by the ordinary executor: no difference.

Most are written from plain seeds, which is a hundred times as quick; Hypothesis writes some, so that it can show the
smallest document that goes wrong. `make soak` compares 30,000; SOAK_FIRST sets the first seed.
"""

import asyncio
import os
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.engine.execution import GraphQLRequest
from tests.engine.compiler import edge_case_schema
from tests.engine.compiler.comparison import ExecutionComparison, fault_log_disabled
from tests.engine.document_generator import DocumentGenerator
from tests.engine.sample_schema import OPERATOR, SERVICE, USER, state
from tests.soak import sized
from tests.worker_processes import Report

DOCUMENTS = sized(600, soak=30_000)
HYPOTHESIS_DOCUMENTS = max(DOCUMENTS // 24, 100)
PARTS = max(DOCUMENTS // 3_000, 1)
FIRST = int(os.environ.get("SOAK_FIRST", "0"))
SCHEMA = edge_case_schema.schema._schema
ROOTS = [*["query"] * 6, *["mutation"] * 3, "subscription"]
VIEWERS = [None, USER, SERVICE, OPERATOR]

# What one field has begun and another's error has made superfluous is never awaited, by graphql-core neither.
pytestmark = [
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


async def compare(twins: ExecutionComparison, chance: Random) -> None:
    keyword = chance.choice(ROOTS)
    viewer = chance.choice(VIEWERS)
    root = {"query": SCHEMA.query_type, "mutation": SCHEMA.mutation_type, "subscription": SCHEMA.subscription_type}
    kind = root[keyword]
    assert kind is not None
    request = DocumentGenerator(chance, SCHEMA, {}).request(kind, keyword)
    if keyword == "subscription":
        await twins.compare_stream(request, viewer, state)
    else:
        await twins.compare(request, viewer, state)


@pytest.fixture(scope="module")
def twins(report: Report) -> Iterator[ExecutionComparison]:
    """What is compared, with the figures of all parts."""
    twins = ExecutionComparison(SCHEMA, ran=edge_case_schema.resolver_calls)
    yield twins
    report(f"Generated: {twins.figures}")


@pytest.mark.parametrize("part", range(PARTS))
def test_generated_documents_are_answered_alike_and_nearly_all_by_plans(twins: ExecutionComparison, part: int) -> None:
    async def compare_all() -> None:
        first = FIRST + part * DOCUMENTS // PARTS
        for seed in range(first, first + DOCUMENTS // PARTS):
            try:
                await compare(twins, Random(seed))  # noqa: S311  what was written once is written again
            except AssertionError as difference:
                raise AssertionError(f"seed {seed}: {difference}") from difference

    with fault_log_disabled():
        asyncio.run(compare_all())

    figures = twins.figures
    assert figures.share >= 0.95
    assert figures.valid >= figures.documents * 0.8
    assert figures.with_errors >= figures.documents * 0.25
    assert figures.ordinary.keys() <= {"condition"}


@settings(
    max_examples=HYPOTHESIS_DOCUMENTS,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.randoms(use_true_random=False))
def test_hypothesis_finds_no_document_that_is_answered_differently(chance: Random) -> None:
    with fault_log_disabled():
        asyncio.run(compare(ExecutionComparison(SCHEMA, ran=edge_case_schema.resolver_calls), chance))


async def test_a_difference_is_found() -> None:
    """The comparison can fail: a plan that answers another document is noticed."""
    twins = ExecutionComparison(SCHEMA)
    asked, other = GraphQLRequest("{ scalars(number: 1) }"), GraphQLRequest("{ scalars(number: 2) }")
    await twins.compare(asked, None, state)
    await twins.compare(other, None, state)

    assert twins.compiled._cache is not None
    known = twins.compiled._cache._operations
    known[asked.query, None] = known[other.query, None]

    with pytest.raises(AssertionError, match="number: 1"):
        await twins.compare(asked, None, state)
