"""Holds and budgets: the mutations with all their errors, and the lists that show them."""

from datetime import datetime
from typing import Any

import pytest

from app.db import pools
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import holds, lifecycle
from app.tasks.rules import TaskState, TaskStatus
from tests.api.conftest import ALICE, BOB, OPERATOR, READER, SERVICE, Api
from tests.factories import (
    ITEM_PRICES,
    block_run_request,
    capture_request,
    get_balance,
    get_task,
    grant_credits,
    hold_request,
    publish_rate_cards,
    start_task,
    wait_until,
)

pytestmark = pytest.mark.anyio

MAX = 2**53 - 1
PRICES = {"blocks": [*ITEM_PRICES["blocks"], {"block": "ExpensiveBlock", "credits": 2, "unit": "item"}]}

HOLD = "{ blockRunId block credits captured remaining priced status closedAt task { taskId } }"
PLACE = f"""mutation($input: PlaceHoldInput!) {{ placeHold(input: $input) {{ __typename
    ... on UserError {{ message }}
    ... on PlaceHoldSuccess {{ replayed hold {HOLD} task {{ taskId status }} balance {{ available held version }} }}
    ... on InvalidInputError {{ problems {{ path message }} }}
    ... on InsufficientCreditsError {{ required available shortfall balance {{ available held }} }}
    ... on BudgetReachedError {{ taskId required remaining shortfall }}
    ... on PriceNotFoundError {{ block rateCardVersion }}
    ... on MeasurementMissingError {{ block measurement }}
    ... on TaskNotFoundError {{ taskId }} ... on TaskStoppedError {{ taskId stopReason }}
    ... on TaskEndedError {{ taskId status }} ... on IdempotencyConflictError {{ key }}
    ... on BalanceLimitReachedError {{ figure }} }} }}"""
CAPTURE = f"""mutation($input: CaptureHoldInput!) {{ captureHold(input: $input) {{ __typename
    ... on UserError {{ message }}
    ... on CaptureHoldSuccess {{ cost replayed hold {HOLD} entry {{ kind credits hold {{ blockRunId }} }}
        blockRun {{ blockRunId cost rule }} task {{ taskId cost {{ total held }} }} balance {{ available held }} }}
    ... on MeasurementMissingError {{ block measurement }} ... on TaskNotFoundError {{ taskId }}
    ... on HoldNotFoundError {{ taskId blockRunId }} ... on HoldClosedError {{ blockRunId status }}
    ... on HoldExceededError {{ blockRunId required held shortfall }} ... on IdempotencyConflictError {{ key }}
    ... on BalanceLimitReachedError {{ figure }} }} }}"""
VOID = f"""mutation($input: VoidHoldInput!) {{ voidHold(input: $input) {{ __typename
    ... on UserError {{ message }}
    ... on VoidHoldSuccess {{ replayed hold {HOLD} task {{ taskId }} balance {{ available held }} }}
    ... on TaskNotFoundError {{ taskId }} ... on HoldNotFoundError {{ taskId blockRunId }}
    ... on HoldClosedError {{ blockRunId status }} }} }}"""
DATABASE_STATE = """
    SELECT (SELECT array_agg(a.* ORDER BY id) FROM account AS a)::text AS account,
           (SELECT array_agg(g.* ORDER BY number) FROM credit_grant AS g)::text AS grants,
           (SELECT array_agg(h.* ORDER BY number) FROM hold AS h)::text AS holds,
           (SELECT array_agg(t.* ORDER BY task_id) FROM task AS t)::text AS tasks,
           (SELECT count(*) FROM entry) AS entries, (SELECT count(*) FROM block_run) AS block_runs
"""


@pytest.fixture
async def prices(api: Api, rate_cards: RateCardCache) -> RateCardCache:
    """A rate card with 1 credit per item, and 2 for ExpensiveBlock."""
    await publish_rate_cards(PRICES)
    await rate_cards.refresh()
    return rate_cards


def place_input(task_id: str, block_run_id: str = "run", items: int | None = 30, **more: Any) -> dict[str, Any]:
    input = {"taskId": task_id, "blockRunId": block_run_id, "block": "ItemBlock", "atMost": {"items": items}}
    return input | more


def capture_input(task_id: str, block_run_id: str = "run", items: int | None = 20, **more: Any) -> dict[str, Any]:
    return {"taskId": task_id, "blockRunId": block_run_id, "measurements": {"items": items}} | more


async def place(api: Api, *args: Any, **more: Any) -> Any:
    return (await api.data(SERVICE, PLACE, input=place_input(*args, **more)))["placeHold"]


async def capture(api: Api, *args: Any, **more: Any) -> Any:
    return (await api.data(SERVICE, CAPTURE, input=capture_input(*args, **more)))["captureHold"]


async def void(api: Api, task_id: str, block_run_id: str = "run") -> Any:
    return (await api.data(SERVICE, VOID, input={"taskId": task_id, "blockRunId": block_run_id}))["voidHold"]


async def database_state() -> Any:
    """Everything that an error must leave unchanged."""
    return tuple((await pools.fetch(DATABASE_STATE))[0])


async def start_funded_task(credits: int = 100, **more: Any) -> TaskState:
    await grant_credits("alice", credits)
    return await start_task("alice", **more)


async def expired(task: TaskState, rate_cards: RateCardCache) -> None:
    """An expired hold for the block run `late`."""
    held = await holds.place_hold(hold_request(task, block_run_id="late", timeout_seconds=1), rate_cards)
    await wait_until(held.hold.expires_at)


async def test_a_hold_is_placed_and_captured_and_both_are_replayed(api: Api, prices: RateCardCache) -> None:
    task = await start_funded_task()

    placed = await place(api, task.task_id)
    hold = {
        "blockRunId": "run", "block": "ItemBlock", "credits": 30, "captured": 0, "remaining": 30, "priced": None,
        "status": "OPEN", "closedAt": None, "task": {"taskId": task.task_id},
    }  # fmt: skip
    assert placed == {
        "__typename": "PlaceHoldSuccess",
        "replayed": False,
        "hold": hold,
        "task": {"taskId": task.task_id, "status": "RUNNING"},
        "balance": {"available": 70, "held": 30, "version": 2},
    }
    assert await place(api, task.task_id) == placed | {"replayed": True}

    captured = await capture(api, task.task_id)
    closed_at = captured["hold"].pop("closedAt")
    assert datetime.fromisoformat(closed_at) > task.started_at
    assert captured == {
        "__typename": "CaptureHoldSuccess",
        "cost": 20,
        "replayed": False,
        "hold": {
            "blockRunId": "run", "block": "ItemBlock", "credits": 30, "captured": 20, "remaining": 0, "priced": 20,
            "status": "CAPTURED", "task": {"taskId": task.task_id},
        },
        "entry": {"kind": "CHARGE", "credits": -20, "hold": {"blockRunId": "run"}},
        "blockRun": {"blockRunId": "run", "cost": 20, "rule": {"credits": 1, "unit": "item"}},
        "task": {"taskId": task.task_id, "cost": {"total": 20, "held": 0}},
        "balance": {"available": 80, "held": 0},
    }  # fmt: skip
    again = await capture(api, task.task_id)
    assert again["hold"].pop("closedAt") == closed_at
    assert again == captured | {"replayed": True}


async def test_a_capture_above_its_hold_is_refused_or_capped_with_its_price_recorded(
    api: Api, prices: RateCardCache
) -> None:
    task = await start_funded_task()
    await place(api, task.task_id)
    before = await database_state()

    assert await capture(api, task.task_id, items=31) == {
        "__typename": "HoldExceededError",
        "message": 'Block run "run" costs 31 credits; held: 30. Capture it with overHold: CAP, or void the hold.',
        "blockRunId": "run",
        "required": 31,
        "held": 30,
        "shortfall": 1,
    }
    assert await database_state() == before
    capped = await capture(api, task.task_id, items=31, overHold="CAP")
    assert (capped["cost"], capped["hold"]["captured"], capped["hold"]["priced"]) == (30, 30, 31)
    assert capped["balance"] == {"available": 70, "held": 0}


async def test_a_hold_is_voided_once(api: Api, prices: RateCardCache) -> None:
    task = await start_funded_task()
    await place(api, task.task_id)

    voided = await void(api, task.task_id)
    assert voided["hold"] | {"closedAt": ""} == {
        "blockRunId": "run", "block": "ItemBlock", "credits": 30, "captured": 0, "remaining": 0, "priced": None,
        "status": "VOIDED", "closedAt": "", "task": {"taskId": task.task_id},
    }  # fmt: skip
    assert (voided["replayed"], voided["balance"]) == (False, {"available": 100, "held": 0})
    assert await void(api, task.task_id) == voided | {"replayed": True}


async def test_a_timeout_out_of_bounds_is_refused(api: Api, prices: RateCardCache) -> None:
    task = await start_funded_task()
    before = await database_state()
    for seconds in (0, -1, 90_000, 86_401):
        assert await place(api, task.task_id, timeoutSeconds=seconds) == {
            "__typename": "InvalidInputError",
            "message": "timeoutSeconds must lie between 1 and 86,400 (24 hours).",
            "problems": [{"path": "timeoutSeconds", "message": "must lie between 1 and 86,400 (24 hours)"}],
        }
        assert await database_state() == before


async def test_every_other_error_of_placing_a_hold_has_its_fields_and_changes_nothing(
    api: Api, prices: RateCardCache
) -> None:
    task = await start_funded_task()
    await api.state.charge_queue.charge(block_run_request(task, block_run_id="charged"))
    await holds.place_hold(hold_request(task, 10, block_run_id="held"), prices)
    over = await start_task("alice")
    await lifecycle.finish_task(over.task_id, TaskStatus.COMPLETED)
    before = await database_state()

    assert await place(api, "nowhere") == {
        "__typename": "TaskNotFoundError",
        "message": 'Task "nowhere" does not exist: start it with startTask.',
        "taskId": "nowhere",
    }
    assert await place(api, over.task_id) == {
        "__typename": "TaskEndedError",
        "message": f'Task "{over.task_id}" has ended (COMPLETED): start a new task.',
        "taskId": over.task_id,
        "status": "COMPLETED",
    }
    assert await place(api, task.task_id, block="Unheard") == {
        "__typename": "PriceNotFoundError",
        "message": 'Rate card 2 has no price for block "Unheard". The block is not in the rate card.',
        "block": "Unheard",
        "rateCardVersion": 2,
    }
    assert await place(api, task.task_id, items=None) == {
        "__typename": "MeasurementMissingError",
        "message": 'Block "ItemBlock" is priced by measurement: send measurements.items.',
        "block": "ItemBlock",
        "measurement": "items",
    }
    assert await place(api, task.task_id, items=MAX, block="ExpensiveBlock") == {
        "__typename": "BalanceLimitReachedError",
        "message": "The price of this block run would exceed 9,007,199,254,740,991 (2^53 - 1). Nothing was changed.",
        "figure": "The price of this block run",
    }
    for used in ("charged", "held"):
        assert await place(api, task.task_id, used) == {
            "__typename": "IdempotencyConflictError",
            "message": f'"{used}" was used before with a different request: repeat the first request, or '
            "use a new key.",
            "key": used,
        }
    assert await database_state() == before


async def test_an_unpaid_hold_stops_its_task(api: Api, prices: RateCardCache) -> None:
    task = await start_funded_task(credits=29)

    assert await place(api, task.task_id) == {
        "__typename": "InsufficientCreditsError",
        "message": "This requires 30 credits; available: 29. Add 1 credit and try again.",
        "required": 30,
        "available": 29,
        "shortfall": 1,
        "balance": {"available": 29, "held": 0},
    }
    assert await place(api, task.task_id, items=1) == {
        "__typename": "TaskStoppedError",
        "message": f'Task "{task.task_id}" is stopped (OUT_OF_CREDITS) and accepts no paid block run: resume it '
        "with resumeTask, then charge again.",
        "taskId": task.task_id,
        "stopReason": "OUT_OF_CREDITS",
    }
    assert (await api.data(ALICE, "{ account { holds(openOnly: false) { edges { cursor } } } }"))["account"] == {
        "holds": {"edges": []}
    }


async def test_a_hold_above_the_budget_is_refused(api: Api, prices: RateCardCache) -> None:
    task = await start_funded_task(budget=29)
    child = await start_task("alice", parent_task_id=task.task_id)

    assert await place(api, child.task_id) == {
        "__typename": "BudgetReachedError",
        "message": f'This requires 30 credits; left in the budget of task "{task.task_id}": 29. '
        "Add 1 credit to it with resumeTask.",
        "taskId": task.task_id,
        "required": 30,
        "remaining": 29,
        "shortfall": 1,
    }


async def test_every_error_of_a_capture_has_its_fields_and_changes_nothing(api: Api, prices: RateCardCache) -> None:
    task = await start_funded_task(credits=200)
    await grant_credits("bob", 50)
    bobs = await start_task("bob")
    other = await start_task("alice")
    for task_id, run in ((task.task_id, "held"), (other.task_id, "others"), (bobs.task_id, "bobs")):
        assert (await place(api, task_id, run))["__typename"] == "PlaceHoldSuccess"
    await place(api, task.task_id, "voided")
    await void(api, task.task_id, "voided")
    done = hold_request(task, block_run_id="done")
    await holds.place_hold(done, prices)
    await holds.capture_hold(capture_request(done, 5))
    await place(api, task.task_id, "dear", 1, block="ExpensiveBlock")
    await expired(task, prices)
    assert (await void(api, task.task_id, "late"))["status"] == "EXPIRED"
    before = await database_state()

    for run, status in (("voided", "VOIDED"), ("late", "EXPIRED")):
        assert await capture(api, task.task_id, run) == {
            "__typename": "HoldClosedError",
            "message": f'The hold for block run "{run}" is already {status}. Nothing was changed.',
            "blockRunId": run,
            "status": status,
        }
    for run in ("unheard", "others", "bobs"):
        assert await capture(api, task.task_id, run) == {
            "__typename": "HoldNotFoundError",
            "message": f'Task "{task.task_id}" has no hold for block run "{run}": place it with placeHold.',
            "taskId": task.task_id,
            "blockRunId": run,
        }
    assert (await capture(api, "nowhere"))["__typename"] == "TaskNotFoundError"
    assert await capture(api, task.task_id, "held", None) == {
        "__typename": "MeasurementMissingError",
        "message": 'Block "ItemBlock" is priced by measurement: send measurements.items.',
        "block": "ItemBlock",
        "measurement": "items",
    }
    for answer in (
        await capture(api, task.task_id, "dear", MAX),
        await capture(api, task.task_id, "dear", MAX, overHold="CAP"),
    ):
        assert (answer["__typename"], answer["figure"]) == ("BalanceLimitReachedError", "The price of this block run")
    assert (await capture(api, task.task_id, "done", 6))["key"] == "done"
    assert await database_state() == before


async def test_every_error_of_voiding_has_its_fields_and_changes_nothing(api: Api, prices: RateCardCache) -> None:
    task = await start_funded_task()
    other = await start_task("alice")
    await place(api, other.task_id, "others", 10)
    await place(api, task.task_id, "done")
    await capture(api, task.task_id, "done")
    await expired(task, prices)
    assert (await capture(api, task.task_id, "late"))["status"] == "EXPIRED"
    before = await database_state()

    for run, status in (("done", "CAPTURED"), ("late", "EXPIRED")):
        assert await void(api, task.task_id, run) == {
            "__typename": "HoldClosedError",
            "message": f'The hold for block run "{run}" is already {status}. Nothing was changed.',
            "blockRunId": run,
            "status": status,
        }
    for run in ("unheard", "others"):
        assert await void(api, task.task_id, run) == {
            "__typename": "HoldNotFoundError",
            "message": f'Task "{task.task_id}" has no hold for block run "{run}": place it with placeHold.',
            "taskId": task.task_id,
            "blockRunId": run,
        }
    assert (await void(api, "nowhere"))["taskId"] == "nowhere"
    assert await database_state() == before


async def test_only_service_keys_that_may_charge_use_holds(api: Api, prices: RateCardCache) -> None:
    task = await start_funded_task()
    await place(api, task.task_id, "held")
    before = await database_state()
    for caller in (ALICE, BOB, READER, None):
        for query, input in (
            (PLACE, place_input(task.task_id)),
            (CAPTURE, capture_input(task.task_id, "held")),
            (VOID, {"taskId": task.task_id, "blockRunId": "held"}),
        ):
            code, _ = await api.error(caller, query, input=input)
            assert code == ("UNAUTHENTICATED" if caller is None else "FORBIDDEN")
        assert await database_state() == before


async def test_a_malformed_hold_is_a_bad_request(api: Api, prices: RateCardCache) -> None:
    task = await start_funded_task()
    before = await database_state()
    for invalid, expected_message in (
        ({"taskId": ""}, "input.taskId must have 1 to 255 visible characters"),
        ({"blockRunId": "a b"}, "input.blockRunId must have 1 to 255 visible characters"),
        ({"block": ""}, "input.block must have 1 to 255 visible characters"),
        ({"settings": [1]}, "input.settings must be an object"),
        ({"atMost": {"items": -1}}, "input.atMost.items"),
        ({"atMost": None}, "atMost"),
        ({"credits": 5}, "credits"),
        ({"timeoutSeconds": 2**40}, "timeoutSeconds"),
    ):
        code, message = await api.error(SERVICE, PLACE, input=place_input(task.task_id) | invalid)
        assert (code, expected_message in message) == ("BAD_USER_INPUT", True), message
        assert await database_state() == before


async def test_the_holds_and_budgets_of_an_account_are_listed_newest_first(api: Api, prices: RateCardCache) -> None:
    task = await start_funded_task(budget=40)
    plain = await start_task("alice")
    for run in ("one", "two", "three"):
        await place(api, plain.task_id, run, 5)
    await place(api, task.task_id, "within_budget", 7)
    await void(api, plain.task_id, "two")
    query = """query($after: String, $open: Boolean!) { account { holds(first: 2, after: $after, openOnly: $open) {
        edges { node { blockRunId block credits remaining status } } pageInfo { hasNextPage endCursor } } } }"""

    async def pages(open_only: bool) -> list[Any]:
        found: list[Any] = []
        after = None
        while True:
            page = (await api.data(ALICE, query, after=after, open=open_only))["account"]["holds"]
            found += [tuple(edge["node"].values()) for edge in page["edges"]]
            if not page["pageInfo"]["hasNextPage"]:
                return found
            after = page["pageInfo"]["endCursor"]

    budget_hold = (None, None, 40, 33, "OPEN")
    within_budget, three, one = (
        (run, "ItemBlock", size, size, "OPEN") for run, size in (("within_budget", 7), ("three", 5), ("one", 5))
    )
    assert await pages(open_only=True) == [within_budget, three, one, budget_hold]
    assert await pages(open_only=False) == [
        within_budget,
        three,
        ("two", "ItemBlock", 5, 0, "VOIDED"),
        one,
        budget_hold,
    ]
    assert (await api.data(ALICE, "{ account { balance { available held } grants { edges { node { held } } } } }"))[
        "account"
    ] == {"balance": {"available": 50, "held": 50}, "grants": {"edges": [{"node": {"held": 50}}]}}
    code, _ = await api.error(ALICE, query, after="nonsense", open=True)
    assert code == "BAD_USER_INPUT"


async def test_a_hold_is_a_node_for_callers_that_may_read_it(api: Api, prices: RateCardCache) -> None:
    await grant_credits("guild", 50)
    for owner in ("alice", "guild"):
        task = await start_funded_task() if owner == "alice" else await start_task("guild")
        await place(api, task.task_id, f"{owner}-run")
        listed = "query($owner: ID!) { account(ownerId: $owner) { holds { edges { node { id } } } } }"
        [edge] = (await api.data(SERVICE, listed, owner=owner))["account"]["holds"]["edges"]
        query = "query($id: ID!) { node(id: $id) { id ... on Hold { blockRunId task { taskId } } } }"
        whole = {"id": edge["node"]["id"], "blockRunId": f"{owner}-run", "task": {"taskId": task.task_id}}
        for caller in (ALICE, SERVICE, READER, OPERATOR):
            assert await api.data(caller, query, id=edge["node"]["id"]) == {"node": whole}
        assert await api.data(BOB, query, id=edge["node"]["id"]) == {"node": None}


async def test_a_task_shows_its_budget_its_holds_and_which_hold_paid(api: Api, prices: RateCardCache) -> None:
    task = await start_funded_task(budget=60, closing_reserve=10)
    child = await start_task("alice", parent_task_id=task.task_id)
    nested = await start_task("alice", parent_task_id=task.task_id, budget=15)
    plain = await start_task("alice")
    await place(api, task.task_id, "held", 5)
    for one in (task, child, plain):
        await api.state.charge_queue.charge(block_run_request(one, block_run_id=f"of-{one.task_id}"))
    query = """query($ids: [ID!]!) { tasks(taskIds: $ids) { taskId cost { total held }
        budget { taskId credits spent remaining closingReserve expiresAt } } }"""

    found = (await api.data(ALICE, query, ids=[one.task_id for one in (task, child, nested, plain)]))["tasks"]

    expiries = [one["budget"].pop("expiresAt") for one in found if one["budget"]]
    assert all(datetime.fromisoformat(instant) > task.started_at for instant in expiries)
    own = {"taskId": task.task_id, "credits": 60, "spent": 40, "remaining": 20, "closingReserve": 10}
    assert found == [
        {"taskId": task.task_id, "cost": {"total": 10, "held": 25}, "budget": own},
        {"taskId": child.task_id, "cost": {"total": 10, "held": 0}, "budget": own},
        {
            "taskId": nested.task_id,
            "cost": {"total": 0, "held": 15},
            "budget": {
                "taskId": nested.task_id, "credits": 15, "spent": 0, "remaining": 15, "closingReserve": 0,
            },
        },
        {"taskId": plain.task_id, "cost": {"total": 10, "held": 0}, "budget": None},
    ]  # fmt: skip
    paid = """{ account { entries(kinds: [CHARGE]) { edges { node { task { taskId }
        hold { blockRunId credits status task { taskId } } } } } } }"""
    edges = (await api.data(ALICE, paid))["account"]["entries"]["edges"]
    budget_hold = {"blockRunId": None, "credits": 60, "status": "OPEN", "task": {"taskId": task.task_id}}
    assert {edge["node"]["task"]["taskId"]: edge["node"]["hold"] for edge in edges} == {
        task.task_id: budget_hold, child.task_id: budget_hold, plain.task_id: None,
    }  # fmt: skip


async def test_charges_that_add_up_to_more_than_a_json_number_can_express_are_refused(
    api: Api, prices: RateCardCache
) -> None:
    await grant_credits("alice", MAX)
    task = await start_task("alice")
    await holds.place_hold(hold_request(task, MAX, block_run_id="all"), prices)
    await holds.capture_hold(capture_request(hold_request(task, block_run_id="all"), MAX))
    await grant_credits("alice", 40)
    await holds.place_hold(hold_request(task, 5, block_run_id="held"), prices)
    charge = "mutation($input: ChargeInput!) { charge(input: $input) { __typename ... on UserError { message } } }"
    run = {"taskId": task.task_id, "blockRunId": "run", "block": "ReplicateModelBlock"}
    refusal = {
        "__typename": "BalanceLimitReachedError",
        "message": "The cost of this task would exceed 9,007,199,254,740,991 (2^53 - 1). Nothing was changed.",
    }

    assert await api.data(SERVICE, charge, input=run) == {"charge": refusal}
    assert await capture(api, task.task_id, "held", items=5) == refusal | {"figure": "The cost of this task"}

    assert (await get_task(task)).charged == MAX
    balance = await get_balance(task.account_id)
    assert (balance.posted, balance.held) == (40, 5)


async def test_a_sum_over_tasks_beyond_what_a_json_number_can_express_is_an_error_of_its_own(
    api: Api, prices: RateCardCache
) -> None:
    for credits in (MAX, 10):
        await grant_credits("alice", credits)
        task = await start_task("alice")
        await holds.place_hold(hold_request(task, credits, block_run_id=task.task_id), prices)
        await holds.capture_hold(capture_request(hold_request(task, block_run_id=task.task_id), credits))
    agent = 'query { agent(agentId: "agent") { cost { %s } } }'

    assert await api.error(ALICE, agent % "total") == (
        "OUT_OF_RANGE",
        "A sum exceeds 9,007,199,254,740,991 (2^53 - 1): request a part of it, or leave this field out.",
    )
    assert await api.data(ALICE, agent % "taskCount") == {"agent": {"cost": {"taskCount": 2}}}
