"""The mutations that charge, as an executor sends them."""

from typing import Any

import pytest

from app.db import pools
from app.engine.errors import ACCOUNT_LOCKED, DATABASE_UNAVAILABLE, OPERATION_TIMED_OUT
from app.tasks import charging, stop_and_resume
from app.tasks.rules import TaskState
from tests.api.conftest import ALICE, BOB, OPERATOR, READER, SERVICE, Api
from tests.conftest import LEDGER_KEY
from tests.factories import grant_credits, start_task, unique_id

pytestmark = pytest.mark.anyio

CHARGE = """
mutation Charge($input: ChargeInput!) {
  charge(input: $input) {
    __typename
    ... on ChargeSuccess {
      cost replayed signature: __typename
      entry { seq kind credits balanceAfter draws { credits grant { remaining } } }
      blockRun { blockRunId block model rule rateCardVersion }
      task { taskId blockRunCount status
        cost { total byBlock { block credits count } byModel { model credits count } } }
      balance { available version status }
    }
    ... on InsufficientCreditsError { required available shortfall balance { available } }
    ... on UserError { message }
  }
}
"""


def an_input(task_id: str, block_run_id: str = "run", block: str = "ReplicateModelBlock", **more: object) -> object:
    return {"taskId": task_id, "blockRunId": block_run_id, "block": block} | more


async def test_a_charge_returns_entry_block_run_task_and_balance(api: Api) -> None:
    await grant_credits("alice", 60)
    task = await start_task("alice")
    run = an_input(task.task_id, block="AITextGeneratorBlock", settings={"model": "gpt-4-turbo", "prompt": "secret"})
    found = (await api.data(SERVICE, CHARGE, input=run))["charge"]
    assert found == {
        "__typename": "ChargeSuccess",
        "signature": "ChargeSuccess",
        "cost": 10,
        "replayed": False,
        "entry": {
            "seq": 2,
            "kind": "CHARGE",
            "credits": -10,
            "balanceAfter": 50,
            "draws": [{"credits": 10, "grant": {"remaining": 50}}],
        },
        "blockRun": {
            "blockRunId": "run",
            "block": "AITextGeneratorBlock",
            "model": "gpt-4-turbo",
            "rule": {"when": {"model": "gpt-4-turbo"}, "credits": 10},
            "rateCardVersion": 1,
        },
        "task": {
            "taskId": task.task_id,
            "blockRunCount": 1,
            "status": "RUNNING",
            "cost": {
                "total": 10,
                "byBlock": [{"block": "AITextGeneratorBlock", "credits": 10, "count": 1}],
                "byModel": [{"model": "gpt-4-turbo", "credits": 10, "count": 1}],
            },
        },
        "balance": {"available": 50, "version": 2, "status": "OK"},
    }
    again = (await api.data(SERVICE, CHARGE, input=run))["charge"]
    assert again == found | {"replayed": True}


async def test_an_unpaid_charge_reports_the_shortfall(api: Api) -> None:
    await grant_credits("alice", 7)
    task = await start_task("alice")
    found = (await api.data(SERVICE, CHARGE, input=an_input(task.task_id)))["charge"]
    assert found == {
        "__typename": "InsufficientCreditsError",
        "required": 10,
        "available": 7,
        "shortfall": 3,
        "balance": {"available": 7},
        "message": "This requires 10 credits; available: 7. Add 3 credits and try again.",
    }


async def test_only_service_keys_that_may_charge_can_charge(api: Api) -> None:
    await grant_credits("alice", 70)
    task = await start_task("alice")
    for caller in (ALICE, BOB, READER, None):
        code, _ = await api.error(caller, CHARGE, input=an_input(task.task_id))
        assert code == ("UNAUTHENTICATED" if caller is None else "FORBIDDEN")
        assert (await api.data(ALICE, "{ account { balance { posted } } }")) == {"account": {"balance": {"posted": 70}}}


async def test_each_item_of_a_batch_has_its_own_result_in_order(api: Api) -> None:
    await grant_credits("alice", 25)
    task = await start_task("alice")
    batch = """mutation($input: [ChargeInput!]!) { chargeBatch(input: $input) {
        __typename ... on ChargeSuccess { cost replayed balance { available } } } }"""
    runs = [
        an_input(task.task_id, "a"),
        an_input(task.task_id, "b", block="Unheard"),
        an_input("nowhere", "c"),
        an_input(task.task_id, "a"),
        an_input(task.task_id, "d"),
        an_input(task.task_id, "e"),
    ]
    found = (await api.data(SERVICE, batch, input=runs))["chargeBatch"]
    assert found == [
        {"__typename": "ChargeSuccess", "cost": 10, "replayed": False, "balance": {"available": 15}},
        {"__typename": "PriceNotFoundError"},
        {"__typename": "TaskNotFoundError"},
        {"__typename": "ChargeSuccess", "cost": 10, "replayed": True, "balance": {"available": 15}},
        {"__typename": "ChargeSuccess", "cost": 10, "replayed": False, "balance": {"available": 5}},
        {"__typename": "InsufficientCreditsError"},
    ]


async def test_an_operator_reverses_a_charge_in_parts_up_to_its_cost(api: Api) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice")
    await api.data(SERVICE, CHARGE, input=an_input(task.task_id))
    reverse = """mutation($input: ReverseChargeInput!) { reverseCharge(input: $input) { __typename
        ... on ReverseChargeSuccess { reversed replayed task { cost { total charged reversed } }
        balance { available } entry { kind reason actor } }
        ... on ReversalExceedsChargeError { requested reversible } } }"""
    input = {"taskId": task.task_id, "blockRunId": "run", "credits": 4, "reason": "it failed", "idempotencyKey": "k1"}
    first = (await api.data(OPERATOR, reverse, input=input))["reverseCharge"]
    assert first == {
        "__typename": "ReverseChargeSuccess",
        "reversed": 4,
        "replayed": False,
        "task": {"cost": {"total": 6, "charged": 10, "reversed": 4}},
        "balance": {"available": 94},
        "entry": {"kind": "REVERSAL", "reason": "it failed", "actor": "operator:olivia"},
    }
    assert (await api.data(OPERATOR, reverse, input=input))["reverseCharge"] == first | {"replayed": True}
    more = input | {"credits": 7, "idempotencyKey": "k2"}
    assert (await api.data(OPERATOR, reverse, input=more))["reverseCharge"] == {
        "__typename": "ReversalExceedsChargeError",
        "requested": 7,
        "reversible": 6,
    }
    assert (await api.error(SERVICE, reverse, input=more))[0] == "FORBIDDEN"


BATCH = """mutation($input: [ChargeInput!]!) { chargeBatch(input: $input) { __typename
    ... on InternalError { message reference } ... on UnavailableError { message } } }"""


async def test_a_batch_without_a_database_is_one_error_and_a_few_log_lines(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    await grant_credits("alice", 20_000)
    task = await start_task("alice")
    assert (await api.data(SERVICE, CHARGE, input=an_input(task.task_id)))["charge"]["cost"] == 10
    await pools.disconnect()
    with pytest.raises(OSError, match="Connect call failed"):
        await pools.connect("postgresql://127.0.0.1:1/nowhere")
    caplog.clear()

    items = [an_input(task.task_id, f"run-{number}") for number in range(1_000)]
    code, message = await api.error(SERVICE, BATCH, input=items)

    assert (code, message) == ("UNAVAILABLE", DATABASE_UNAVAILABLE)
    assert sum(len(record.getMessage()) + len(str(record.exc_text or "")) for record in caplog.records) < 2_000


@pytest.mark.parametrize(
    ("failure", "typename", "message"),
    [
        (ConnectionRefusedError("Connect call failed"), "UnavailableError", DATABASE_UNAVAILABLE),
        (TimeoutError(), "UnavailableError", OPERATION_TIMED_OUT),
        (ValueError("a bug"), "InternalError", "Something went wrong on our side."),
    ],
)
async def test_items_that_fail_beside_charged_ones_are_logged_once(
    api: Api,
    *,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failure: Exception,
    typename: str,
    message: str,
) -> None:
    tasks: list[TaskState] = []
    while len({task.account_id % 2 for task in tasks}) < 2:  # two queues, by account id
        owner = unique_id("owner")
        await grant_credits(owner, 1_000)
        tasks.append(await start_task(owner))
    failing = tasks[-1]
    others = [task for task in tasks if task.account_id % 2 != failing.account_id % 2]
    charge_many = charging.charge_many

    async def fail_for_one_queue(items: Any, rate_cards: Any, **options: Any) -> Any:
        if any(account_id == failing.account_id for account_id, _ in items):
            raise failure
        return await charge_many(items, rate_cards, **options)

    monkeypatch.setattr(charging, "charge_many", fail_for_one_queue)
    caplog.clear()

    items = [an_input(task.task_id, f"run-{number}") for number in range(5) for task in (others[0], failing)]
    found = (await api.data(SERVICE, BATCH, input=items))["chargeBatch"]

    assert [one["__typename"] for one in found] == ["ChargeSuccess", typename] * 5
    assert {one["message"].split(" Quote ")[0] for one in found[1::2]} == {message}
    assert len({one.get("reference") for one in found[1::2]}) == 1
    assert len([record for record in caplog.records if record.name == "app.engine.errors"]) == 1


START = """mutation($input: StartTaskInput!) { startTask(input: $input) { __typename } }"""


async def test_requests_for_a_locked_account_are_answered_with_an_error_that_can_be_retried(api: Api) -> None:
    await grant_credits("alice", 100)
    await grant_credits("bob", 100)
    blocked, free = await start_task("alice"), await start_task("bob")
    stop_and_resume.configure_ledger(LEDGER_KEY, lock_seconds=0.3)
    api.state.charge_queue._charges._queues[0]._lock_seconds = 0.3
    api.state.charge_queue._charges._queues[1]._lock_seconds = 0.3
    start = {"taskId": "new", "ownerId": "alice", "agentId": "agent"}
    async with pools.transaction() as connection:
        await connection.execute_query("SELECT FROM account WHERE id = $1 FOR UPDATE", [blocked.account_id])
        assert await api.error(SERVICE, CHARGE, input=an_input(blocked.task_id)) == ("UNAVAILABLE", ACCOUNT_LOCKED)
        assert await api.error(SERVICE, START, input=start) == ("UNAVAILABLE", ACCOUNT_LOCKED)
        items = [an_input(task.task_id, "batched") for task in (blocked, free)]
        batch = (await api.data(SERVICE, BATCH, input=items))["chargeBatch"]
        assert [one["__typename"] for one in batch] == ["UnavailableError", "ChargeSuccess"]
        assert batch[0]["message"] == ACCOUNT_LOCKED

    assert (await api.data(SERVICE, CHARGE, input=an_input(blocked.task_id)))["charge"]["cost"] == 10
    assert (await api.data(SERVICE, START, input=start))["startTask"]["__typename"] == "StartTaskSuccess"
