"""Generated documents, each executed compiled and by graphql-core: the responses are equal.

Most documents are generated from plain seeds, which is a hundred times as fast as Hypothesis. Hypothesis generates
some, because it can shrink a failing document. `make soak` compares 30,000; SOAK_FIRST sets the first seed.
"""

import asyncio
import os
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.engine.execution import GraphQLRequest
from tests.engine.compiler import edge_case_schema
from tests.engine.compiler.comparison import ExecutionComparison, fault_log_disabled
from tests.engine.document_generator import DocumentGenerator
from tests.engine.sample_schema import OPERATOR, SERVICE, USER
from tests.soak import sized
from tests.worker_processes import Report

DOCUMENTS = sized(600, soak=30_000)
HYPOTHESIS_DOCUMENTS = max(DOCUMENTS // 24, 50)
FIRST = int(os.environ.get("SOAK_FIRST", "0"))
SCHEMA = edge_case_schema.schema._schema
ROOTS = [*["query"] * 6, *["mutation"] * 3, "subscription"]
CALLERS = [None, USER, SERVICE, OPERATOR]

# Neither executor awaits what an error in another field has made superfluous.
pytestmark = [
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


async def compare(comparison: ExecutionComparison, random: Random) -> None:
    keyword = random.choice(ROOTS)
    caller = random.choice(CALLERS)
    roots = {"query": SCHEMA.query_type, "mutation": SCHEMA.mutation_type, "subscription": SCHEMA.subscription_type}
    root_type = roots[keyword]
    assert root_type is not None
    request = DocumentGenerator(random, SCHEMA, {}).request(root_type, keyword)
    if keyword == "subscription":
        await comparison.compare_stream(request, caller)
    else:
        await comparison.compare(request, caller)


def test_generated_documents_have_equal_responses_and_nearly_all_are_compiled(report: Report) -> None:
    comparison = ExecutionComparison(SCHEMA, resolver_calls=edge_case_schema.resolver_calls)

    async def compare_all() -> None:
        for seed in range(FIRST, FIRST + DOCUMENTS):
            try:
                await compare(comparison, Random(seed))  # noqa: S311  reproducible, not secret
            except AssertionError as difference:
                raise AssertionError(f"seed {seed}: {difference}") from difference

    with fault_log_disabled():
        asyncio.run(compare_all())

    counts = comparison.counts
    report(f"Generated: {counts}")
    assert counts.compiled_share >= 0.95
    assert counts.valid >= counts.documents * 0.8
    assert counts.with_errors >= counts.documents * 0.25
    assert counts.interpreted.keys() <= {"condition"}


@settings(
    max_examples=HYPOTHESIS_DOCUMENTS,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.randoms(use_true_random=False))
def test_hypothesis_finds_no_document_with_different_responses(random: Random) -> None:
    with fault_log_disabled():
        asyncio.run(compare(ExecutionComparison(SCHEMA, resolver_calls=edge_case_schema.resolver_calls), random))


async def test_the_comparison_finds_a_difference() -> None:
    comparison = ExecutionComparison(SCHEMA)
    one, other = GraphQLRequest("{ scalars(number: 1) }"), GraphQLRequest("{ scalars(number: 2) }")
    await comparison.compare(one, None)
    await comparison.compare(other, None)

    operations = comparison.compiled._cache._operations
    operations[one.query, None] = operations[other.query, None]

    with pytest.raises(AssertionError, match="number: 1"):
        await comparison.compare(one, None)
