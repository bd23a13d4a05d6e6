"""Thousands of generated documents, each answered by its plan and by the ordinary executor: no difference.

Most are written from plain seeds, which is a hundred times as quick; Hypothesis writes some, so that it can show the
smallest document that goes wrong. SOAK_DOCUMENTS asks for more: `make soak` compares tens of thousands.
"""

import asyncio
import os
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.graphql.execution import Request
from tests.graphql.plans import menagerie
from tests.graphql.plans.comparing import Twins, silence
from tests.graphql.plans.writing import Author
from tests.graphql.toy import OPERATOR, SERVICE, USER, house
from tests.processes import Tell

DOCUMENTS = int(os.environ.get("SOAK_DOCUMENTS", "6000"))
HYPOTHESIS_DOCUMENTS = max(DOCUMENTS // 24, 200)
PARTS = 10
FIRST = int(os.environ.get("SOAK_FIRST", "0"))
SCHEMA = menagerie.schema._schema
ROOTS = [*["query"] * 6, *["mutation"] * 3, "subscription"]
VIEWERS = [None, USER, SERVICE, OPERATOR]

# What one field has begun and another's error has made superfluous is never awaited, by graphql-core neither.
pytestmark = [
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


async def compare(twins: Twins, chance: Random) -> None:
    keyword = chance.choice(ROOTS)
    viewer = chance.choice(VIEWERS)
    root = {"query": SCHEMA.query_type, "mutation": SCHEMA.mutation_type, "subscription": SCHEMA.subscription_type}
    kind = root[keyword]
    assert kind is not None
    request = Author(chance, SCHEMA, {}).request(kind, keyword)
    if keyword == "subscription":
        await twins.compare_stream(request, viewer, house)
    else:
        await twins.compare(request, viewer, house)


@pytest.fixture(scope="module")
def twins(tell: Tell) -> Iterator[Twins]:
    """What is compared, with the figures of all parts."""
    twins = Twins(SCHEMA, ran=menagerie.ran)
    yield twins
    tell(f"Generated: {twins.figures}")


@pytest.mark.parametrize("part", range(PARTS))
def test_generated_documents_are_answered_alike_and_nearly_all_by_plans(twins: Twins, part: int) -> None:
    async def compare_all() -> None:
        first = FIRST + part * DOCUMENTS // PARTS
        for seed in range(first, first + DOCUMENTS // PARTS):
            try:
                await compare(twins, Random(seed))  # noqa: S311  what was written once is written again
            except AssertionError as difference:
                raise AssertionError(f"seed {seed}: {difference}") from difference

    with silence():
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
    with silence():
        asyncio.run(compare(Twins(SCHEMA, ran=menagerie.ran), chance))


async def test_a_difference_is_found() -> None:
    """The comparison can fail: a plan that answers another document is noticed."""
    twins = Twins(SCHEMA)
    asked, other = Request("{ scalars(number: 1) }"), Request("{ scalars(number: 2) }")
    await twins.compare(asked, None, house)
    await twins.compare(other, None, house)

    assert twins.planned._plans is not None
    known = twins.planned._plans._known
    known[asked.query, None] = known[other.query, None]

    with pytest.raises(AssertionError, match="number: 1"):
        await twins.compare(asked, None, house)
