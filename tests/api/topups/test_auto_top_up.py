"""Auto top-up, bonuses and receipts."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from app.live.change_feed import ChangeFeed
from app.topups.auto_topup import purchasing, worker
from app.topups.rules import TopUpTerms
from app.topups.sandbox.store import CardBehaviour
from app.topups.settlement import settle
from tests.api.conftest import ALICE, BOB, OPERATOR, READER, SERVICE, Api
from tests.factories import get_balance, grant_credits, unique_id
from tests.topups.auto_topup_fixtures import counting_sandbox, move_back_in_time, save_card
from tests.topups.top_up_fixtures import create_top_up, payment_event

pytestmark = pytest.mark.anyio

AUTO_TOP_UP_FIELDS = """enabled threshold amount target maxPerDay maxPerMonth maxCountPerDay maxCountPerMonth
    consentVersion state blockedReason nextEligibleAt actionUrl spentThisMonth"""
SET = f"""mutation($input: SetAutoTopUpInput!) {{ setAutoTopUp(input: $input) {{ __typename
    ... on SetAutoTopUpSuccess {{
        replayed account {{ ownerId }} autoTopUp {{ {AUTO_TOP_UP_FIELDS} }} balance {{ version }} }}
    ... on InvalidInputError {{ problems {{ path }} }} }} }}"""
READ = f"query($owner: ID) {{ account(ownerId: $owner) {{ autoTopUp {{ {AUTO_TOP_UP_FIELDS} consentAt }} }} }}"
ON = {"enabled": True, "threshold": 100, "amount": 1_000, "consentVersion": "2026-01"}
TERMS = TopUpTerms(
    minimum_credits=500, maximum_credits=10_000, multiple_credits=100, currency="USD", minor_per_credit=1
)


async def put(api: Api, caller: Any = ALICE, **input: Any) -> Any:
    return (await api.data(caller, SET, input=input))["setAutoTopUp"]


async def standing(api: Api, caller: Any = ALICE, **variables: Any) -> Any:
    return (await api.data(caller, READ, **variables))["account"]["autoTopUp"]


async def consider(api: Api, account_id: int) -> None:
    assert api.state.payment_provider is not None
    await purchasing.buy_if_needed(account_id, api.state.payment_provider, TERMS)


async def test_auto_top_up_is_off_until_the_owner_switches_it_on(api: Api) -> None:
    off = await standing(api)
    assert (off["enabled"], off["state"], off["blockedReason"], off["spentThisMonth"]) == (False, "OFF", "DISABLED", 0)
    await save_card("alice")
    done = await put(api, **ON, maxPerDay=3_000, maxCountPerMonth=7, idempotencyKey="once")
    assert done["__typename"] == "SetAutoTopUpSuccess"
    assert (done["replayed"], done["account"]) == (False, {"ownerId": "alice"})
    assert done["autoTopUp"] == {
        "enabled": True, "threshold": 100, "amount": 1_000, "target": None, "maxPerDay": 3_000, "maxPerMonth": None,
        "maxCountPerDay": 10, "maxCountPerMonth": 7, "consentVersion": "2026-01", "state": "READY",
        "blockedReason": None, "nextEligibleAt": None, "actionUrl": None, "spentThisMonth": 0,
    }  # fmt: skip
    assert (await put(api, **ON, maxPerDay=3_000, maxCountPerMonth=7, idempotencyKey="once"))["replayed"] is True
    other = await put(api, **ON, maxPerDay=4_000, idempotencyKey="once")
    assert other["__typename"] == "IdempotencyConflictError"
    shown = await standing(api)
    assert shown.pop("consentAt") is not None
    assert shown == done["autoTopUp"]


async def until(look: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await look():  # noqa: ASYNC110  it happens in a background task
            await asyncio.sleep(0.01)


async def test_it_buys_at_once_and_once_when_it_is_switched_on_below_the_threshold(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "SWEEP_SECONDS", 3_600)
    provider = counting_sandbox()
    feeds = [api.state.change_feed, ChangeFeed(sweep_seconds=3_600, conflate_seconds=0.005)]
    running = [asyncio.create_task(worker.run_worker(feed, provider, TERMS)) for feed in feeds]
    await until(lambda: asyncio.sleep(0, all(feed._accounts for feed in feeds)))
    account_id = await save_card("alice")

    answers = await asyncio.gather(*(put(api, **ON) for _ in range(10)))

    assert {one["__typename"] for one in answers} == {"SetAutoTopUpSuccess"}

    async def has_bought() -> bool:
        return (await get_balance(account_id)).posted == 1_000

    await until(has_bought)
    feeds[1].report_account(account_id)
    await put(api, **ON | {"threshold": 200})
    await put(api, BOB, **ON)  # no card is saved: the reason is shown at once

    async def says_why_not() -> bool:
        return bool((await standing(api, BOB))["blockedReason"] == "NO_CARD")

    await until(says_why_not)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    assert len(provider.charged) == 1
    assert (await get_balance(account_id)).posted == 1_000


async def test_an_invalid_configuration_reports_every_problem(api: Api) -> None:
    for changes, paths in (
        ({"consentVersion": None}, ["consentVersion"]),
        ({"amount": None}, ["amount"]),
        ({"target": 5_000}, ["amount"]),
        ({"amount": 450, "threshold": None}, ["threshold", "amount"]),
        ({"maxPerDay": 900, "maxCountPerDay": 0}, ["maxPerDay", "maxCountPerDay"]),
        ({"idempotencyKey": "not a key"}, ["idempotencyKey"]),
    ):
        error = await put(api, **(ON | changes))
        assert error == {"__typename": "InvalidInputError", "problems": [{"path": path} for path in paths]}
        assert (await standing(api))["enabled"] is False


async def test_only_the_owner_switches_it_on_and_services_and_operators_switch_it_off(api: Api) -> None:
    await put(api, **ON)
    for caller in (BOB, SERVICE, OPERATOR, READER):
        code, _ = await api.error(caller, SET, input=ON | {"ownerId": "alice"})
        assert code == "FORBIDDEN"
    for caller in (BOB, READER):
        code, _ = await api.error(caller, SET, input={"enabled": False, "ownerId": "alice"})
        assert code == "FORBIDDEN"
    for caller in (SERVICE, OPERATOR):
        assert (await put(api, caller, enabled=False, ownerId="alice"))["autoTopUp"]["state"] == "OFF"
    code, _ = await api.error(ALICE, SET, input=ON | {"ownerId": "guild"})
    assert code == "FORBIDDEN"


async def test_switching_it_off_ignores_the_other_fields(api: Api) -> None:
    await put(api, **ON, idempotencyKey="once")
    nonsense = {"amount": -5, "consentVersion": "", "maxCountPerDay": -1}
    assert (await put(api, enabled=False, **nonsense))["autoTopUp"]["enabled"] is False
    assert (await put(api, enabled=False, idempotencyKey="once"))["autoTopUp"]["enabled"] is False
    assert (await put(api, BOB, enabled=False))["autoTopUp"]["state"] == "OFF"
    refused = (await api.data(ALICE, SET, input={"enabled": False, "idempotencyKey": "a\u0000b"}))["setAutoTopUp"]
    assert refused["__typename"] == "InvalidInputError"


async def test_it_can_be_switched_off_without_a_payment_provider(api: Api) -> None:
    await put(api, **ON)
    without_provider = replace(api, state=replace(api.state, payment_provider=None))
    assert (await without_provider.error(ALICE, SET, input=ON))[0] == "UNAVAILABLE"
    assert (await put(without_provider, enabled=False))["autoTopUp"]["state"] == "OFF"


async def test_the_balance_subscription_sends_the_states_of_auto_top_up(api: Api) -> None:
    account_id = await save_card("alice", CardBehaviour.DECLINES)
    await put(api, **ON)
    header = api.subscribe(ALICE, "subscription { balance { available autoTopUp version } }")
    async with asyncio.timeout(10):
        assert (await anext(header))["data"]["balance"]["autoTopUp"] == "READY"
        states = []
        for _ in range(3):
            await consider(api, account_id)
            while (state := (await anext(header))["data"]["balance"]["autoTopUp"]) == "PENDING":
                pass
            states.append(state)
            await move_back_in_time(account_id, hours=25)
        assert states == ["BACKING_OFF", "BACKING_OFF", "BLOCKED"]
        assert (await standing(api))["blockedReason"] == "DECLINED_TOO_OFTEN"
        await save_card("alice")
        await consider(api, account_id)
        while (last := (await anext(header))["data"]["balance"])["available"] == 0:
            pass
    await header.aclose()
    assert (last["available"], (await standing(api))["spentThisMonth"]) == (1_000, 1_000)
    kinds = "query { account { notifications(unreadOnly: true) { edges { node { kind } } } } }"
    assert (await api.data(ALICE, kinds))["account"]["notifications"]["edges"] == []


async def test_a_payment_that_needs_confirmation_has_an_action_url(api: Api) -> None:
    account_id = await save_card("alice", CardBehaviour.ASKS)
    await put(api, **ON)
    await consider(api, account_id)
    shown = await standing(api, SERVICE, owner="alice")
    assert (shown["state"], shown["blockedReason"]) == ("ACTION_REQUIRED", "ACTION_REQUIRED")
    assert shown["actionUrl"].startswith("http://testserver/sandbox/pay/")
    query = "query { account { notifications(unreadOnly: true) { edges { node { kind message } } } } }"
    [edge] = (await api.data(ALICE, query))["account"]["notifications"]["edges"]
    assert edge["node"] == {
        "kind": "AUTO_TOP_UP_BLOCKED",
        "message": "Auto top-up does not buy credits: your bank asks you to confirm the payment.",
    }


async def test_a_top_up_shows_its_bonus_and_after_the_payment_its_receipt(api: Api) -> None:
    query = """query { account { topUps { edges { node { bonus automatic receipt { number creditsBought bonus
        amountMinor currency taxLines { label } totalMinor paidAt reference url } } } } } }"""
    await grant_credits("alice", 1)
    top_up = await create_top_up("alice", 1_200, terms=replace(TERMS, bonuses=((1_000, 100),)))
    [edge] = (await api.data(ALICE, query))["account"]["topUps"]["edges"]
    assert edge["node"] == {"bonus": 100, "automatic": False, "receipt": None}
    await settle(await payment_event(top_up))
    [edge] = (await api.data(ALICE, query))["account"]["topUps"]["edges"]
    receipt = edge["node"]["receipt"]
    assert receipt.pop("url").startswith("http://127.0.0.1:8000/receipts/")
    assert receipt.pop("number").endswith(top_up.id[:12].upper())
    assert receipt.pop("paidAt") is not None
    assert receipt == {
        "creditsBought": 1_200, "bonus": 100, "amountMinor": 1_200, "currency": "USD", "taxLines": [],
        "totalMinor": 1_200, "reference": top_up.reference,
    }  # fmt: skip


START = """mutation($task: ID!) { startTask(input: {taskId: $task, ownerId: "alice", agentId: "agent"}) { __typename
    ... on InsufficientCreditsError { autoTopUpUnderWay balance { autoTopUp } } } }"""


async def refused_start(api: Api) -> tuple[bool, str]:
    """Whether the refusal of a start says that credits are being bought, and the state of auto top-up."""
    refusal = (await api.data(SERVICE, START, task=unique_id("task")))["startTask"]
    return refusal["autoTopUpUnderWay"], refusal["balance"]["autoTopUp"]


async def test_a_refusal_says_whether_auto_top_up_is_buying_credits(api: Api) -> None:
    assert await refused_start(api) == (False, "OFF")  # the owner has no account
    account_id = await save_card("alice")
    assert await refused_start(api) == (False, "OFF")
    await put(api, **ON)
    assert await refused_start(api) == (True, "READY")  # nothing is available, so it buys now
    await purchasing.buy_if_needed(account_id, counting_sandbox(after=True), TERMS)  # the answer was lost
    assert await refused_start(api) == (True, "PENDING")


@pytest.mark.parametrize(
    ("behaviour", "state"), [(CardBehaviour.DECLINES, "BACKING_OFF"), (CardBehaviour.ASKS, "ACTION_REQUIRED")]
)
async def test_a_refusal_promises_no_purchase_that_waits(api: Api, behaviour: CardBehaviour, state: str) -> None:
    account_id = await save_card("alice", behaviour)
    await put(api, **ON)
    await consider(api, account_id)

    assert await refused_start(api) == (False, state)
