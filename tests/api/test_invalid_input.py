"""Invalid input: each case has a typed error, and nothing is written."""

from typing import Any

import orjson
import pytest

from app.db import pools
from app.engine.transports.request_parsing import parse_body
from tests.api.conftest import ALICE, OPERATOR, SERVICE, Api
from tests.factories import grant_credits, start_task

pytestmark = pytest.mark.anyio

CHARGE = "mutation($input: ChargeInput!) { charge(input: $input) { __typename ... on UserError { message } } }"
GRANT = """mutation($input: GrantCreditsInput!) { grantCredits(input: $input) { __typename
    ... on InvalidInputError { problems { path message } } ... on UserError { message } } }"""
TOP_UP = """mutation($input: BeginTopUpInput!) { beginTopUp(input: $input) { __typename
    ... on InvalidInputError { problems { path } } } }"""
START = "mutation($input: StartTaskInput!) { startTask(input: $input) { __typename ... on UserError { message } } }"
COUNTS = """SELECT (SELECT count(*) FROM entry) AS entries, (SELECT count(*) FROM task) AS tasks,
    (SELECT count(*) FROM block_run) AS runs, (SELECT count(*) FROM operation) AS operations,
    (SELECT count(*) FROM account) AS accounts, (SELECT count(*) FROM top_up) AS top_ups"""


async def counts() -> dict[str, int]:
    return dict((await pools.fetch(COUNTS))[0])


def nested(depth: int) -> Any:
    settings: Any = 1
    for _ in range(depth):
        settings = {"a": settings}
    return settings


async def test_a_malformed_charge_is_a_bad_request(api: Api) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice")
    before = await counts()
    good = {"taskId": task.task_id, "blockRunId": "run", "block": "ReplicateModelBlock"}
    for invalid, expected_message in (
        ({"taskId": ""}, "input.taskId must have 1 to 255 visible characters"),
        ({"taskId": "x" * 256}, "input.taskId must have 1 to 255 visible characters"),
        ({"blockRunId": "a b"}, "input.blockRunId must have 1 to 255 visible characters"),
        ({"blockRunId": "a\x00"}, "input.blockRunId must have 1 to 255 visible characters"),
        ({"block": ""}, "input.block must have 1 to 255 visible characters"),
        ({"settings": nested(100)}, "nested"),
        ({"settings": {"a": "x" * 1_000_000}}, "8,192 bytes"),
        ({"settings": [1]}, "input.settings must be an object"),
        ({"settings": "model"}, "input.settings must be an object"),
        ({"measurements": {"seconds": -1}}, "input.measurements.seconds"),
        ({"measurements": {"usd": "1e999"}}, "input.measurements.usd"),
        ({"measurements": {"items": 2**60}}, "2^53"),
        ({"measurements": {"weight": 1}}, "weight"),
        ({"credits": 5}, "credits"),
        ({"usesOwnKey": "yes"}, "usesOwnKey"),
        ({"taskId": None}, "taskId"),
    ):
        code, message = await api.error(SERVICE, CHARGE, input=good | invalid)
        assert code == "BAD_USER_INPUT"
        assert expected_message in message
        batch = "mutation($input: [ChargeInput!]!) { chargeBatch(input: $input) { __typename } }"
        assert (await api.error(SERVICE, batch, input=[good, good | invalid]))[0] == "BAD_USER_INPUT"
        assert await counts() == before


@pytest.mark.parametrize(
    ("name", "number", "problem"),
    [
        ("blockRunId", "12345678901234567890123", "An id must be a string"),
        ("blockRunId", "9007199254740993", "An id must be a string"),
        ("taskId", "1e3", "An id must be a string"),
        ("settings", '{"seed": 18446744073709551616}', "Its whole numbers must fit 64 bits."),
        ("settings", '{"seed": 9007199254740993.0}', "Its numbers must fit a double without rounding"),
        ("measurements", '{"seconds": 1.00000000000000001}', "Float cannot represent non numeric value"),
        ("measurements", '{"items": 9007199254740993}', "It must lie within"),
        ("measurements", '{"bytes": 1e3}', "without fraction and exponent"),
    ],
)
async def test_a_charge_with_a_number_that_would_be_rounded_is_refused(
    api: Api, name: str, number: str, problem: str
) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice")
    before = await counts()
    good = {"taskId": task.task_id, "blockRunId": "run", "block": "ReplicateModelBlock"} | {name: "NUMBER"}
    body = orjson.dumps({"query": CHARGE, "variables": {"input": good}}).replace(b'"NUMBER"', number.encode())

    code, message = await api.error(SERVICE, CHARGE, **(parse_body(body).variables or {}))

    assert code == "BAD_USER_INPUT"
    assert problem in message
    assert f"at .{name}" in message
    assert await counts() == before


async def test_a_batch_has_one_to_a_thousand_items(api: Api) -> None:
    item = {"taskId": "t", "blockRunId": "r", "block": "NoteBlock"}
    batch = "mutation($input: [ChargeInput!]!) { chargeBatch(input: $input) { __typename } }"
    for count in (0, 1001):
        code, message = await api.error(SERVICE, batch, input=[item] * count)
        assert (code, message) == ("BAD_USER_INPUT", f"input must have 1 to 1,000 items; it has {count:,}.")


async def test_each_unknown_id_has_its_own_error(api: Api) -> None:
    charged = await api.data(SERVICE, CHARGE, input={"taskId": "nowhere", "blockRunId": "r", "block": "NoteBlock"})
    assert charged["charge"] == {
        "__typename": "TaskNotFoundError",
        "message": 'Task "nowhere" does not exist: start it with startTask.',
    }
    reverse = "mutation($input: ReverseChargeInput!) { reverseCharge(input: $input) { __typename } }"
    input = {"taskId": "nowhere", "blockRunId": "r", "reason": "x", "idempotencyKey": "k"}
    assert (await api.data(OPERATOR, reverse, input=input))["reverseCharge"] == {"__typename": "TaskNotFoundError"}
    await grant_credits("alice", 10)
    task = await start_task("alice")
    input |= {"taskId": task.task_id}
    assert (await api.data(OPERATOR, reverse, input=input))["reverseCharge"] == {"__typename": "BlockRunNotFoundError"}
    revoke = (
        'mutation($id: ID!) { revokeGrant(input: {grantId: $id, reason: "x", idempotencyKey: "k"}) { __typename } }'
    )
    for garbage in ("garbage", "", "WyJHcmFudCIsOTk5OSwxXQ", "x" * 5000):
        assert (await api.data(OPERATOR, revoke, id=garbage))["revokeGrant"] == {"__typename": "GrantNotFoundError"}
    assert await api.data(ALICE, '{ node(id: "garbage") { id } topUp(id: "garbage") { id } }') == {
        "node": None,
        "topUp": None,
    }


async def test_an_invalid_grant_reports_the_path_of_the_problem(api: Api) -> None:
    good = {"ownerId": "alice", "credits": 5, "reason": "welcome", "idempotencyKey": "k"}
    for invalid, path in (
        ({"credits": 0}, "credits"),
        ({"credits": -5}, "credits"),
        ({"idempotencyKey": ""}, "idempotencyKey"),
        ({"idempotencyKey": "k" * 256}, "idempotencyKey"),
        ({"reason": " "}, "reason"),
        ({"reason": "x" * 1001}, "reason"),
        ({"priority": 1001}, "priority"),
        ({"expiresAt": "2020-01-01T00:00:00Z"}, "expiresAt"),
        ({"startsAt": "2099-01-02T00:00:00Z", "expiresAt": "2099-01-01T00:00:00Z"}, "expiresAt"),
    ):
        found = (await api.data(OPERATOR, GRANT, input=good | invalid))["grantCredits"]
        assert found["__typename"] == "InvalidInputError"
        assert [problem["path"] for problem in found["problems"]] == [path]
        assert (await counts())["entries"] == 0


async def test_a_grant_of_the_wrong_type_is_a_bad_request(api: Api) -> None:
    good = {"ownerId": "alice", "credits": 5, "reason": "welcome", "idempotencyKey": "k"}
    for invalid in (
        {"credits": 2**53},
        {"credits": 1.5},
        {"credits": "5"},
        {"startsAt": "yesterday"},
        {"startsAt": "2099-01-01"},
        {"startsAt": "1999-12-31T23:59:59Z"},
        {"expiresAt": "9999-01-01T00:00:00.000001Z"},
        {"expiresAt": "9999-12-31T23:59:59.9999999Z"},
    ):
        assert (await api.error(OPERATOR, GRANT, input=good | invalid))[0] == "BAD_USER_INPUT"


async def test_an_account_with_the_latest_expiry_stays_usable(api: Api) -> None:
    latest = {"ownerId": "alice", "credits": 5, "reason": "welcome"} | {
        "startsAt": "2000-01-01T00:00:00Z",
        "expiresAt": "9999-01-01T00:00:00Z",
    }
    for key in ("k1", "k2"):
        found = (await api.data(OPERATOR, GRANT, input=latest | {"idempotencyKey": key}))["grantCredits"]
        assert found["__typename"] == "GrantCreditsSuccess"
    found = await api.data(ALICE, "{ account { balance { available } grants { edges { node { expiresAt } } } } }")
    assert found["account"] == {
        "balance": {"available": 10},
        "grants": {"edges": [{"node": {"expiresAt": "9999-01-01T00:00:00Z"}}] * 2},
    }


async def test_a_grant_above_the_limit_of_the_balance_is_refused(api: Api) -> None:
    most = {"ownerId": "alice", "credits": 2**53 - 1, "reason": "all there is", "idempotencyKey": "k1"}
    assert (await api.data(OPERATOR, GRANT, input=most))["grantCredits"]["__typename"] == "GrantCreditsSuccess"
    one_more = most | {"credits": 1, "idempotencyKey": "k2"}
    assert (await api.data(OPERATOR, GRANT, input=one_more))["grantCredits"] == {
        "__typename": "BalanceLimitReachedError",
        "message": "The balance would exceed 9,007,199,254,740,991 (2^53 - 1). Nothing was changed.",
    }
    assert (await api.data(ALICE, "{ account { balance { posted } } }"))["account"]["balance"]["posted"] == 2**53 - 1


async def test_a_task_without_available_credits_does_not_start_and_creates_no_account(api: Api) -> None:
    input = {"taskId": "t1", "ownerId": "alice", "agentId": "a"}
    assert (await api.data(SERVICE, START, input=input))["startTask"]["__typename"] == "InsufficientCreditsError"
    assert await counts() == {
        "entries": 0,
        "tasks": 0,
        "runs": 0,
        "operations": 0,
        "accounts": 0,
        "top_ups": 0,
    }


async def test_a_task_id_is_unique_on_the_platform(api: Api) -> None:
    await grant_credits("alice", 10)
    await grant_credits("bob", 10)
    input = {"taskId": "t1", "ownerId": "alice", "agentId": "a"}
    assert (await api.data(SERVICE, START, input=input))["startTask"]["__typename"] == "StartTaskSuccess"
    for other in (input | {"ownerId": "bob"}, input | {"agentId": "b"}, input | {"ownerId": "new"}):
        found = (await api.data(SERVICE, START, input=other))["startTask"]
        assert found["__typename"] == "IdempotencyConflictError"
