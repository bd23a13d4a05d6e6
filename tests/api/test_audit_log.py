"""The audit log: every mutation has a policy and follows it, and operators read the records."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from app.api.schema import build_schema
from app.audit_log import records
from app.auth.caller import Caller, Scope
from app.db import pools
from app.engine.global_ids import encode_id
from app.engine.permissions import AuditPolicy, Permission
from app.engine.schema import audit_policies, mutations_without_audit_policy
from app.outgoing_webhooks import deliveries, endpoints
from app.pricing.rate_card_cache import RateCardCache
from app.topups import queries as top_ups
from app.topups.rules import PaymentStatus
from app.topups.sandbox.provider import Sandbox
from tests.api.conftest import ALICE, BOB, OPERATOR, READER, SERVICE, Api
from tests.factories import ITEM_PRICES, charge_block_run, grant_credits, hold_request, start_task
from tests.topups.refund_fixtures import create_paid_top_up

pytestmark = pytest.mark.anyio

SCHEMA = build_schema()._schema
OLIVIA = replace(OPERATOR, key_id="signing-key-1")
CHARGING_OLIVIA = replace(OLIVIA, scopes=OLIVIA.scopes | {Scope.CHARGE})
EXECUTOR = replace(SERVICE, actor="service:0123456789abcdef", key_id="0123456789abcdef")
AUDIT_LOG = """query($first: Int! = 25, $after: String, $ownerId: ID, $actor: String, $action: String) {
    auditLog(first: $first, after: $after, ownerId: $ownerId, actor: $actor, action: $action) {
        edges { cursor node { id createdAt action subject actor keyId scope requestId reason ownerId before after } }
        pageInfo { hasNextPage endCursor } } }"""
WEBHOOKS_WITHOUT_BEFORE = {"createWebhookEndpoint", "redeliverWebhook"}
GRANT = {"ownerId": "alice", "credits": 5, "reason": "sorry", "idempotencyKey": "k"}


def test_every_mutation_has_an_audit_policy() -> None:
    assert mutations_without_audit_policy(SCHEMA) == []


def test_operator_mutations_are_always_recorded() -> None:
    assert SCHEMA.mutation_type is not None
    for name, policy in audit_policies(SCHEMA).items():
        if SCHEMA.mutation_type.fields[name].extensions["strawberry-definition"].needs is Permission.OPERATOR:
            assert policy is AuditPolicy.SERVICES_AND_OPERATORS, name


def test_charges_and_holds_are_recorded_for_operators_only() -> None:
    assert {name for name, policy in audit_policies(SCHEMA).items() if policy is AuditPolicy.OPERATORS} == {
        "charge", "chargeBatch", "placeHold", "captureHold",
    }  # fmt: skip


async def send(api: Api, caller: Caller, name: str, **input: Any) -> Any:
    """Send this mutation, which must succeed."""
    kind = name[0].upper() + name[1:]
    query = (
        f"mutation($input: {kind}Input!) {{ {name}(input: $input) {{ __typename ... on UserError {{ message }} }} }}"
    )
    done = (await api.data(caller, query, input=input))[name]
    assert done["__typename"] == f"{kind}Success", done
    return done


async def audit_log(api: Api, **chosen: Any) -> list[Any]:
    edges = (await api.data(OPERATOR, AUDIT_LOG, **chosen))["auditLog"]["edges"]
    return [edge["node"] for edge in edges]


async def execute_recorded_mutations(api: Api, rate_cards: RateCardCache) -> dict[str, tuple[Caller, str | None]]:
    """Execute every recorded mutation once with an effect. Returns the caller and the reason of each."""
    done: dict[str, tuple[Caller, str | None]] = {}

    async def execute(caller: Caller, name: str, **input: Any) -> None:
        await send(api, caller, name, **input)
        done[name] = caller, input.get("reason")

    await grant_credits("alice", 1_000)
    await execute(OLIVIA, "grantCredits", **GRANT)
    await execute(OLIVIA, "revokeGrant", grantId=await a_grant_of(api), reason="too much", idempotencyKey="r")
    await execute(EXECUTOR, "startTask", taskId="t", ownerId="alice", agentId="a")
    task = (await start_task("alice", task_id="stays")).task_id
    held = hold_request(task, block="ReplicateModelBlock", at_most=1)
    await charge_block_run(await start_task("alice", task_id="c"), rate_cards, block_run_id="c-1")
    await charge_block_run(await start_task("alice", task_id="d"), rate_cards, block_run_id="d-1")
    await send(api, EXECUTOR, "placeHold", taskId="stays", blockRunId=held.block_run_id, block="ReplicateModelBlock",
               atMost={}, timeoutSeconds=60)  # fmt: skip
    await execute(EXECUTOR, "voidHold", taskId="stays", blockRunId=held.block_run_id)
    await execute(OLIVIA, "reverseCharge", taskId="c", blockRunId="c-1", reason="it failed", idempotencyKey="rc")
    await execute(OLIVIA, "reverseTask", taskId="d", reason="all of it failed", idempotencyKey="rt")
    await execute(EXECUTOR, "finishTask", taskId="t", status="COMPLETED")
    await execute(EXECUTOR, "cancelTask", taskId="stays")
    await start_task("alice", task_id="stopped")
    await pools.fetch("UPDATE task SET status = 'STOPPED', stop_reason = 'OUT_OF_CREDITS' WHERE task_id = 'stopped'")
    await execute(EXECUTOR, "resumeTask", taskId="stopped")
    await execute(OLIVIA, "beginTopUp", credits=500, idempotencyKey="b")
    [begun] = await pools.fetch("SELECT account_id, id FROM top_up")
    bought = await top_ups.find_top_up(begun["account_id"], begun["id"])
    assert bought is not None
    sandbox = api.state.payment_provider
    assert isinstance(sandbox, Sandbox)
    page = await sandbox.find_payment_page(bought.reference)
    assert page is not None
    await sandbox.decide_payment(page, PaymentStatus.PAID)
    await execute(OLIVIA, "confirmTopUp", topUpId=encode_id("TopUp", bought.account_id, bought.id))
    await execute(OLIVIA, "openBillingPortal", returnUrl="https://app.example/")
    await charge_block_run(await start_task("alice", task_id="f"), rate_cards, block_run_id="f-1")
    await execute(EXECUTOR, "finishBlockRun", taskId="f", blockRunId="f-1", outcome="SUCCEEDED")
    await execute(
        OLIVIA, "setAutoTopUp", enabled=True, threshold=100, amount=1_000, consentVersion="1", idempotencyKey="s"
    )
    await execute(EXECUTOR, "setLowBalanceThreshold", ownerId="alice", credits=7, idempotencyKey="l")
    await grant_credits("carol", 10)
    await send(api, EXECUTOR, "setLowBalanceThreshold", ownerId="carol", credits=9, idempotencyKey="l")
    carols = await start_task("carol", task_id="carols")
    await charge_block_run(carols, rate_cards)
    await execute(EXECUTOR, "markNotificationsRead", ownerId="carol")
    top_up = await create_paid_top_up("dora", credits=1_000)
    name = encode_id("TopUp", top_up.account_id, top_up.id)
    await execute(OLIVIA, "refundTopUp", topUpId=name, credits=400, reason="asked for it", idempotencyKey="rf")
    await execute_webhook_mutations(execute)
    await execute(OLIVIA, "publishRateCard", document=ITEM_PRICES, reason="new prices", idempotencyKey="p")
    return done


async def execute_webhook_mutations(execute: Callable[..., Awaitable[None]]) -> None:
    await execute(OLIVIA, "createWebhookEndpoint", url="http://127.0.0.1:1/", inOrder=False)
    [endpoint] = await endpoints.list_endpoints()
    await grant_credits("emil", 10)
    await execute(OLIVIA, "rotateWebhookSecret", endpointId=endpoint.id)
    await execute(OLIVIA, "disableWebhookEndpoint", endpointId=endpoint.id, reason="maintenance")
    await execute(OLIVIA, "enableWebhookEndpoint", endpointId=endpoint.id)
    await pools.fetch("UPDATE webhook_delivery SET failed_at = clock_timestamp()")
    [delivery] = await deliveries.list_deliveries(endpoint.id, before_id=2**63 - 1, limit=1)
    await execute(OLIVIA, "redeliverWebhook", deliveryId=delivery.id)


async def a_grant_of(api: Api) -> str:
    edges = await api.data(OPERATOR, '{ account(ownerId: "alice") { grants { edges { node { id } } } } }')
    name: str = edges["account"]["grants"]["edges"][0]["node"]["id"]
    return name


async def test_every_recorded_mutation_writes_a_complete_record(api: Api, rate_cards: RateCardCache) -> None:
    done = await execute_recorded_mutations(api, rate_cards)
    assert set(done) == {
        name for name, policy in audit_policies(SCHEMA).items() if policy is AuditPolicy.SERVICES_AND_OPERATORS
    }
    for name, (caller, reason) in done.items():
        record = (await audit_log(api, action=name))[-1]
        assert (record["actor"], record["keyId"], record["reason"]) == (caller.actor, caller.key_id, reason), name
        assert record["scope"] == ("admin" if caller is OLIVIA else "charge")
        assert len(record["requestId"]) == 16
        assert record["after"], name
        assert (record["before"] is None) == (
            name in {"startTask", "beginTopUp", "openBillingPortal", "setAutoTopUp", *WEBHOOKS_WITHOUT_BEFORE}
        ), name


async def test_a_record_contains_the_state_before_and_after(api: Api) -> None:
    await grant_credits("alice", 10)
    await send(api, OLIVIA, "grantCredits", **GRANT)
    [record] = await audit_log(api)
    assert record["subject"] == "grant 2"
    assert record["ownerId"] == "alice"
    assert record["before"] == {"version": 1, "posted": 10, "held": 0, "frozen": 0, "owed": 0}
    assert record["after"] == {
        "version": 2, "posted": 15, "held": 0, "frozen": 0, "owed": 0, "credits": 5, "source": "PROMOTIONAL",
    }  # fmt: skip
    [entry] = await pools.fetch("SELECT actor, request_id, reason FROM entry WHERE seq = 2")
    assert tuple(entry) == ("operator:olivia", record["requestId"], "sorry")


async def test_the_entry_of_a_charge_names_actor_and_request(api: Api, rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 100)
    await start_task("alice", task_id="t")
    await send(api, EXECUTOR, "charge", taskId="t", blockRunId="b", block="ReplicateModelBlock")
    [entry] = await pools.fetch("SELECT actor, length(request_id) FROM entry WHERE kind = 'CHARGE'")
    assert tuple(entry) == ("service:0123456789abcdef", 16)
    assert await audit_log(api) == []


@pytest.mark.parametrize("free", [False, True], ids=["paid", "free"])
async def test_charges_and_holds_of_services_name_actor_and_request_in_their_rows(api: Api, free: bool) -> None:
    await grant_credits("alice", 100)
    await start_task("alice", task_id="t")
    run = {"taskId": "t", "block": "ReplicateModelBlock", "usesOwnKey": free}
    runs = "SELECT actor, request_id FROM block_run WHERE block_run_id = $1"
    holds = "SELECT actor, request_id FROM hold WHERE block_run_id = $1"
    recorded: dict[str, Sequence[Any]] = {}
    await send(api, EXECUTOR, "charge", **run, blockRunId="one")
    recorded["charge"] = await pools.fetch(runs, "one")
    batch = "mutation($input: [ChargeInput!]!) { chargeBatch(input: $input) { __typename } }"
    await api.data(EXECUTOR, batch, input=[run | {"blockRunId": "two"}])
    recorded["chargeBatch"] = await pools.fetch(runs, "two")
    await send(api, EXECUTOR, "placeHold", **run, blockRunId="held", atMost={}, timeoutSeconds=60)
    recorded["placeHold"] = await pools.fetch(holds, "held")
    await send(api, EXECUTOR, "captureHold", taskId="t", blockRunId="held", measurements={})
    recorded["captureHold"] = await pools.fetch(runs, "held")
    assert set(recorded) == {name for name, policy in audit_policies(SCHEMA).items() if policy is AuditPolicy.OPERATORS}
    for name, rows in recorded.items():
        assert [row["actor"] for row in rows] == [f"service:{EXECUTOR.key_id}"], name
        assert len(rows[0]["request_id"]) == 16, name
    assert len({rows[0]["request_id"] for rows in recorded.values()}) == 4
    entries = await pools.fetch("SELECT actor, request_id FROM entry WHERE kind = 'CHARGE' ORDER BY seq")
    expected = [recorded[name][0] for name in ("charge", "chargeBatch", "captureHold")]
    assert list(map(tuple, entries)) == ([] if free else list(map(tuple, expected)))


@pytest.mark.parametrize("free", [False, True], ids=["paid", "free"])
async def test_charges_and_holds_of_operators_are_recorded_with_the_signing_key(api: Api, free: bool) -> None:
    """An operator charges only with the scope of a service as well."""
    await grant_credits("alice", 100)
    await start_task("alice", task_id="t")
    run = {"taskId": "t", "block": "ReplicateModelBlock", "usesOwnKey": free}
    batch = "mutation($input: [ChargeInput!]!) { chargeBatch(input: $input) { __typename } }"
    for _ in range(2):  # the second time everything is a replay
        await send(api, CHARGING_OLIVIA, "charge", **run, blockRunId="one")
        await api.data(CHARGING_OLIVIA, batch, input=[run | {"blockRunId": "two"}, run | {"blockRunId": "three"}])
        await send(api, CHARGING_OLIVIA, "placeHold", **run, blockRunId="held", atMost={}, timeoutSeconds=60)
        await send(api, CHARGING_OLIVIA, "captureHold", taskId="t", blockRunId="held", measurements={})
    recorded = (await audit_log(api))[::-1]
    assert {(one["actor"], one["keyId"], one["scope"], one["ownerId"]) for one in recorded} == {
        ("operator:olivia", "signing-key-1", "admin, charge", "alice")
    }
    assert [(one["action"], one["subject"]) for one in recorded] == [
        ("charge", "task t block run one"),
        ("chargeBatch", "task t block run two"),
        ("chargeBatch", "task t block run three"),
        ("placeHold", "task t block run held"),
        ("captureHold", "task t block run held"),
    ]
    ids = [row["request_id"] for row in await pools.fetch("SELECT request_id FROM block_run ORDER BY position")]
    assert [one["requestId"] for one in recorded if one["action"] != "placeHold"] == ids
    cost = 0 if free else 10
    assert [one["after"].get("cost") for one in recorded] == [cost, cost, cost, None, cost]
    charges = recorded[:3]
    assert [one["before"]["posted"] - one["after"]["posted"] for one in charges] == [cost] * 3
    held, captured = recorded[3:]
    assert (held["before"], held["after"]) == (None, {"status": "OPEN", "held": cost})
    assert (captured["before"], captured["after"]) == (held["after"], {"status": "CAPTURED", "held": 0, "cost": cost})


async def test_a_task_stopped_by_an_unpaid_charge_of_an_operator_is_recorded_once(api: Api) -> None:
    await grant_credits("alice", 15)
    kinds: dict[str, dict[str, Any]] = {
        "charge": {"block": "ReplicateModelBlock"},
        "placeHold": {"block": "ReplicateModelBlock", "atMost": {}, "timeoutSeconds": 60},
    }
    for name in kinds:
        await start_task("alice", task_id=name)
    await send(api, EXECUTOR, "charge", taskId="charge", blockRunId="paid", block="ReplicateModelBlock")
    for name, input in kinds.items():
        kind = name[0].upper() + name[1:]
        query = f"mutation($input: {kind}Input!) {{ {name}(input: $input) {{ __typename }} }}"
        results = []
        for _ in range(2):
            done = await api.data(
                CHARGING_OLIVIA, query, input=input | {"taskId": name, "blockRunId": f"{name}-unpaid"}
            )
            results.append(done[name]["__typename"])
        assert results == ["InsufficientCreditsError", "TaskStoppedError"]
    assert [
        (one["action"], one["subject"], one["keyId"], one["before"], one["after"]) for one in await audit_log(api)
    ][::-1] == [
        (name, f"task {name}", "signing-key-1", {"status": "RUNNING"},
         {"status": "STOPPED", "stopReason": "OUT_OF_CREDITS", "required": 10})
        for name in kinds
    ]  # fmt: skip


async def test_a_new_customer_and_its_record_are_written_together(api: Api) -> None:
    portal = "mutation($input: OpenBillingPortalInput!) { openBillingPortal(input: $input) { __typename } }"
    await pools.fetch("ALTER TABLE audit_record ADD CONSTRAINT broken CHECK (false) NOT VALID")
    try:
        answer = await api.execute(OLIVIA, portal, input={"returnUrl": "https://app.example/"})
    finally:
        await pools.fetch("ALTER TABLE audit_record DROP CONSTRAINT broken")
    assert answer["errors"][0]["extensions"]["code"] == "INTERNAL"
    assert await pools.fetch("SELECT 1 FROM payment_customer") == []
    for _ in range(2):
        await send(api, OLIVIA, "openBillingPortal", returnUrl="https://app.example/")
    [customer] = await pools.fetch("SELECT provider, customer_ref FROM payment_customer")
    assert [one["after"] for one in await audit_log(api)] == [
        {"provider": customer["provider"], "customer": customer["customer_ref"]}
    ] * 2


async def test_confirming_without_effect_writes_no_record(api: Api) -> None:
    """Confirming a top-up that is not paid yet, or that a provider event has settled, changes nothing."""
    sandbox = api.state.payment_provider
    assert isinstance(sandbox, Sandbox)
    await send(api, OLIVIA, "beginTopUp", credits=500, idempotencyKey="b")
    [begun] = await pools.fetch("SELECT account_id, id FROM top_up")
    bought = await top_ups.find_top_up(begun["account_id"], begun["id"])
    assert bought is not None
    name = encode_id("TopUp", bought.account_id, bought.id)
    await send(api, OLIVIA, "confirmTopUp", topUpId=name)
    assert await audit_log(api, action="confirmTopUp") == []
    page = await sandbox.find_payment_page(bought.reference)
    assert page is not None
    await sandbox.decide_payment(page, PaymentStatus.DECLINED)
    for _ in range(2):  # the second time it is already settled
        await send(api, OLIVIA, "confirmTopUp", topUpId=name)
    [record] = await audit_log(api, action="confirmTopUp")
    assert (record["before"]["status"], record["after"]["status"]) == ("PENDING", "FAILED")


async def test_users_changing_their_own_account_write_no_record(api: Api) -> None:
    await grant_credits("alice", 10)
    await send(api, ALICE, "beginTopUp", credits=500, idempotencyKey="b")
    [begun] = await pools.fetch("SELECT account_id, id FROM top_up")
    await send(api, ALICE, "confirmTopUp", topUpId=encode_id("TopUp", begun["account_id"], begun["id"]))
    await send(api, ALICE, "openBillingPortal", returnUrl="https://app.example/")
    await send(api, ALICE, "setAutoTopUp", enabled=True, threshold=100, amount=1_000, consentVersion="1",
               idempotencyKey="s")  # fmt: skip
    await start_task("alice", task_id="t")
    await send(api, ALICE, "cancelTask", taskId="t")
    await send(api, ALICE, "markNotificationsRead")
    await send(api, ALICE, "setLowBalanceThreshold", credits=7, idempotencyKey="l")
    assert await audit_log(api) == []


async def test_only_operators_read_the_request_of_an_entry(api: Api) -> None:
    await send(api, OLIVIA, "grantCredits", **GRANT)
    [record] = await audit_log(api)
    query = '{ account(ownerId: "alice") { entries { edges { node { requestId } } } } }'
    edges = (await api.data(OPERATOR, query))["account"]["entries"]["edges"]
    assert edges == [{"node": {"requestId": record["requestId"]}}]
    answer = await api.execute(ALICE, query)
    assert answer["data"]["account"]["entries"]["edges"] == [{"node": {"requestId": None}}]
    assert [error["extensions"]["code"] for error in answer["errors"]] == ["FORBIDDEN"]


async def test_replays_and_errors_write_no_record(api: Api) -> None:
    await send(api, OLIVIA, "grantCredits", **GRANT)
    await send(api, OLIVIA, "grantCredits", **GRANT)
    grant = "mutation($input: GrantCreditsInput!) { grantCredits(input: $input) { __typename } }"
    other = await api.data(OLIVIA, grant, input=GRANT | {"credits": 6})
    invalid = await api.data(OLIVIA, grant, input=GRANT | {"credits": -1, "idempotencyKey": "other"})
    assert other == {"grantCredits": {"__typename": "IdempotencyConflictError"}}
    assert invalid == {"grantCredits": {"__typename": "InvalidInputError"}}
    assert len(await audit_log(api)) == 1


async def test_a_record_is_rolled_back_with_its_effect(api: Api) -> None:
    await grant_credits("alice", 10)
    await pools.fetch("ALTER TABLE entry ADD CONSTRAINT broken CHECK (credits < 5) NOT VALID")
    try:
        answer = await api.execute(OLIVIA, "mutation($input: GrantCreditsInput!) { grantCredits(input: $input) "
                               "{ __typename } }", input=GRANT)  # fmt: skip
    finally:
        await pools.fetch("ALTER TABLE entry DROP CONSTRAINT broken")
    assert answer["errors"][0]["extensions"]["code"] == "INTERNAL"
    assert await audit_log(api) == []


async def test_an_effect_is_rolled_back_with_its_record(api: Api) -> None:
    await grant_credits("alice", 10)
    await pools.fetch("ALTER TABLE audit_record ADD CONSTRAINT broken CHECK (false) NOT VALID")
    try:
        answer = await api.execute(OLIVIA, "mutation($input: GrantCreditsInput!) { grantCredits(input: $input) "
                               "{ __typename } }", input=GRANT)  # fmt: skip
    finally:
        await pools.fetch("ALTER TABLE audit_record DROP CONSTRAINT broken")
    assert answer["errors"][0]["extensions"]["code"] == "INTERNAL"
    assert [record["credits"] for record in await pools.fetch("SELECT credits FROM entry")] == [10]


async def test_records_are_listed_newest_first_and_filtered(api: Api) -> None:
    otto = replace(OLIVIA, actor="operator:otto")
    for number in (1, 2, 3):
        for caller, owner in ((OLIVIA, "alice"), (otto, "bob")):
            input = GRANT | {"ownerId": owner, "credits": number, "idempotencyKey": f"k{number}"}
            await send(api, caller, "grantCredits", **input)
    await send(api, otto, "setLowBalanceThreshold", ownerId="alice", credits=7, idempotencyKey="l")
    first = (await api.data(OPERATOR, AUDIT_LOG, first=2))["auditLog"]
    rest = (await api.data(OPERATOR, AUDIT_LOG, first=100, after=first["pageInfo"]["endCursor"]))["auditLog"]
    found = [edge["node"] for edge in first["edges"] + rest["edges"]]
    assert [one["action"] for one in found] == ["setLowBalanceThreshold", *["grantCredits"] * 6]
    assert [one["createdAt"] for one in found] == sorted((one["createdAt"] for one in found), reverse=True)
    assert (first["pageInfo"]["hasNextPage"], rest["pageInfo"]["hasNextPage"]) == (True, False)
    assert found == await audit_log(api)
    assert [one["after"].get("credits") for one in await audit_log(api, ownerId="alice")] == [None, 3, 2, 1]
    assert len(await audit_log(api, actor="operator:otto")) == 4
    assert len(await audit_log(api, action="setLowBalanceThreshold")) == 1
    assert len(await audit_log(api, ownerId="alice", actor="operator:otto", action="setLowBalanceThreshold")) == 1
    assert await audit_log(api, ownerId="alice", actor="operator:otto", action="grantCredits") == []
    assert await audit_log(api, ownerId="nobody") == []


async def test_a_cursor_of_another_filter_is_refused(api: Api) -> None:
    for number in (1, 2):
        await send(api, OLIVIA, "grantCredits", **(GRANT | {"idempotencyKey": f"k{number}"}))
    cursor = (await api.data(OPERATOR, AUDIT_LOG, first=1))["auditLog"]["pageInfo"]["endCursor"]
    code, message = await api.error(OPERATOR, AUDIT_LOG, after=cursor, ownerId="alice")
    assert code == "BAD_USER_INPUT"
    assert message.startswith("after is not a cursor of this list")


@pytest.mark.parametrize(("name", "max_length"), [("actor", 300), ("action", 32)])
async def test_an_invalid_filter_is_refused(api: Api, name: str, max_length: int) -> None:
    for text in ("", "a b", "a" * (max_length + 1), "a\x00"):
        assert await api.error(OPERATOR, AUDIT_LOG, **{name: text}) == (
            "BAD_USER_INPUT", f"{name} must have 1 to {max_length} visible characters, without spaces.",
        )  # fmt: skip
    assert (await api.data(OPERATOR, AUDIT_LOG, **{name: "a" * max_length}))["auditLog"]["edges"] == []


async def test_the_longest_filters_and_ids_have_cursors(api: Api) -> None:
    owner, actor = "\U0001f600" * 255, "operator:" + "\U0001f601" * 255
    caller = replace(OPERATOR, actor=actor)
    for number in (1, 2):
        await send(api, caller, "grantCredits", **(GRANT | {"ownerId": owner, "idempotencyKey": f"k{number}"}))
    filters = {"first": 1, "ownerId": owner, "actor": actor, "action": "grantCredits"}

    cursor = (await api.data(OPERATOR, AUDIT_LOG, **filters))["auditLog"]["pageInfo"]["endCursor"]
    [edge] = (await api.data(OPERATOR, AUDIT_LOG, after=cursor, **filters))["auditLog"]["edges"]

    assert len(cursor) < 100  # it contains a hash of the filters
    assert edge["node"]["actor"] == actor


async def test_only_operators_read_the_audit_log(api: Api) -> None:
    await send(api, OLIVIA, "grantCredits", **GRANT)
    node = "query($id: ID!) { node(id: $id) { __typename id } }"
    id = (await api.data(OPERATOR, "{ auditLog { edges { node { id } } } }"))["auditLog"]["edges"][0]["node"]["id"]
    assert (await api.data(OPERATOR, node, id=id))["node"] == {"__typename": "AuditRecord", "id": id}
    for caller in (ALICE, BOB, SERVICE, READER):
        assert (await api.data(caller, node, id=id))["node"] is None
        assert await api.error(caller, AUDIT_LOG) == ("FORBIDDEN", "This needs an operator.")


async def test_every_filter_uses_an_index(db: str) -> None:
    await pools.fetch(
        "INSERT INTO audit_record (at, account_id, action, subject, actor, scope)"
        " SELECT now(), n % 2000, 'a' || n % 2000, 's', 'operator:' || n % 2000, 'admin'"
        " FROM generate_series(1, 20000) AS n"
    )
    await pools.fetch("ANALYZE audit_record")
    for filters, index in (
        ({}, "audit_record_pkey"),
        ({"account_id": 7}, "audit_record_of_account"),
        ({"actor": "operator:7"}, "audit_record_of_actor"),
        ({"action": "a7"}, "audit_record_of_action"),
    ):
        plan = str(await records.list_records(limit=26, **filters).explain())
        assert index in plan, plan
        assert "Seq Scan" not in plan
