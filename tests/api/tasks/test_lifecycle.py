"""Mutations of tasks: start, cancel, resume, finish and reversals, with all their errors."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from app.auth.caller import Caller
from app.db import pools
from app.ledger import posting
from app.ledger.posting import Posting
from app.ledger.rules.account_state import GrantSource
from app.tasks import lifecycle
from app.tasks.charging import Charge
from app.tasks.rules import TaskState, TaskStatus
from tests.api.conftest import ALICE, BOB, OPERATOR, READER, SERVICE, Api
from tests.factories import block_run_request, get_balance, get_figures, grant_credits, start_task, wait_until

pytestmark = pytest.mark.anyio

MAX = 2**53 - 1
WITHIN_A_DAY = "must lie between 1 and 86,400 (24 hours)"
WITHIN_BUDGET = "must lie between 0 and the budget"
TASK = "{ taskId status stopReason cost { total held } budget { taskId credits remaining closingReserve } }"
ERRORS = """
    ... on UserError { message }
    ... on InvalidInputError { problems { path message } }
    ... on InsufficientCreditsError { required available shortfall balance { available owed } }
    ... on BudgetReachedError { taskId required remaining shortfall }
    ... on TaskNotFoundError { taskId }
    ... on TaskEndedError { taskId status }
    ... on IdempotencyConflictError { key }"""
START = f"""mutation($input: StartTaskInput!) {{ startTask(input: $input) {{ __typename
    ... on StartTaskSuccess {{ replayed task {TASK} }}
    ... on TaskStoppedError {{ taskId stopReason }} {ERRORS} }} }}"""
RESUME = f"""mutation($input: ResumeTaskInput!) {{ resumeTask(input: $input) {{ __typename
    ... on ResumeTaskSuccess {{ replayed task {TASK} }}
    ... on TaskNotStoppedError {{ taskId status }} {ERRORS} }} }}"""
CANCEL = f"""mutation($input: CancelTaskInput!) {{ cancelTask(input: $input) {{ __typename
    ... on CancelTaskSuccess {{ replayed task {TASK} }} ... on UserError {{ message }}
    ... on TaskNotFoundError {{ taskId }} ... on TaskEndedError {{ taskId status }} }} }}"""
FINISH = """mutation($input: FinishTaskInput!) { finishTask(input: $input) { __typename
    ... on FinishTaskSuccess { replayed task { status endedAt } }
    ... on UserError { message } ... on TaskNotFoundError { taskId } ... on TaskEndedError { taskId status } } }"""
CHARGE = f"""mutation($input: ChargeInput!) {{ charge(input: $input) {{ __typename
    ... on ChargeSuccess {{ cost signal task {TASK} }}
    ... on BudgetReachedError {{ taskId required remaining shortfall }}
    ... on TaskStoppedError {{ taskId stopReason }} }} }}"""
REVERSE_TASK = """mutation($input: ReverseTaskInput!) { reverseTask(input: $input) { __typename
    ... on ReverseTaskSuccess { reversed entryCount replayed task { status cost { total charged reversed } }
        balance { available } }
    ... on UserError { message } ... on InvalidInputError { problems { path message } }
    ... on TaskNotFoundError { taskId } ... on IdempotencyConflictError { key }
    ... on BalanceLimitReachedError { figure } } }"""
REVERSE_CHARGE = """mutation($input: ReverseChargeInput!) { reverseCharge(input: $input) { __typename
    ... on UserError { message } ... on InvalidInputError { problems { path message } }
    ... on TaskNotFoundError { taskId } ... on BlockRunNotFoundError { taskId blockRunId }
    ... on ReversalExceedsChargeError { requested reversible } ... on IdempotencyConflictError { key }
    ... on BalanceLimitReachedError { figure } } }"""
DATABASE_STATE = """
    SELECT (SELECT array_agg(a.* ORDER BY id) FROM account AS a)::text AS account,
           (SELECT array_agg(g.* ORDER BY number) FROM credit_grant AS g)::text AS grants,
           (SELECT array_agg(h.* ORDER BY number) FROM hold AS h)::text AS holds,
           (SELECT array_agg(t.* ORDER BY task_id) FROM task AS t)::text AS tasks,
           (SELECT count(*) FROM entry) AS entries, (SELECT count(*) FROM operation) AS operations
"""


async def database_state() -> Any:
    """Everything that an error must leave unchanged."""
    return tuple((await pools.fetch(DATABASE_STATE))[0])


async def start(api: Api, task_id: str = "task", owner_id: str = "alice", **more: Any) -> Any:
    input = {"taskId": task_id, "ownerId": owner_id, "agentId": "agent"} | more
    return (await api.data(SERVICE, START, input=input))["startTask"]


async def resume(api: Api, task_id: str, caller: Caller = SERVICE, **more: Any) -> Any:
    return (await api.data(caller, RESUME, input={"taskId": task_id} | more))["resumeTask"]


async def cancel(api: Api, task_id: str, caller: Caller = SERVICE) -> Any:
    return (await api.data(caller, CANCEL, input={"taskId": task_id}))["cancelTask"]


async def charge(api: Api, task_id: str, block_run_id: str, **more: Any) -> Any:
    input = {"taskId": task_id, "blockRunId": block_run_id, "block": "ReplicateModelBlock"} | more
    return (await api.data(SERVICE, CHARGE, input=input))["charge"]


async def stopped(api: Api, owner_id: str = "alice", *, credits: int = 5) -> TaskState:
    """A task that was stopped by an unpaid charge of 10 credits."""
    await grant_credits(owner_id, credits)
    task = await start_task(owner_id)
    await api.state.charge_queue.charge(block_run_request(task))
    return task


async def create_debt(account_id: int, credits: int) -> None:
    """Write a debt like the ledger does."""

    async def decide(opened: Posting) -> None:
        opened.accounts[account_id].owed += credits
        opened.signal_tasks(account_id)

    await posting.post([account_id], decide)


async def test_a_task_starts_with_a_budget_and_a_repeated_request_is_replayed(api: Api) -> None:
    await grant_credits("alice", 100)
    input: dict[str, Any] = {"budget": 60, "budgetTimeoutSeconds": 60, "closingReserve": 20}
    started = await start(api, **input)
    assert started == {
        "__typename": "StartTaskSuccess",
        "replayed": False,
        "task": {
            "taskId": "task", "status": "RUNNING", "stopReason": None, "cost": {"total": 0, "held": 60},
            "budget": {"taskId": "task", "credits": 60, "remaining": 60, "closingReserve": 20},
        },
    }  # fmt: skip
    assert await start(api, **input) == started | {"replayed": True}
    for other in (input | {"budget": 61}, input | {"closingReserve": 0}, input | {"budgetTimeoutSeconds": 61}, {}):
        assert await start(api, **other) == {
            "__typename": "IdempotencyConflictError",
            "message": '"task" was used before with a different request: repeat the first request, or use a new key.',
            "key": "task",
        }
    assert await api.data(ALICE, "{ account { balance { available held } } }") == {
        "account": {"balance": {"available": 40, "held": 60}}
    }


async def test_an_invalid_budget_is_refused(api: Api) -> None:
    await grant_credits("alice", 100)
    before = await database_state()
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"budget": 0}, "budget", "must lie between 1 and 9,007,199,254,740,991 credits"),
        ({"budget": 9, "budgetTimeoutSeconds": 0}, "budgetTimeoutSeconds", WITHIN_A_DAY),
        ({"budget": 9, "budgetTimeoutSeconds": 90_000}, "budgetTimeoutSeconds", WITHIN_A_DAY),
        ({"budget": 9, "closingReserve": 10}, "closingReserve", WITHIN_BUDGET),
        ({"budgetTimeoutSeconds": 9}, "budgetTimeoutSeconds", "applies only to a budget: send a budget too"),
    ]
    for invalid, path, message in cases:
        assert await start(api, **invalid) == {
            "__typename": "InvalidInputError",
            "message": f"{path} {message}.",
            "problems": [{"path": path, "message": message}],
        }
        assert await database_state() == before


async def test_every_error_of_starting_has_its_fields_and_changes_nothing(api: Api) -> None:
    task = await stopped(api)
    own = await start_task("alice", budget=4)
    ended = await start_task("alice")
    await lifecycle.cancel_task(ended.task_id)
    await grant_credits("guild", 5)
    before = await database_state()

    assert await start(api, budget=2) == {
        "__typename": "InsufficientCreditsError",
        "message": "This requires 2 credits; available: 1. Add 1 credit and try again.",
        "required": 2,
        "available": 1,
        "shortfall": 1,
        "balance": {"available": 1, "owed": 0},
    }
    assert (await start(api, owner_id="nobody"))["balance"] == {"available": 0, "owed": 0}
    assert await start(api, parentTaskId=own.task_id, budget=5) == {
        "__typename": "BudgetReachedError",
        "message": f'This requires 5 credits; left in the budget of task "{own.task_id}": 4. '
        "Add 1 credit to it with resumeTask.",
        "taskId": own.task_id,
        "required": 5,
        "remaining": 4,
        "shortfall": 1,
    }
    assert await start(api, parentTaskId="nowhere") == {
        "__typename": "TaskNotFoundError",
        "message": 'Task "nowhere" does not exist: start it with startTask.',
        "taskId": "nowhere",
    }
    assert (await start(api, owner_id="guild", parentTaskId=own.task_id))["__typename"] == "TaskNotFoundError"
    assert await start(api, parentTaskId=task.task_id) == {
        "__typename": "TaskStoppedError",
        "message": f'Task "{task.task_id}" is stopped (OUT_OF_CREDITS) and accepts no paid block run: resume it '
        "with resumeTask, then charge again.",
        "taskId": task.task_id,
        "stopReason": "OUT_OF_CREDITS",
    }
    assert await start(api, parentTaskId=ended.task_id) == {
        "__typename": "TaskEndedError",
        "message": f'Task "{ended.task_id}" has ended (CANCELLED): start a new task.',
        "taskId": ended.task_id,
        "status": "CANCELLED",
    }
    assert await database_state() == before


async def test_every_error_of_resuming_has_its_fields_and_changes_nothing(api: Api) -> None:
    task = await stopped(api)
    running = await start_task("alice", budget=5)
    child = await start_task("alice", parent_task_id=running.task_id)
    await api.state.charge_queue.charge(block_run_request(child))
    ended = await start_task("alice", parent_task_id=running.task_id)
    await lifecycle.finish_task(ended.task_id, TaskStatus.FAILED)
    before = await database_state()

    assert await resume(api, "nowhere") == {
        "__typename": "TaskNotFoundError",
        "message": 'Task "nowhere" does not exist: start it with startTask.',
        "taskId": "nowhere",
    }
    assert await resume(api, running.task_id) == {
        "__typename": "TaskNotStoppedError",
        "message": f'Task "{running.task_id}" is RUNNING: only a stopped task can be resumed. To add to the budget of '
        "a running task, send addBudget and idempotencyKey.",
        "taskId": running.task_id,
        "status": "RUNNING",
    }
    assert await resume(api, ended.task_id) == {
        "__typename": "TaskEndedError",
        "message": f'Task "{ended.task_id}" has ended (FAILED): start a new task.',
        "taskId": ended.task_id,
        "status": "FAILED",
    }
    assert await resume(api, task.task_id) == {
        "__typename": "InsufficientCreditsError",
        "message": "This requires 1 credit; available: 0. Add 1 credit and try again.",
        "required": 1,
        "available": 0,
        "shortfall": 1,
        "balance": {"available": 0, "owed": 0},
    }
    assert (await resume(api, task.task_id, addBudget=7))["shortfall"] == 7
    assert (await resume(api, task.task_id, addBudget=0))["problems"] == [
        {"path": "addBudget", "message": f"must lie between 1 and {MAX:,}; it is 0"}
    ]
    assert (await resume(api, task.task_id, idempotencyKey="a b"))["problems"] == [
        {"path": "idempotencyKey", "message": "must have 1 to 255 visible characters, without spaces"}
    ]
    assert (await resume(api, child.task_id, addBudget=1))["problems"] == [
        {
            "path": "addBudget",
            "message": (
                f'task "{child.task_id}" draws on the budget of task "{running.task_id}": add credits to that one'
            ),
        }
    ]
    assert await database_state() == before


async def test_a_task_is_resumed_with_more_budget_once_per_key(api: Api) -> None:
    await grant_credits("alice", 100)
    used = await start_task("alice", budget=10)
    expiring = await start_task("alice", budget=10, budget_timeout_seconds=1)
    [hold] = await pools.fetch("SELECT expires_at FROM hold WHERE task_id = $1", expiring.task_id)
    assert (await charge(api, used.task_id, "one"))["signal"] == "STOP"
    assert await charge(api, used.task_id, "two") == {
        "__typename": "BudgetReachedError", "taskId": used.task_id, "required": 10, "remaining": 0, "shortfall": 10,
    }  # fmt: skip
    before = await database_state()
    assert await resume(api, used.task_id) == {
        "__typename": "BudgetReachedError",
        "message": f'This requires 1 credit; left in the budget of task "{used.task_id}": 0. '
        "Add 1 credit to it with resumeTask.",
        "taskId": used.task_id,
        "required": 1,
        "remaining": 0,
        "shortfall": 1,
    }
    assert await database_state() == before

    await wait_until(hold["expires_at"])
    assert (await resume(api, expiring.task_id))["__typename"] == "BudgetReachedError"
    for task in (used, expiring):
        key = f"more-{task.task_id}"
        more = await resume(api, task.task_id, addBudget=15, idempotencyKey=key)
        assert (more["replayed"], more["task"]["status"], more["task"]["budget"]["remaining"]) == (False, "RUNNING", 15)
        assert await resume(api, task.task_id, addBudget=15, idempotencyKey=key) == more | {"replayed": True}
        assert (await resume(api, task.task_id, addBudget=16, idempotencyKey=key))["key"] == key
        assert (await resume(api, task.task_id, addBudget=15))["__typename"] == "TaskNotStoppedError"
    assert (await charge(api, used.task_id, "two"))["task"]["cost"] == {"total": 20, "held": 5}


async def test_no_task_starts_or_resumes_while_the_account_is_in_debt(api: Api) -> None:
    task = await stopped(api)
    await create_debt(task.account_id, 20)
    before = await database_state()
    for result in (await start(api), await resume(api, task.task_id)):
        assert (result["__typename"], result["required"], result["available"]) == ("InsufficientCreditsError", 1, 5)
        assert (result["shortfall"], result["balance"]["owed"]) == (20, 20)
        assert result["message"] == (
            "This requires 1 credit; available: 5. Add 20 credits and try again: added credits first pay debt and "
            "replace disputed credits."
        )
    assert await database_state() == before
    assert (await api.data(ALICE, "{ account { canRun { ok reason } } }"))["account"]["canRun"] == {
        "ok": False,
        "reason": "IN_DEBT",
    }


async def test_users_cancel_and_resume_their_own_tasks(api: Api) -> None:
    task, unwanted = await stopped(api), await stopped(api, credits=4)
    await grant_credits("guild", 50)

    resumed = await resume(api, task.task_id, ALICE)
    assert (resumed["task"]["status"], resumed["task"]["stopReason"], resumed["replayed"]) == ("RUNNING", None, False)
    query = "query($task: ID!) { task(taskId: $task) { status } }"
    assert (await api.data(ALICE, query, task=unwanted.task_id)) == {"task": {"status": "STOPPED"}}
    cancelled = await cancel(api, unwanted.task_id, ALICE)
    assert (cancelled["task"]["status"], cancelled["task"]["stopReason"]) == ("CANCELLED", None)
    assert await cancel(api, unwanted.task_id, ALICE) == cancelled | {"replayed": True}
    parent = await start_task("guild", budget=20)
    nested = await start_task("guild", parent_task_id=parent.task_id, budget=5)
    await start_task("guild", parent_task_id=nested.task_id)
    document = """mutation($input: CancelTaskInput!) { cancelTask(input: $input) {
        ... on CancelTaskSuccess { cancelledChildren replayed task { children { edges { node { status } } } } } } }"""
    guild = replace(BOB, actor="user:guild", owner_id="guild")
    answers = [(await api.data(guild, document, input={"taskId": parent.task_id}))["cancelTask"] for _ in range(2)]
    assert [(one["cancelledChildren"], one["replayed"]) for one in answers] == [(2, False), (0, True)]
    assert answers[0]["task"]["children"]["edges"] == [{"node": {"status": "CANCELLED"}}]
    assert (await get_figures(parent)) == (50, 0, 50)
    assert (await resume(api, unwanted.task_id, ALICE))["status"] == "CANCELLED"


async def test_users_cannot_change_tasks_of_other_owners(api: Api) -> None:
    alices, guilds = await stopped(api), await stopped(api, "guild")
    await grant_credits("alice", 10)
    await grant_credits("guild", 10)
    before = await database_state()

    for call in (resume, cancel):
        assert await call(api, alices.task_id, BOB) == {
            "__typename": "TaskNotFoundError",
            "message": f'Task "{alices.task_id}" does not exist: start it with startTask.',
            "taskId": alices.task_id,
        }
        assert (await call(api, guilds.task_id, BOB))["__typename"] == "TaskNotFoundError"
    for query, caller in ((RESUME, ALICE), (CANCEL, ALICE), (RESUME, READER), (CANCEL, READER)):
        result = await api.error(caller, query, input={"taskId": guilds.task_id})
        assert result == (
            "FORBIDDEN",
            f'Task "{guilds.task_id}" belongs to another owner: you may read it, but not change it.',
        )
    assert await database_state() == before
    assert (await resume(api, guilds.task_id, OPERATOR))["task"]["status"] == "RUNNING"
    assert (await cancel(api, guilds.task_id, SERVICE))["task"]["status"] == "CANCELLED"


async def test_a_task_ends_once_and_only_services_finish_it(api: Api) -> None:
    await grant_credits("alice", 10)
    task = await start_task("alice")
    input = {"taskId": task.task_id, "status": "COMPLETED"}
    for caller in (ALICE, BOB, READER):
        assert (await api.error(caller, FINISH, input=input))[0] == "FORBIDDEN"
    first = (await api.data(SERVICE, FINISH, input=input))["finishTask"]
    assert (first["replayed"], first["task"]["status"]) == (False, "COMPLETED")
    assert (await api.data(SERVICE, FINISH, input=input))["finishTask"] == first | {"replayed": True}
    assert (await api.data(SERVICE, FINISH, input=input | {"status": "FAILED"}))["finishTask"] == {
        "__typename": "TaskEndedError",
        "message": f'Task "{task.task_id}" has ended (COMPLETED): start a new task.',
        "taskId": task.task_id,
        "status": "COMPLETED",
    }
    assert (await cancel(api, task.task_id))["status"] == "COMPLETED"
    assert (await api.data(SERVICE, FINISH, input=input | {"taskId": "nowhere"}))["finishTask"] == {
        "__typename": "TaskNotFoundError",
        "message": 'Task "nowhere" does not exist: start it with startTask.',
        "taskId": "nowhere",
    }


async def test_a_charge_signals_stop_and_closing_block_runs_use_the_reserve(api: Api) -> None:
    await grant_credits("alice", 40)
    task, plain = await start_task("alice", budget=30, closing_reserve=10), await start_task("alice")
    assert [(await charge(api, task.task_id, run))["signal"] for run in ("one", "two")] == [None, "STOP"]
    assert await charge(api, task.task_id, "three") == {
        "__typename": "BudgetReachedError", "taskId": task.task_id, "required": 10, "remaining": 0, "shortfall": 10,
    }  # fmt: skip
    closing = await charge(api, task.task_id, "closing", closing=True)
    assert closing == {
        "__typename": "ChargeSuccess",
        "cost": 10,
        "signal": "STOP",
        "task": {
            "taskId": task.task_id, "status": "STOPPED", "stopReason": "BUDGET_REACHED",
            "cost": {"total": 30, "held": 0},
            "budget": {"taskId": task.task_id, "credits": 30, "remaining": 0, "closingReserve": 0},
        },
    }  # fmt: skip
    assert (await charge(api, plain.task_id, "last", closing=True))["signal"] == "STOP"


async def test_resumable_tasks_are_listed_with_their_shortfall(api: Api) -> None:
    await grant_credits("alice", 6)
    tasks = [await start_task("alice") for _ in range(4)]
    expired = await start_task("alice", budget=1, budget_timeout_seconds=1)
    for task in tasks:
        await api.state.charge_queue.charge(block_run_request(task))
    await lifecycle.cancel_task(tasks[1].task_id)
    [hold] = await pools.fetch("SELECT expires_at FROM hold")
    await wait_until(hold["expires_at"])
    query = """query($owner: ID, $after: String) { account(ownerId: $owner) { resumableTasks(first: 2, after: $after) {
        edges { node { shortfall required task { taskId stopReason } } } pageInfo { hasNextPage endCursor } } } }"""

    first = (await api.data(ALICE, query))["account"]["resumableTasks"]
    rest = (await api.data(ALICE, query, after=first["pageInfo"]["endCursor"]))["account"]["resumableTasks"]

    found = [edge["node"] for page in (first, rest) for edge in page["edges"]]
    assert [one["task"]["taskId"] for one in found] == [
        one.task_id for one in (expired, tasks[3], tasks[2], tasks[0])
    ]  # fmt: skip
    assert [(one["shortfall"], one["required"], one["task"]["stopReason"]) for one in found] == [
        (None, None, "BUDGET_EXPIRED"), *[(4, 10, "OUT_OF_CREDITS")] * 3,  # the expired budget has returned its credit
    ]  # fmt: skip
    assert (first["pageInfo"]["hasNextPage"], rest["pageInfo"]["hasNextPage"]) == (True, False)
    await create_debt(tasks[0].account_id, 3)
    assert (await api.data(ALICE, query))["account"]["resumableTasks"]["edges"][1]["node"]["shortfall"] == 7
    await grant_credits("alice", 7, source=GrantSource.PURCHASED)
    assert (await api.data(ALICE, query))["account"]["resumableTasks"]["edges"][1]["node"]["shortfall"] == 0
    assert (await resume(api, tasks[0].task_id))["task"]["status"] == "RUNNING"
    assert isinstance(await api.state.charge_queue.charge(block_run_request(tasks[0])), Charge)
    assert await api.data(BOB, query, owner="alice") == {"account": None}
    code, _ = await api.error(ALICE, query, after=first["pageInfo"]["endCursor"][:-2])
    assert code == "BAD_USER_INPUT"


async def test_skipped_starts_are_listed_newest_first_and_create_no_task(api: Api) -> None:
    for number in range(5):
        result = await start(api, f"start-{number}", trigger="SCHEDULED")
        assert result["__typename"] == "InsufficientCreditsError"
    query = """query($owner: ID, $after: String) { agent(agentId: "agent", ownerId: $owner) {
        cost { taskCount } tasks { edges { cursor } }
        skippedStarts(first: 2, after: $after) {
            edges { node { taskId reason skippedAt } } pageInfo { endCursor hasNextPage } } } }"""
    found: list[Any] = []
    after = None
    while True:
        agent = (await api.data(ALICE, query, after=after))["agent"]
        assert (agent["cost"]["taskCount"], agent["tasks"]["edges"]) == (0, [])
        found += [edge["node"] for edge in agent["skippedStarts"]["edges"]]
        if not agent["skippedStarts"]["pageInfo"]["hasNextPage"]:
            break
        after = agent["skippedStarts"]["pageInfo"]["endCursor"]
    assert [(start_skipped["taskId"], start_skipped["reason"]) for start_skipped in found] == [
        (f"start-{number}", "OUT_OF_CREDITS") for number in (4, 3, 2, 1, 0)
    ]
    instants = [datetime.fromisoformat(start_skipped["skippedAt"]) for start_skipped in found]
    assert instants == sorted(instants, reverse=True)
    assert await api.data(BOB, query, owner="alice") == {"agent": None}


async def test_an_operator_reverses_a_task_once(api: Api) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice")
    for run in ("one", "two"):
        await charge(api, task.task_id, run)
    await charge(api, task.task_id, "free", block="NoteBlock")
    input = {"taskId": task.task_id, "reason": "it failed", "idempotencyKey": "key"}
    before = await database_state()

    for caller in (ALICE, READER, SERVICE):
        assert (await api.error(caller, REVERSE_TASK, input=input))[0] == "FORBIDDEN"
    for invalid, path in (({"reason": ""}, "reason"), ({"idempotencyKey": ""}, "idempotencyKey")):
        result = (await api.data(OPERATOR, REVERSE_TASK, input=input | invalid))["reverseTask"]
        assert (result["__typename"], [one["path"] for one in result["problems"]]) == ("InvalidInputError", [path])
    assert (await api.data(OPERATOR, REVERSE_TASK, input=input | {"taskId": "nowhere"}))["reverseTask"] == {
        "__typename": "TaskNotFoundError",
        "message": 'Task "nowhere" does not exist: start it with startTask.',
        "taskId": "nowhere",
    }
    assert await database_state() == before

    first = (await api.data(OPERATOR, REVERSE_TASK, input=input))["reverseTask"]
    assert first == {
        "__typename": "ReverseTaskSuccess",
        "reversed": 20,
        "entryCount": 2,
        "replayed": False,
        "task": {"status": "RUNNING", "cost": {"total": 0, "charged": 20, "reversed": 20}},
        "balance": {"available": 100},
    }
    assert (await api.data(OPERATOR, REVERSE_TASK, input=input))["reverseTask"] == first | {"replayed": True}
    assert (await api.data(OPERATOR, REVERSE_TASK, input=input | {"reason": "another"}))["reverseTask"]["key"] == "key"
    nothing = (await api.data(OPERATOR, REVERSE_TASK, input=input | {"idempotencyKey": "other"}))["reverseTask"]
    assert (nothing["reversed"], nothing["entryCount"], nothing["replayed"]) == (0, 0, False)


async def test_every_error_of_a_reversal_has_its_fields_and_changes_nothing(api: Api) -> None:
    await grant_credits("alice", MAX)
    task = await start_task("alice")
    await charge(api, task.task_id, "one")
    await charge(api, task.task_id, "free", block="NoteBlock")
    await grant_credits("alice", 10)
    input = {"taskId": task.task_id, "blockRunId": "one", "reason": "it failed", "idempotencyKey": "key"}
    before = await database_state()

    for more, message in (
        ({"credits": 11}, {"__typename": "ReversalExceedsChargeError", "requested": 11, "reversible": 10}),
        ({"blockRunId": "free"}, {"__typename": "ReversalExceedsChargeError", "requested": 0, "reversible": 0}),
        ({"taskId": "nowhere"}, {"__typename": "TaskNotFoundError", "taskId": "nowhere"}),
        ({"blockRunId": "unheard"}, {"__typename": "BlockRunNotFoundError", "blockRunId": "unheard"}),
        ({"credits": 0}, {"__typename": "InvalidInputError"}),
        ({"reason": " \n"}, {"__typename": "InvalidInputError"}),
        ({}, {"__typename": "BalanceLimitReachedError", "figure": "The balance"}),
    ):
        result = (await api.data(OPERATOR, REVERSE_CHARGE, input=input | more))["reverseCharge"]
        assert result | message == result, (more, result)
    whole = {"taskId": task.task_id, "reason": "it failed", "idempotencyKey": "key"}
    result = (await api.data(OPERATOR, REVERSE_TASK, input=whole))["reverseTask"]
    assert (result["__typename"], result["figure"]) == ("BalanceLimitReachedError", "The balance")
    assert await database_state() == before
    assert (await get_balance(task.account_id)).posted == MAX
