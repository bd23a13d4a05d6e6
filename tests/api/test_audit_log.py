"""The trail: every mutation says what it leaves behind, leaves it, and operators read it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from app.api.schema import build_schema
from app.audit_log import records
from app.auth.caller import Caller
from app.db import pools
from app.engine.global_ids import encode_id
from app.engine.permissions import AuditPolicy, Permission
from app.engine.schema import audit_policies, mutations_without_audit_policy
from app.pricing.rate_card_cache import RateCardCache
from app.topups import rows as top_ups
from app.topups.rules import PaymentStatus
from app.topups.sandbox.provider import Sandbox
from tests.api.conftest import ALICE, BOB, OPERATOR, READER, SERVICE, Api
from tests.factories import ITEM_PRICES, charge_block_run, grant_credits, hold_request, start_task
from tests.topups.refund_fixtures import create_paid_top_up

pytestmark = pytest.mark.anyio

SCHEMA = build_schema()._schema
OLIVIA = replace(OPERATOR, key_id="signing-key-1")
EXECUTOR = replace(SERVICE, actor="service:0123456789abcdef", key_id="0123456789abcdef")
TRAIL = """query($first: Int! = 25, $after: String, $ownerId: ID, $actor: String, $action: String) {
    auditLog(first: $first, after: $after, ownerId: $ownerId, actor: $actor, action: $action) {
        edges { cursor node { id createdAt action subject actor keyId scope requestId reason ownerId before after } }
        pageInfo { hasNextPage endCursor } } }"""
GRANT = {"ownerId": "alice", "credits": 5, "reason": "sorry", "idempotencyKey": "k"}


def test_every_mutation_says_what_it_leaves_behind() -> None:
    assert mutations_without_audit_policy(SCHEMA) == []


def test_a_mutation_of_operators_leaves_a_record() -> None:
    assert SCHEMA.mutation_type is not None
    for name, trail in audit_policies(SCHEMA).items():
        if SCHEMA.mutation_type.fields[name].extensions["strawberry-definition"].needs is Permission.OPERATOR:
            assert trail is AuditPolicy.SERVICES_AND_OPERATORS, name


def test_what_moves_credits_by_everyday_work_is_the_ledgers_own() -> None:
    assert {name for name, trail in audit_policies(SCHEMA).items() if trail is AuditPolicy.OPERATORS} == {
        "charge", "chargeBatch", "placeHold", "captureHold",
    }  # fmt: skip


async def sent(api: Api, viewer: Caller, name: str, **input: Any) -> Any:
    """The one mutation with this input, which must succeed."""
    kind = name[0].upper() + name[1:]
    query = (
        f"mutation($input: {kind}Input!) {{ {name}(input: $input) {{ __typename ... on UserError {{ message }} }} }}"
    )
    done = (await api.data(viewer, query, input=input))[name]
    assert done["__typename"] == f"{kind}Success", done
    return done


async def the_trail(api: Api, **chosen: Any) -> list[Any]:
    edges = (await api.data(OPERATOR, TRAIL, **chosen))["auditLog"]["edges"]
    return [edge["node"] for edge in edges]


async def carried_out(api: Api, rate_cards: RateCardCache) -> dict[str, tuple[Caller, str | None]]:
    """Every mutation that leaves a record, once with an effect: who did it, and for which reason."""
    done: dict[str, tuple[Caller, str | None]] = {}

    async def act(viewer: Caller, name: str, **input: Any) -> None:
        await sent(api, viewer, name, **input)
        done[name] = viewer, input.get("reason")

    await grant_credits("alice", 1_000)
    await act(OLIVIA, "grantCredits", **GRANT)
    await act(OLIVIA, "revokeGrant", grantId=await a_grant_of(api), reason="too much", idempotencyKey="r")
    await act(EXECUTOR, "startTask", taskId="t", ownerId="alice", agentId="a")
    task = (await start_task("alice", task_id="stays")).task_id
    held = hold_request(task, block="ReplicateModelBlock", at_most=1)
    await charge_block_run(await start_task("alice", task_id="c"), rate_cards, block_run_id="c-1")
    await charge_block_run(await start_task("alice", task_id="d"), rate_cards, block_run_id="d-1")
    await sent(api, EXECUTOR, "placeHold", taskId="stays", blockRunId=held.block_run_id, block="ReplicateModelBlock",
               atMost={}, timeoutSeconds=60)  # fmt: skip
    await act(EXECUTOR, "voidHold", taskId="stays", blockRunId=held.block_run_id)
    await act(OLIVIA, "reverseCharge", taskId="c", blockRunId="c-1", reason="it failed", idempotencyKey="rc")
    await act(OLIVIA, "reverseTask", taskId="d", reason="all of it failed", idempotencyKey="rt")
    await act(EXECUTOR, "finishTask", taskId="t", status="COMPLETED")
    await act(EXECUTOR, "cancelTask", taskId="stays")
    await start_task("alice", task_id="stopped")
    await pools.fetch("UPDATE task SET status = 'STOPPED', stop_reason = 'OUT_OF_CREDITS' WHERE task_id = 'stopped'")
    await act(EXECUTOR, "resumeTask", taskId="stopped")
    await act(OLIVIA, "beginTopUp", credits=500, idempotencyKey="b")
    [begun] = await pools.fetch("SELECT account_id, id FROM top_up")
    bought = await top_ups.find(begun["account_id"], begun["id"])
    assert bought is not None
    sandbox = api.house.payment_provider
    assert isinstance(sandbox, Sandbox)
    page = await sandbox.find_payment_page(bought.reference)
    assert page is not None
    await sandbox.decide_payment(page, PaymentStatus.PAID)
    await act(OLIVIA, "confirmTopUp", topUpId=encode_id("TopUp", bought.account_id, bought.id))
    await act(OLIVIA, "openBillingPortal", returnUrl="https://app.example/")
    await charge_block_run(await start_task("alice", task_id="f"), rate_cards, block_run_id="f-1")
    await act(EXECUTOR, "finishBlockRun", taskId="f", blockRunId="f-1", outcome="SUCCEEDED")
    await act(OLIVIA, "setAutoTopUp", enabled=True, threshold=100, amount=1_000, consentVersion="1", idempotencyKey="s")
    await act(EXECUTOR, "setLowBalanceThreshold", ownerId="alice", credits=7, idempotencyKey="l")
    await grant_credits("carol", 10)
    await sent(api, EXECUTOR, "setLowBalanceThreshold", ownerId="carol", credits=9, idempotencyKey="l")
    carols = await start_task("carol", task_id="carols")
    await charge_block_run(carols, rate_cards)
    await act(EXECUTOR, "markNotificationsRead", ownerId="carol")
    top_up = await create_paid_top_up("dora", credits=1_000)
    name = encode_id("TopUp", top_up.account_id, top_up.id)
    await act(OLIVIA, "refundTopUp", topUpId=name, credits=400, reason="asked for it", idempotencyKey="rf")
    await act(OLIVIA, "publishRateCard", document=ITEM_PRICES, reason="new prices", idempotencyKey="p")
    return done


async def a_grant_of(api: Api) -> str:
    edges = await api.data(OPERATOR, '{ account(ownerId: "alice") { grants { edges { node { id } } } } }')
    name: str = edges["account"]["grants"]["edges"][0]["node"]["id"]
    return name


async def test_every_mutation_that_is_to_leave_a_record_leaves_one_that_says_all(
    api: Api, rate_cards: RateCardCache
) -> None:
    done = await carried_out(api, rate_cards)
    assert set(done) == {
        name for name, trail in audit_policies(SCHEMA).items() if trail is AuditPolicy.SERVICES_AND_OPERATORS
    }
    for name, (viewer, reason) in done.items():
        record = (await the_trail(api, action=name))[-1]
        assert (record["actor"], record["keyId"], record["reason"]) == (viewer.actor, viewer.key_id, reason), name
        assert record["scope"] == ("admin" if viewer is OLIVIA else "charge")
        assert len(record["requestId"]) == 16
        assert record["after"], name
        assert (record["before"] is None) == (
            name in {"startTask", "beginTopUp", "openBillingPortal", "setAutoTopUp"}
        ), name


async def test_a_record_says_what_was_before_and_after(api: Api) -> None:
    await grant_credits("alice", 10)
    await sent(api, OLIVIA, "grantCredits", **GRANT)
    [record] = await the_trail(api)
    assert record["subject"] == "grant 2"
    assert record["ownerId"] == "alice"
    assert record["before"] == {"version": 1, "posted": 10, "held": 0, "frozen": 0, "owed": 0}
    assert record["after"] == {
        "version": 2, "posted": 15, "held": 0, "frozen": 0, "owed": 0, "credits": 5, "source": "PROMOTIONAL",
    }  # fmt: skip
    [entry] = await pools.fetch("SELECT actor, request_id, reason FROM entry WHERE seq = 2")
    assert tuple(entry) == ("operator:olivia", record["requestId"], "sorry")


async def test_a_charge_leaves_its_entry_with_actor_key_and_request(api: Api, rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 100)
    await start_task("alice", task_id="t")
    await sent(api, EXECUTOR, "charge", taskId="t", blockRunId="b", block="ReplicateModelBlock")
    [entry] = await pools.fetch("SELECT actor, length(request_id) FROM entry WHERE kind = 'CHARGE'")
    assert tuple(entry) == ("service:0123456789abcdef", 16)
    assert await the_trail(api) == []


@pytest.mark.parametrize("free", [False, True], ids=["paid", "free"])
async def test_whatever_is_its_own_trail_names_actor_key_and_request(api: Api, free: bool) -> None:
    await grant_credits("alice", 100)
    await start_task("alice", task_id="t")
    run = {"taskId": "t", "block": "ReplicateModelBlock", "usesOwnKey": free}
    runs = "SELECT actor, request_id FROM block_run WHERE block_run_id = $1"
    holds = "SELECT actor, request_id FROM hold WHERE block_run_id = $1"
    left: dict[str, Sequence[Any]] = {}
    await sent(api, EXECUTOR, "charge", **run, blockRunId="one")
    left["charge"] = await pools.fetch(runs, "one")
    batch = "mutation($input: [ChargeInput!]!) { chargeBatch(input: $input) { __typename } }"
    await api.data(EXECUTOR, batch, input=[run | {"blockRunId": "two"}])
    left["chargeBatch"] = await pools.fetch(runs, "two")
    await sent(api, EXECUTOR, "placeHold", **run, blockRunId="held", atMost={}, timeoutSeconds=60)
    left["placeHold"] = await pools.fetch(holds, "held")
    await sent(api, EXECUTOR, "captureHold", taskId="t", blockRunId="held", measurements={})
    left["captureHold"] = await pools.fetch(runs, "held")
    assert set(left) == {name for name, trail in audit_policies(SCHEMA).items() if trail is AuditPolicy.OPERATORS}
    for name, rows in left.items():
        assert [row["actor"] for row in rows] == [f"service:{EXECUTOR.key_id}"], name
        assert len(rows[0]["request_id"]) == 16, name
    assert len({rows[0]["request_id"] for rows in left.values()}) == 4
    entries = await pools.fetch("SELECT actor, request_id FROM entry WHERE kind = 'CHARGE' ORDER BY seq")
    said = [left[name][0] for name in ("charge", "chargeBatch", "captureHold")]
    assert list(map(tuple, entries)) == ([] if free else list(map(tuple, said)))


@pytest.mark.parametrize("free", [False, True], ids=["paid", "free"])
async def test_what_an_operator_charges_and_holds_leaves_a_record_too_that_names_its_tokens_key(
    api: Api, free: bool
) -> None:
    await grant_credits("alice", 100)
    await start_task("alice", task_id="t")
    run = {"taskId": "t", "block": "ReplicateModelBlock", "usesOwnKey": free}
    batch = "mutation($input: [ChargeInput!]!) { chargeBatch(input: $input) { __typename } }"
    for _ in range(2):  # the second time all of it is a replay
        await sent(api, OLIVIA, "charge", **run, blockRunId="one")
        await api.data(OLIVIA, batch, input=[run | {"blockRunId": "two"}, run | {"blockRunId": "three"}])
        await sent(api, OLIVIA, "placeHold", **run, blockRunId="held", atMost={}, timeoutSeconds=60)
        await sent(api, OLIVIA, "captureHold", taskId="t", blockRunId="held", measurements={})
    left = (await the_trail(api))[::-1]
    assert {(one["actor"], one["keyId"], one["scope"], one["ownerId"]) for one in left} == {
        ("operator:olivia", "signing-key-1", "admin", "alice")
    }
    assert [(one["action"], one["subject"]) for one in left] == [
        ("charge", "task t block run one"),
        ("chargeBatch", "task t block run two"),
        ("chargeBatch", "task t block run three"),
        ("placeHold", "task t block run held"),
        ("captureHold", "task t block run held"),
    ]
    ids = [row["request_id"] for row in await pools.fetch("SELECT request_id FROM block_run ORDER BY position")]
    assert [one["requestId"] for one in left if one["action"] != "placeHold"] == ids
    cost = 0 if free else 10
    assert [one["after"].get("cost") for one in left] == [cost, cost, cost, None, cost]
    charges = left[:3]
    assert [one["before"]["posted"] - one["after"]["posted"] for one in charges] == [cost] * 3
    held, captured = left[3:]
    assert (held["before"], held["after"]) == (None, {"status": "OPEN", "held": cost})
    assert (captured["before"], captured["after"]) == (held["after"], {"status": "CAPTURED", "held": 0, "cost": cost})


async def test_a_task_that_an_operators_unpaid_block_run_stops_is_in_the_trail_once(api: Api) -> None:
    await grant_credits("alice", 15)
    kinds: dict[str, dict[str, Any]] = {
        "charge": {"block": "ReplicateModelBlock"},
        "placeHold": {"block": "ReplicateModelBlock", "atMost": {}, "timeoutSeconds": 60},
    }
    for name in kinds:
        await start_task("alice", task_id=name)
    await sent(api, EXECUTOR, "charge", taskId="charge", blockRunId="paid", block="ReplicateModelBlock")
    for name, input in kinds.items():
        kind = name[0].upper() + name[1:]
        query = f"mutation($input: {kind}Input!) {{ {name}(input: $input) {{ __typename }} }}"
        told = []
        for _ in range(2):
            done = await api.data(OLIVIA, query, input=input | {"taskId": name, "blockRunId": f"{name}-unpaid"})
            told.append(done[name]["__typename"])
        assert told == ["InsufficientCreditsError", "TaskStoppedError"]
    assert [
        (one["action"], one["subject"], one["keyId"], one["before"], one["after"]) for one in await the_trail(api)
    ][::-1] == [
        (name, f"task {name}", "signing-key-1", {"status": "RUNNING"},
         {"status": "STOPPED", "stopReason": "OUT_OF_CREDITS", "required": 10})
        for name in kinds
    ]  # fmt: skip


async def test_a_new_customer_of_the_provider_is_written_down_with_its_record_or_not_at_all(api: Api) -> None:
    portal = "mutation($input: OpenBillingPortalInput!) { openBillingPortal(input: $input) { __typename } }"
    await pools.fetch("ALTER TABLE audit_record ADD CONSTRAINT broken CHECK (false) NOT VALID")
    try:
        answer = await api.execute(OLIVIA, portal, input={"returnUrl": "https://app.example/"})
    finally:
        await pools.fetch("ALTER TABLE audit_record DROP CONSTRAINT broken")
    assert answer["errors"][0]["extensions"]["code"] == "INTERNAL"
    assert await pools.fetch("SELECT 1 FROM payment_customer") == []
    for _ in range(2):
        await sent(api, OLIVIA, "openBillingPortal", returnUrl="https://app.example/")
    [customer] = await pools.fetch("SELECT provider, customer_ref FROM payment_customer")
    assert [one["after"] for one in await the_trail(api)] == [
        {"provider": customer["provider"], "customer": customer["customer_ref"]}
    ] * 2


async def test_who_gets_no_money_confirmed_leaves_no_record(api: Api) -> None:
    """Confirming a top-up that is not paid yet, or that its notice settled before, changes nothing."""
    sandbox = api.house.payment_provider
    assert isinstance(sandbox, Sandbox)
    await sent(api, OLIVIA, "beginTopUp", credits=500, idempotencyKey="b")
    [begun] = await pools.fetch("SELECT account_id, id FROM top_up")
    bought = await top_ups.find(begun["account_id"], begun["id"])
    assert bought is not None
    name = encode_id("TopUp", bought.account_id, bought.id)
    await sent(api, OLIVIA, "confirmTopUp", topUpId=name)
    assert await the_trail(api, action="confirmTopUp") == []
    page = await sandbox.find_payment_page(bought.reference)
    assert page is not None
    await sandbox.decide_payment(page, PaymentStatus.DECLINED)
    for _ in range(2):  # the second time it is settled already
        await sent(api, OLIVIA, "confirmTopUp", topUpId=name)
    [record] = await the_trail(api, action="confirmTopUp")
    assert (record["before"]["status"], record["after"]["status"]) == ("PENDING", "FAILED")


async def test_whatever_users_do_for_themselves_leaves_no_record(api: Api) -> None:
    await grant_credits("alice", 10)
    await sent(api, ALICE, "beginTopUp", credits=500, idempotencyKey="b")
    [begun] = await pools.fetch("SELECT account_id, id FROM top_up")
    await sent(api, ALICE, "confirmTopUp", topUpId=encode_id("TopUp", begun["account_id"], begun["id"]))
    await sent(api, ALICE, "openBillingPortal", returnUrl="https://app.example/")
    await sent(api, ALICE, "setAutoTopUp", enabled=True, threshold=100, amount=1_000, consentVersion="1",
               idempotencyKey="s")  # fmt: skip
    await start_task("alice", task_id="t")
    await sent(api, ALICE, "cancelTask", taskId="t")
    await sent(api, ALICE, "markNotificationsRead")
    await sent(api, ALICE, "setLowBalanceThreshold", credits=7, idempotencyKey="l")
    assert await the_trail(api) == []


async def test_operators_and_nobody_else_read_an_entrys_request(api: Api) -> None:
    await sent(api, OLIVIA, "grantCredits", **GRANT)
    [record] = await the_trail(api)
    query = '{ account(ownerId: "alice") { entries { edges { node { requestId } } } } }'
    edges = (await api.data(OPERATOR, query))["account"]["entries"]["edges"]
    assert edges == [{"node": {"requestId": record["requestId"]}}]
    answer = await api.execute(ALICE, query)
    assert answer["data"]["account"]["entries"]["edges"] == [{"node": {"requestId": None}}]
    assert [error["extensions"]["code"] for error in answer["errors"]] == ["FORBIDDEN"]


async def test_a_replay_and_a_refusal_leave_no_second_record(api: Api) -> None:
    await sent(api, OLIVIA, "grantCredits", **GRANT)
    await sent(api, OLIVIA, "grantCredits", **GRANT)
    grant = "mutation($input: GrantCreditsInput!) { grantCredits(input: $input) { __typename } }"
    other = await api.data(OLIVIA, grant, input=GRANT | {"credits": 6})
    wrong = await api.data(OLIVIA, grant, input=GRANT | {"credits": -1, "idempotencyKey": "other"})
    assert other == {"grantCredits": {"__typename": "IdempotencyConflictError"}}
    assert wrong == {"grantCredits": {"__typename": "InvalidInputError"}}
    assert len(await the_trail(api)) == 1


async def test_a_record_is_rolled_back_with_its_effect(api: Api) -> None:
    await grant_credits("alice", 10)
    await pools.fetch("ALTER TABLE entry ADD CONSTRAINT broken CHECK (credits < 5) NOT VALID")
    try:
        answer = await api.execute(OLIVIA, "mutation($input: GrantCreditsInput!) { grantCredits(input: $input) "
                               "{ __typename } }", input=GRANT)  # fmt: skip
    finally:
        await pools.fetch("ALTER TABLE entry DROP CONSTRAINT broken")
    assert answer["errors"][0]["extensions"]["code"] == "INTERNAL"
    assert await the_trail(api) == []


async def test_an_effect_without_its_record_is_rolled_back(api: Api) -> None:
    await grant_credits("alice", 10)
    await pools.fetch("ALTER TABLE audit_record ADD CONSTRAINT broken CHECK (false) NOT VALID")
    try:
        answer = await api.execute(OLIVIA, "mutation($input: GrantCreditsInput!) { grantCredits(input: $input) "
                               "{ __typename } }", input=GRANT)  # fmt: skip
    finally:
        await pools.fetch("ALTER TABLE audit_record DROP CONSTRAINT broken")
    assert answer["errors"][0]["extensions"]["code"] == "INTERNAL"
    assert [record["credits"] for record in await pools.fetch("SELECT credits FROM entry")] == [10]


async def test_pages_are_newest_first_and_by_owner_actor_and_action(api: Api) -> None:
    otto = replace(OLIVIA, actor="operator:otto")
    for number in (1, 2, 3):
        for viewer, owner in ((OLIVIA, "alice"), (otto, "bob")):
            input = GRANT | {"ownerId": owner, "credits": number, "idempotencyKey": f"k{number}"}
            await sent(api, viewer, "grantCredits", **input)
    await sent(api, otto, "setLowBalanceThreshold", ownerId="alice", credits=7, idempotencyKey="l")
    first = (await api.data(OPERATOR, TRAIL, first=2))["auditLog"]
    rest = (await api.data(OPERATOR, TRAIL, first=100, after=first["pageInfo"]["endCursor"]))["auditLog"]
    found = [edge["node"] for edge in first["edges"] + rest["edges"]]
    assert [one["action"] for one in found] == ["setLowBalanceThreshold", *["grantCredits"] * 6]
    assert [one["createdAt"] for one in found] == sorted((one["createdAt"] for one in found), reverse=True)
    assert (first["pageInfo"]["hasNextPage"], rest["pageInfo"]["hasNextPage"]) == (True, False)
    assert found == await the_trail(api)
    assert [one["after"].get("credits") for one in await the_trail(api, ownerId="alice")] == [None, 3, 2, 1]
    assert len(await the_trail(api, actor="operator:otto")) == 4
    assert len(await the_trail(api, action="setLowBalanceThreshold")) == 1
    assert len(await the_trail(api, ownerId="alice", actor="operator:otto", action="setLowBalanceThreshold")) == 1
    assert await the_trail(api, ownerId="alice", actor="operator:otto", action="grantCredits") == []
    assert await the_trail(api, ownerId="nobody") == []


async def test_a_cursor_of_other_filters_is_refused(api: Api) -> None:
    for number in (1, 2):
        await sent(api, OLIVIA, "grantCredits", **(GRANT | {"idempotencyKey": f"k{number}"}))
    cursor = (await api.data(OPERATOR, TRAIL, first=1))["auditLog"]["pageInfo"]["endCursor"]
    code, message = await api.error(OPERATOR, TRAIL, after=cursor, ownerId="alice")
    assert code == "BAD_USER_INPUT"
    assert message.startswith("after is not a cursor of this list")


@pytest.mark.parametrize("actor", ["", "a b", "a" * 301, "a\x00"])
async def test_what_is_no_actor_is_refused(api: Api, actor: str) -> None:
    assert await api.error(OPERATOR, TRAIL, actor=actor) == (
        "BAD_USER_INPUT", "actor must have 1 to 300 visible characters, without spaces.",
    )  # fmt: skip


@pytest.mark.parametrize("viewer", [ALICE, BOB, SERVICE, READER], ids=lambda viewer: viewer.actor)
async def test_nobody_but_operators_reads_it_by_list_or_by_id(api: Api, viewer: Caller) -> None:
    await sent(api, OLIVIA, "grantCredits", **GRANT)
    node = "query($id: ID!) { node(id: $id) { __typename id } }"
    id = (await api.data(OPERATOR, "{ auditLog { edges { node { id } } } }"))["auditLog"]["edges"][0]["node"]["id"]
    assert (await api.data(OPERATOR, node, id=id))["node"] == {"__typename": "AuditRecord", "id": id}
    assert (await api.data(viewer, node, id=id))["node"] is None
    assert await api.error(viewer, TRAIL) == ("FORBIDDEN", "This needs an operator.")


async def test_pages_go_by_an_index_whatever_is_asked_for(db: str) -> None:
    await pools.fetch(
        "INSERT INTO audit_record (at, account_id, action, subject, actor, scope)"
        " SELECT now(), n % 2000, 'a' || n % 2000, 's', 'operator:' || n % 2000, 'admin'"
        " FROM generate_series(1, 20000) AS n"
    )
    await pools.fetch("ANALYZE audit_record")
    for sql, index, values in (
        (records._PAGE, "audit_record_pkey", (records.MAX_RECORD_ID, 26)),
        (records._OF_ACCOUNT, "audit_record_of_account", (records.MAX_RECORD_ID, 26, 7, None, None)),
        (records._OF_ACTOR, "audit_record_of_actor", (records.MAX_RECORD_ID, 26, "operator:7", None)),
        (records._OF_ACTION, "audit_record_of_action", (records.MAX_RECORD_ID, 26, "a7")),
    ):
        plan = "\n".join(record[0] for record in await pools.fetch(f"EXPLAIN {sql}", *values))
        assert index in plan, plan
        assert "Seq Scan" not in plan
