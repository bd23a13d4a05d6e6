"""The API's schema over real rows: all operations of this project are compiled, generated ones have equal responses."""

import ast
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from graphql import GraphQLError, OperationDefinitionNode, parse, validate

from app.auth.caller import Caller
from app.engine.compiler.analysis import NotCompilable
from app.engine.compiler.compiled_operation import CompiledOperation
from app.engine.context import RequestContext
from app.engine.execution import GraphQLRequest
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import lifecycle
from app.tasks.charging import charge_many
from app.tasks.rules import TaskStatus
from tests.api.conftest import ALICE, BOB, ENGINE, OPERATOR, READER, SERVICE, Api
from tests.engine.compiler.comparison import ExecutionComparison, fault_log_disabled
from tests.engine.document_generator import DocumentGenerator
from tests.factories import block_run_request, grant_credits, start_task, unique_id
from tests.soak import sized
from tests.worker_processes import Report

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SCHEMA = ENGINE.schema
CHECKOUT = Path(__file__).parents[2]
QUERIES = sized(150, soak=3_000)
MUTATIONS = sized(80, soak=1_500)
CALLERS = [ALICE, ALICE, SERVICE, SERVICE, OPERATOR, BOB, READER, None]
IDS = """
query ($taskId: ID!) {
  account { id balance { id }
    entries(first: 5) { edges { cursor node { id } } }
    grants(first: 5) { edges { cursor node { id } } } }
  task(taskId: $taskId) { id cost { id } blockRuns(first: 2) { edges { cursor node { id blockRunId } } } }
}
"""
DOCUMENT = re.compile(r"\s*(\{|query\b|mutation\b|subscription\b|fragment\b)")
READ_NOW = re.compile(rb'"asOf\d*":"[^"]+"')
"""The time of reading, which differs between two executions."""


def project_documents() -> Iterator[str]:
    """All strings in the code and the documentation that may be documents."""
    for folder in ("app", "tests", "bench", "examples"):
        for path in sorted((CHECKOUT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and DOCUMENT.match(node.value):
                    yield node.value
    for path in (CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))):
        text = path.read_text()
        yield from re.findall(r"```graphql\n(.*?)```", text, re.DOTALL)
        yield from re.findall(r'"query": *"((?:[^"\\]|\\.)*)"', text)


def operations(text: str) -> list[tuple[Any, OperationDefinitionNode]]:
    """The operations of a document; none, if it is not valid for the API's schema."""
    try:
        document = parse(text)
    except GraphQLError:
        return []
    if validate(SCHEMA, document):
        return []
    return [(document, node) for node in document.definitions if isinstance(node, OperationDefinitionNode)]


INTROSPECTION = {
    "{ __schema { queryType { name } } }",
    "query { __schema { queryType { name } } }",
    "{ __schema { types { fields { args { name } } } } }",
    '{ a: __typename ...F } fragment F on Query { __type(name: "Cat") { name } }',
}
"""The documents of tests of introspection, which graphql-core executes."""


def test_every_operation_of_this_project_is_compiled(report: Report) -> None:
    compiled, others = 0, []
    for text in dict.fromkeys(project_documents()):
        for document, operation in operations(text):
            try:
                CompiledOperation(SCHEMA, document, operation, hide_suggestions=False)
                compiled += 1
            except NotCompilable as reason:
                others.append((str(reason), text))

    report(f"Operations of this project: {compiled} compiled, {len(others)} not.")
    assert compiled >= 80
    assert others == [("introspection", text) for _, text in others]
    assert {text for _, text in others} == INTROSPECTION


@pytest.fixture
async def comparison(api: Api) -> AsyncIterator[ExecutionComparison]:
    with fault_log_disabled():
        yield ExecutionComparison(SCHEMA, hidden=READ_NOW)


@pytest.fixture
async def pools(api: Api, rate_cards: RateCardCache) -> dict[str, list[Any]]:
    """Create accounts, grants, block runs, and running, ended and stopped tasks. Returns: arguments for documents."""
    await grant_credits("alice", 300)
    await grant_credits("bob", 5)
    found = [await start_task("alice", agent_id=f"agent-{place % 2}") for place in range(4)]
    found.append(await start_task("alice", agent_id="agent-0", parent_task_id=found[0].task_id))
    poor = await start_task("bob", agent_id="agent-0")
    for task in found:
        runs = [block_run_request(task, block_run_id=unique_id("run")) for _ in range(2)]
        runs.append(block_run_request(task, block="AITextGeneratorBlock", settings={"model": "gpt-4-turbo"}))
        await charge_many([(task.account_id, run) for run in runs], rate_cards)
    await charge_many([(poor.account_id, block_run_request(poor, block_run_id="too-much"))], rate_cards)
    await lifecycle.finish_task(found[3].task_id, TaskStatus.COMPLETED)
    data = await api.data(ALICE, IDS, taskId=found[0].task_id)
    account, task = data["account"], data["task"]
    edges = [*account["entries"]["edges"], *account["grants"]["edges"], *task["blockRuns"]["edges"]]
    ids = [
        account["id"],
        account["balance"]["id"],
        task["id"],
        task["cost"]["id"],
        *(edge["node"]["id"] for edge in edges),
    ]
    return {
        "taskId": [*(task.task_id for task in found), poor.task_id, "nowhere", ""],
        "taskIds": [[task.task_id for task in found], [found[0].task_id, "nowhere"], []],
        "parentTaskId": [found[0].task_id, "nowhere", None],
        "agentId": ["agent-0", "agent-1", "nobody"],
        "ownerId": ["alice", "bob", "nobody", None],
        "blockRunId": [edge["node"]["blockRunId"] for edge in task["blockRuns"]["edges"]] + ["fresh", "too-much"],
        "block": ["ReplicateModelBlock", "AITextGeneratorBlock", "NoteBlock", "NoSuchBlock"],
        "settings": [None, {"model": "gpt-4-turbo"}, {"model": "unknown"}, [], 5],
        "id": [*ids, "garbage"],
        "grantId": [edge["node"]["id"] for edge in account["grants"]["edges"]] + ["garbage"],
        "first": [1, 2, 50, 0, 101],
        "after": [None, *(edge["cursor"] for edge in edges), "garbage"],
        "version": [1, None, 99],
        "idempotencyKey": [f"key-{number}" for number in range(5)],
        "reason": ["because", ""],
        "credits": [1, 5, 0, -1, 1_000_000],
        "items": [1, 10],
        "usd": ["0.01", "much"],
        "document": [{}, {"blocks": "wrong"}],
        "returnUrl": ["https://platform.example/credits", "nowhere"],
        "budget": [5, 50, 0, None],
    }  # fmt: skip


def generate_request(seed: int, keyword: str, pools: dict[str, list[Any]]) -> tuple[GraphQLRequest, Caller | None]:
    random = Random(seed)  # noqa: S311  reproducible, not secret
    root_type = SCHEMA.query_type if keyword == "query" else SCHEMA.mutation_type
    assert root_type is not None
    callers = CALLERS if keyword == "query" else [*CALLERS, OPERATOR, OPERATOR]  # operators may call most mutations
    generator = DocumentGenerator(random, SCHEMA, pools, error_probability=0.005)
    return generator.request(root_type, keyword), random.choice(callers)


async def test_generated_queries_over_real_rows_have_equal_responses(
    api: Api, comparison: ExecutionComparison, pools: dict[str, list[Any]], report: Report
) -> None:
    for seed in range(QUERIES):
        generated, caller = generate_request(seed, "query", pools)
        await comparison.compare(generated, caller, api.state)

    report(f"Queries over real rows: {comparison.counts}")
    assert comparison.counts.compiled_share >= 0.95
    assert comparison.counts.valid - comparison.counts.with_errors >= QUERIES // 4


async def test_generated_mutations_on_real_rows_have_equal_responses(
    api: Api, comparison: ExecutionComparison, pools: dict[str, list[Any]], report: Report
) -> None:
    """Each is executed once before, so that both executions find the same rows: a replay, or the same error."""
    for seed in range(MUTATIONS):
        generated, caller = generate_request(seed, "mutation", pools)
        await comparison.interpreted.execute(generated, RequestContext(caller, api.state))
        await comparison.compare(generated, caller, api.state)

    report(f"Mutations on real rows: {comparison.counts}")
    assert comparison.counts.compiled_share >= 0.95
    assert comparison.counts.valid - comparison.counts.with_errors >= MUTATIONS // 4
