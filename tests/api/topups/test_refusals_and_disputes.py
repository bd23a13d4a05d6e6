"""Refused payments and disputes as clients see them."""

import pytest

from app.topups.provider import DisputeStatus
from tests.api.conftest import ALICE, Api
from tests.topups.refund_fixtures import build_dispute, create_paid_top_up, deliver

pytestmark = pytest.mark.anyio

BEGIN = """mutation($input: BeginTopUpInput!) { beginTopUp(input: $input) { __typename
    ... on UserError { message } ... on PaymentRefusedError { reason providerCode } } }"""
READ = """{ account { canRun { ok reason } balance { available frozen }
    notifications { edges { node { kind message resolvedAt } } }
    topUps { edges { node { status disputes { status amountMinor credits frozen debt } } } } } }"""


async def test_a_refused_payment_is_a_typed_result_and_its_top_up_has_failed(api: Api) -> None:
    wish = {"credits": 40_100, "idempotencyKey": "once"}
    for _ in range(2):
        refused = (await api.data(ALICE, BEGIN, input=wish))["beginTopUp"]
        assert refused == {
            "__typename": "PaymentRefusedError", "reason": "AMOUNT_TOO_SMALL",
            "providerCode": "sandbox_amount_too_small",
            "message": "The payment provider refuses the payment: AMOUNT_TOO_SMALL (sandbox_amount_too_small). Nothing "
            "was paid.",
        }  # fmt: skip
    [top_up] = (await api.data(ALICE, READ))["account"]["topUps"]["edges"]
    assert top_up["node"] == {"status": "FAILED", "disputes": []}


async def test_an_account_whose_credits_are_all_disputed_says_so(api: Api) -> None:
    top_up = await create_paid_top_up(credits=1_000)
    await deliver(build_dispute(top_up, DisputeStatus.OPEN))
    shown = (await api.data(ALICE, READ))["account"]
    assert shown["canRun"] == {"ok": False, "reason": "DISPUTED"}
    assert shown["balance"] == {"available": 0, "frozen": 1_000}
    [disputed] = [edge["node"] for edge in shown["topUps"]["edges"]]
    assert disputed["disputes"] == [
        {"status": "OPEN", "amountMinor": 1_000, "credits": 1_000, "frozen": 1_000, "debt": 0}
    ]
    unresolved = {edge["node"]["kind"] for edge in shown["notifications"]["edges"] if not edge["node"]["resolvedAt"]}
    assert "DISPUTED" in unresolved
    await create_paid_top_up(credits=600)
    assert (await api.data(ALICE, READ))["account"]["canRun"] == {"ok": True, "reason": None}
    await deliver(build_dispute(top_up, DisputeStatus.LOST))
    shown = (await api.data(ALICE, READ))["account"]
    assert shown["balance"] == {"available": 600, "frozen": 0}
