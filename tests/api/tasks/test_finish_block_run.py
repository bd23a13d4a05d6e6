"""The mutation finishBlockRun: results, errors, permissions."""

from typing import Any

import pytest

from app.pricing.rate_card_cache import RateCardCache
from tests.api.conftest import ALICE, OPERATOR, READER, SERVICE, Api
from tests.factories import charge_block_run, grant_credits, publish_rate_cards, start_task

pytestmark = pytest.mark.anyio

PRICES: dict[str, Any] = {
    "blocks": [
        {"block": "ReplicateModelBlock", "credits": 10},
        {"block": "OwnBlock", "credits": 5, "outcomes": {"failed": "nothing", "cancelled": "full"}},
    ],
    "outcomes": {"failed": {"fee": 3}},
}

FINISH = """mutation($input: FinishBlockRunInput!) { finishBlockRun(input: $input) { __typename
    ... on UserError { message }
    ... on FinishBlockRunSuccess { reversed replayed entry { kind credits reason } task { cost { total reversed } }
        blockRun { blockRunId cost outcome finishedAt } balance { available } }
    ... on TaskNotFoundError { taskId } ... on BlockRunNotFoundError { taskId blockRunId }
    ... on IdempotencyConflictError { key } } }"""


@pytest.fixture
async def prices(api: Api, rate_cards: RateCardCache) -> RateCardCache:
    await grant_credits("alice", 100)
    await publish_rate_cards(PRICES)
    await rate_cards.refresh()
    return rate_cards


async def finish(api: Api, task_id: str, outcome: str = "FAILED", run: str = "run") -> Any:
    input = {"taskId": task_id, "blockRunId": run, "outcome": outcome}
    return (await api.data(SERVICE, FINISH, input=input))["finishBlockRun"]


async def test_finishing_returns_the_credits_that_the_outcome_does_not_cost_once(
    api: Api, prices: RateCardCache
) -> None:
    task = await start_task()
    await charge_block_run(task, prices, block_run_id="run")

    first, again = [await finish(api, task.task_id) for _ in range(2)]

    at = first["blockRun"].pop("finishedAt")
    assert first == {
        "__typename": "FinishBlockRunSuccess",
        "reversed": 7,
        "replayed": False,
        "entry": {"kind": "REVERSAL", "credits": 7, "reason": "the block run ended as FAILED"},
        "task": {"cost": {"total": 3, "reversed": 7}},
        "blockRun": {"blockRunId": "run", "cost": 10, "outcome": "FAILED"},
        "balance": {"available": 97},
    }
    assert again["blockRun"].pop("finishedAt") == at
    assert again == first | {"replayed": True}


async def test_each_error_of_finishing_has_its_fields(api: Api, prices: RateCardCache) -> None:
    task = await start_task()
    await charge_block_run(task, prices, block_run_id="run")
    await finish(api, task.task_id)

    nowhere = await finish(api, "nowhere")
    nothing = await finish(api, task.task_id, run="nothing")
    otherwise = await finish(api, task.task_id, "CANCELLED")

    assert (nowhere["__typename"], nowhere["taskId"]) == ("TaskNotFoundError", "nowhere")
    assert (nothing["__typename"], nothing["taskId"], nothing["blockRunId"]) == (
        "BlockRunNotFoundError", task.task_id, "nothing",
    )  # fmt: skip
    assert (otherwise["__typename"], otherwise["key"]) == ("IdempotencyConflictError", "run")


async def test_users_and_read_only_keys_may_not_finish_a_block_run(api: Api, prices: RateCardCache) -> None:
    task = await start_task()
    await charge_block_run(task, prices, block_run_id="run")
    input = {"taskId": task.task_id, "blockRunId": "run", "outcome": "FAILED"}
    for caller in (ALICE, READER):
        assert (await api.error(caller, FINISH, input=input))[0] == "FORBIDDEN"


async def test_the_rate_card_lists_outcome_prices(api: Api, prices: RateCardCache) -> None:
    found = await api.data(
        OPERATOR, "{ rateCard { outcomes { outcome atMost } blocks { block outcomes { atMost } } } }"
    )

    assert found["rateCard"]["outcomes"] == [{"outcome": "FAILED", "atMost": 3}]
    assert [(one["block"], one["outcomes"]) for one in found["rateCard"]["blocks"]] == [
        ("ReplicateModelBlock", []),
        ("OwnBlock", [{"atMost": 0}, {"atMost": None}]),
    ]


async def test_an_unfinished_block_run_has_no_outcome(api: Api, prices: RateCardCache) -> None:
    task = await start_task()
    await charge_block_run(task, prices)

    read = "query($id: ID!) { task(taskId: $id) { blockRuns { edges { node { outcome finishedAt } } } } }"
    [edge] = (await api.data(ALICE, read, id=task.task_id))["task"]["blockRuns"]["edges"]

    assert edge["node"] == {"outcome": None, "finishedAt": None}
