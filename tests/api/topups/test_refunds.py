"""Refunds and debt: the mutation refundTopUp with all its errors, and what is owed."""

from dataclasses import replace
from typing import Any

import pytest

from app.pricing.rate_card_cache import RateCardCache
from app.topups.provider import DisputeStatus
from app.topups.rules import TopUpRow
from app.verify.verifier import verify_ledger
from tests.api.conftest import ALICE, BOB, OPERATOR, READER, SERVICE, Api
from tests.factories import charge_block_run, grant_credits, start_task, unique_id
from tests.topups.refund_fixtures import build_dispute, create_paid_top_up, deliver
from tests.topups.top_up_fixtures import create_top_up

pytestmark = pytest.mark.anyio

REFUND = """
mutation Refund($input: RefundTopUpInput!) {
  refundTopUp(input: $input) {
    __typename
    ... on UserError { message }
    ... on RefundTopUpSuccess {
      topUp { id status refunded credits }
      refund { credits debt bonus amountMinor reducedMinor status reason createdAt decidedAt }
      balance { available posted held frozen owed status version }
      replayed
    }
    ... on RefundExceedsTopUpError { requested refundable }
    ... on TopUpNotPaidError { status }
    ... on TopUpNotFoundError { topUpId }
    ... on InvalidInputError { problems { path } }
    ... on IdempotencyConflictError { key }
  }
}
"""

TOP_UPS = """
query TopUps($ownerId: ID) {
  account(ownerId: $ownerId) {
    topUps { edges { node { id status refunded } } }
    balance { owed status available }
    canRun { ok reason }
    entries(first: 3) { edges { node { kind credits owed actor topUp { id } } } }
  }
}
"""

GRANT = """
mutation Grant($input: GrantCreditsInput!) {
  grantCredits(input: $input) { __typename ... on GrantCreditsSuccess { balance { owed available } replayed } }
}
"""

START = """
mutation Start($input: StartTaskInput!) {
  startTask(input: $input) {
    __typename ... on InsufficientCreditsError { required available balance { owed status } }
  }
}
"""


async def id_of(api: Api, top_up: TopUpRow) -> str:
    """The `id` of the only top-up of the account."""
    owner_id = top_up.actor.removeprefix("user:")
    [edge] = (await api.data(OPERATOR, TOP_UPS, ownerId=owner_id))["account"]["topUps"]["edges"]
    name: str = edge["node"]["id"]
    return name


async def refund(api: Api, top_up_id: str, **more: Any) -> Any:
    input = {"topUpId": top_up_id, "reason": "asked for it", "idempotencyKey": unique_id("key")} | more
    return (await api.data(OPERATOR, REFUND, input=input))["refundTopUp"]


async def test_an_operator_refunds_a_part_and_a_repeated_request_is_replayed(api: Api) -> None:
    name = await id_of(api, await create_paid_top_up(credits=1_000))
    first = await refund(api, name, credits=400, idempotencyKey="k")
    assert first["topUp"] == {"id": name, "status": "PAID", "refunded": 400, "credits": 1_000}
    refund_ = first["refund"]
    assert refund_.pop("createdAt") <= refund_.pop("decidedAt")
    assert refund_ == {
        "credits": 400, "debt": 0, "bonus": 0, "amountMinor": 400, "reducedMinor": 0, "status": "DONE",
        "reason": "asked for it",
    }  # fmt: skip
    assert (first["balance"]["available"], first["balance"]["owed"], first["replayed"]) == (600, 0, False)
    again = await refund(api, name, credits=400, idempotencyKey="k")
    assert (again["replayed"], again["topUp"], again["balance"]) == (True, first["topUp"], first["balance"])
    conflict = await refund(api, name, credits=401, idempotencyKey="k")
    assert (conflict["__typename"], conflict["key"]) == ("IdempotencyConflictError", "k")
    rest = await refund(api, name)
    assert (rest["topUp"]["status"], rest["refund"]["credits"]) == ("REFUNDED", 600)


async def test_refunded_credits_that_were_spent_become_debt_and_block_new_tasks(
    api: Api, rate_cards: RateCardCache
) -> None:
    name = await id_of(api, await create_paid_top_up(credits=500))
    task = await start_task("alice")
    for _ in range(20):
        await charge_block_run(task, rate_cards)
    done = await refund(api, name)
    assert (done["refund"]["debt"], done["refund"]["amountMinor"]) == (200, 500)
    assert (done["balance"]["owed"], done["balance"]["status"], done["balance"]["posted"]) == (200, "IN_DEBT", 0)
    shown = (await api.data(ALICE, TOP_UPS))["account"]
    assert shown["topUps"]["edges"] == [{"node": {"id": name, "status": "REFUNDED", "refunded": 500}}]
    assert shown["canRun"] == {"ok": False, "reason": "IN_DEBT"}
    assert [edge["node"] for edge in shown["entries"]["edges"]][:2] == [
        {"kind": "DEBT", "credits": 0, "owed": 200, "actor": "operator:olivia", "topUp": {"id": name}},
        {"kind": "REFUND", "credits": -300, "owed": 0, "actor": "operator:olivia", "topUp": {"id": name}},
    ]
    await grant_credits("alice", 50)  # promotional: does not pay debt
    error = (await api.data(SERVICE, START, input={"ownerId": "alice", "taskId": "t", "agentId": "a"}))["startTask"]
    assert error == {
        "__typename": "InsufficientCreditsError", "required": 1, "available": 50,
        "balance": {"owed": 200, "status": "IN_DEBT"},
    }  # fmt: skip
    assert (await verify_ledger()).violations == []


async def test_a_grant_pays_debt_if_the_operator_chooses(api: Api, rate_cards: RateCardCache) -> None:
    name = await id_of(api, await create_paid_top_up(credits=500))
    task = await start_task("alice")
    for _ in range(20):
        await charge_block_run(task, rate_cards)
    await refund(api, name)
    input: dict[str, Any] = {"ownerId": "alice", "credits": 120, "reason": "sorry", "idempotencyKey": "g"}
    without = (await api.data(OPERATOR, GRANT, input=input))["grantCredits"]
    assert without["balance"] == {"owed": 200, "available": 120}
    paying = (await api.data(OPERATOR, GRANT, input=input | {"idempotencyKey": "p", "paysDebt": True}))["grantCredits"]
    assert paying["balance"] == {"owed": 80, "available": 120}
    again = (await api.data(OPERATOR, GRANT, input=input | {"idempotencyKey": "p", "paysDebt": True}))["grantCredits"]
    assert again == paying | {"replayed": True}
    other = (await api.data(OPERATOR, GRANT, input=input | {"idempotencyKey": "p"}))["grantCredits"]
    assert other["__typename"] == "IdempotencyConflictError"


async def test_every_error_of_a_refund_has_its_fields(api: Api) -> None:
    top_up = await create_paid_top_up(credits=1_000)
    name = await id_of(api, top_up)
    await deliver(build_dispute(top_up, DisputeStatus.OPEN, amount_minor=300))
    too_much = await refund(api, name, credits=701)
    assert (too_much["requested"], too_much["refundable"]) == (701, 700)
    assert (
        too_much["message"]
        == "The request refunds 701 credits; at most 700 credits of this top-up can still be refunded."
    )
    await refund(api, name)
    nothing = await refund(api, name)
    assert (nothing["__typename"], nothing["refundable"]) == ("RefundExceedsTopUpError", 0)
    assert nothing["message"] == "Nothing of this top-up is left to refund: it was refunded, or it is disputed."
    invalid = await refund(api, name, reason=" ", idempotencyKey="x")
    assert (invalid["__typename"], invalid["problems"]) == ("InvalidInputError", [{"path": "reason"}])
    unpaid = await refund(api, await id_of(api, await create_top_up("bob")))
    assert (unpaid["__typename"], unpaid["status"]) == ("TopUpNotPaidError", "PENDING")


async def test_a_malformed_top_up_id_is_not_found(api: Api) -> None:
    for name in ("nonsense", "", "VG9wVXA"):
        assert await refund(api, name) == {
            "__typename": "TopUpNotFoundError", "topUpId": name,
            "message": f'Top-up "{name}" does not exist: `account.topUps` lists the top-ups.',
        }  # fmt: skip


async def test_only_operators_refund(api: Api) -> None:
    top_up = await create_paid_top_up(credits=1_000)
    input = {"topUpId": await id_of(api, top_up), "reason": "mine", "idempotencyKey": "k"}
    for caller in (ALICE, BOB, SERVICE, READER, None):
        code, _ = await api.error(caller, REFUND, input=input)
        assert code == ("FORBIDDEN" if caller else "UNAUTHENTICATED")
        assert (await api.data(ALICE, TOP_UPS))["account"]["topUps"]["edges"][0]["node"]["refunded"] == 0


async def test_refunds_are_unavailable_without_a_payment_provider(api: Api) -> None:
    name = await id_of(api, await create_paid_top_up(credits=1_000))
    without_provider = replace(api, state=replace(api.state, payment_provider=None))
    code, _ = await without_provider.error(
        OPERATOR, REFUND, input={"topUpId": name, "reason": "r", "idempotencyKey": "k"}
    )
    assert code == "UNAVAILABLE"
