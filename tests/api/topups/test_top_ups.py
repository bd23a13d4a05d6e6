"""Top-ups: saving a card with consent, the billing portal, refunds and disputes."""

from dataclasses import replace
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from app.db import pools
from app.topups.provider import DisputeStatus
from app.topups.provider_events import EventOutcome
from app.topups.refunds import rows
from app.topups.rules import PaymentStatus
from app.topups.sandbox.provider import Sandbox
from app.topups.sandbox.store import CardBehaviour
from app.topups.settlement import settle
from app.webhooks import payment_routes
from tests.api.conftest import ALICE, BOB, OPERATOR, READER, SERVICE, Api
from tests.factories import unique_id
from tests.topups.refund_fixtures import build_dispute, create_paid_top_up, deliver, refund_top_up

pytestmark = pytest.mark.anyio

BEGIN = """mutation($input: BeginTopUpInput!) { beginTopUp(input: $input) { __typename
    ... on BeginTopUpSuccess { topUp { id status credits paymentUrl } balance { available } replayed }
    ... on InvalidInputError { problems { path } } ... on IdempotencyConflictError { key }
    ... on BalanceLimitReachedError { figure } } }"""
PORTAL = """mutation($input: OpenBillingPortalInput!) { openBillingPortal(input: $input) { __typename
    ... on OpenBillingPortalSuccess { url } ... on InvalidInputError { problems { path } } } }"""
COUNTS = "{ account { autoTopUp { enabled state blockedReason } } }"
AFTERWARDS = """query($first: Int!) { account { topUps(first: $first) { edges { node { status refunded clawedBack
    refunds { credits debt bonus amountMinor reducedMinor status reason createdAt decidedAt }
    disputes { status amountMinor openedAt decidedAt } } } } } }"""
REFUND_TWICE = """mutation($first: RefundTopUpInput!, $second: RefundTopUpInput!) {
    first: refundTopUp(input: $first) { ...Seen } second: refundTopUp(input: $second) { ...Seen } }
    fragment Seen on RefundTopUpSuccess { topUp { refunded refunds { credits } } }"""
ON = {"enabled": True, "threshold": 100, "amount": 1_000, "consentVersion": "2026-01"}
SET = "mutation($input: SetAutoTopUpInput!) { setAutoTopUp(input: $input) { __typename } }"
HOME = "https://shop.example/credits?tab=1"
BAD_ADDRESSES = ["javascript:alert(1)", "/credits", "", "https://me@shop.example/", "https://shop.example/\\evil"]


def wish(**more: Any) -> dict[str, Any]:
    return {"credits": 500, "saveCard": True, "idempotencyKey": "once"} | more


async def begin(api: Api, caller: Any = ALICE, **more: Any) -> Any:
    return (await api.data(caller, BEGIN, input=wish(**more)))["beginTopUp"]


async def portal(api: Api, caller: Any = ALICE, return_url: str = HOME) -> Any:
    return (await api.data(caller, PORTAL, input={"returnUrl": return_url}))["openBillingPortal"]


async def opened(api: Api, url: str) -> str:
    """The text of a page of the sandbox."""
    transport = httpx.ASGITransport(app=Starlette(routes=payment_routes(api.state.payment_provider)))
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        answer = await client.get(url)
    assert answer.status_code == 200
    return answer.text


async def pay(api: Api, url: str, card: CardBehaviour) -> EventOutcome:
    """The buyer pays on the sandbox's page with this card, and the sandbox's event arrives."""
    sandbox = api.state.payment_provider
    assert isinstance(sandbox, Sandbox)
    page = await sandbox.find_payment_page(url.rsplit("/", 1)[1])
    assert page is not None
    page = await sandbox.decide_payment(page, PaymentStatus.PAID, behaviour=card)
    payment = await sandbox.retrieve_payment(page.provider_ref)
    assert payment is not None
    event = await sandbox.verify_event(*sandbox.sign_event(payment))
    assert event is not None
    return await settle(event)


async def written() -> tuple[int, int]:
    """The number of top-ups and customers."""
    found = await pools.fetch(
        "SELECT (SELECT count(*) FROM top_up) AS bought, (SELECT count(*) FROM payment_customer) AS known"
    )
    return found[0]["bought"], found[0]["known"]


async def test_a_card_is_saved_when_its_top_up_is_paid(api: Api) -> None:
    first = await begin(api, returnUrl=HOME)
    assert (first["__typename"], first["replayed"], first["balance"]) == ("BeginTopUpSuccess", False, {"available": 0})
    assert (first["topUp"]["status"], first["topUp"]["credits"]) == ("PENDING", 500)
    assert '<select name="card">' in await opened(api, first["topUp"]["paymentUrl"])
    again = await begin(api, returnUrl=HOME)
    assert (again["replayed"], again["topUp"]) == (True, first["topUp"])
    await api.data(ALICE, SET, input=ON)
    without = {"enabled": True, "state": "BLOCKED", "blockedReason": "NO_CARD"}
    assert (await api.data(ALICE, COUNTS))["account"]["autoTopUp"] == without
    assert await pay(api, first["topUp"]["paymentUrl"], CardBehaviour.PAYS) is EventOutcome.CREDITED
    ready = {"enabled": True, "state": "READY", "blockedReason": None}
    assert (await api.data(ALICE, COUNTS))["account"]["autoTopUp"] == ready
    assert "test card that pays" in await opened(api, (await portal(api))["url"])


async def test_no_card_is_saved_without_consent(api: Api) -> None:
    begun = await begin(api, saveCard=False)
    assert "<select" not in await opened(api, begun["topUp"]["paymentUrl"])
    assert await pay(api, begun["topUp"]["paymentUrl"], CardBehaviour.PAYS) is EventOutcome.CREDITED
    assert await written() == (1, 0)
    other = await begin(api)
    assert (other["__typename"], other["key"]) == ("IdempotencyConflictError", "once")


async def test_an_invalid_top_up_is_refused_and_writes_nothing(api: Api) -> None:
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({"credits": 499}, ["credits"]),
        ({"credits": 550, "currency": "EUR"}, ["credits", "currency"]),
        ({"idempotencyKey": "not a key"}, ["idempotencyKey"]),
        *(({"returnUrl": address}, ["returnUrl"]) for address in BAD_ADDRESSES),
    ]
    for changes, paths in cases:
        error = await begin(api, **changes)
        assert error == {"__typename": "InvalidInputError", "problems": [{"path": path} for path in paths]}
        assert await written() == (0, 0)


async def test_a_top_up_above_the_limit_of_the_balance_is_refused_before_the_payment(api: Api) -> None:
    grant = "mutation($input: GrantCreditsInput!) { grantCredits(input: $input) { __typename } }"
    most = {"ownerId": "alice", "credits": 2**53 - 1, "reason": "all there is", "idempotencyKey": "k"}
    await api.data(OPERATOR, grant, input=most)
    assert await begin(api) == {"__typename": "BalanceLimitReachedError", "figure": "The balance"}
    assert await written() == (0, 0)


async def test_only_callers_with_an_own_account_buy_credits(api: Api) -> None:
    for caller in (SERVICE, READER, None):
        for query, input in ((BEGIN, wish()), (PORTAL, {"returnUrl": HOME})):
            code, _ = await api.error(caller, query, input=input)
            assert code == ("FORBIDDEN" if caller else "UNAUTHENTICATED")
            assert await written() == (0, 0)


async def test_top_ups_are_unavailable_without_a_payment_provider(api: Api) -> None:
    without_provider = replace(api, state=replace(api.state, payment_provider=None))
    for query, input in ((BEGIN, wish()), (PORTAL, {"returnUrl": HOME})):
        assert (await without_provider.error(ALICE, query, input=input))[0] == "UNAVAILABLE"
        assert await written() == (0, 0)


async def test_the_billing_portal_is_the_callers_own_and_needs_no_saved_card(api: Api) -> None:
    first = await portal(api)
    assert first["__typename"] == "OpenBillingPortalSuccess"
    page = await opened(api, first["url"])
    assert ("No card is saved." in page, f'href="{HOME}"' in page) == (True, True)
    assert await portal(api) == first
    assert (await portal(api, BOB))["url"] != first["url"]
    assert await written() == (0, 2)


async def test_the_billing_portal_returns_to_http_urls_only(api: Api) -> None:
    for address in BAD_ADDRESSES:
        error = await portal(api, return_url=address)
        assert error == {"__typename": "InvalidInputError", "problems": [{"path": "returnUrl"}]}
        assert await written() == (0, 0)


async def test_a_top_up_lists_its_refunds_and_disputes_newest_first(api: Api) -> None:
    top_up = await create_paid_top_up(credits=1_000)
    await refund_top_up(top_up, 200, reason="first")
    await refund_top_up(top_up, 100, reason="second")
    lost = build_dispute(top_up, DisputeStatus.OPEN, amount_minor=300)
    await deliver(lost)
    await deliver(replace(lost, status=DisputeStatus.LOST))
    await deliver(build_dispute(top_up, DisputeStatus.OPEN, amount_minor=50, dispute_ref="dp_2"))
    [edge] = (await api.data(ALICE, AFTERWARDS, first=5))["account"]["topUps"]["edges"]
    node = edge["node"]
    assert (node["status"], node["refunded"], node["clawedBack"]) == ("DISPUTED", 300, 300)
    for one in node["refunds"]:
        assert one.pop("createdAt") <= one.pop("decidedAt")
    rest = {"debt": 0, "bonus": 0, "reducedMinor": 0, "status": "DONE"}
    assert node["refunds"] == [
        {"credits": 100, "amountMinor": 100, "reason": "second"} | rest,
        {"credits": 200, "amountMinor": 200, "reason": "first"} | rest,
    ]
    waiting, decided = node["disputes"]
    assert (waiting["status"], waiting["amountMinor"], waiting["decidedAt"]) == ("OPEN", 50, None)
    assert (decided["status"], decided["amountMinor"]) == ("LOST", 300)
    assert decided["openedAt"] <= decided["decidedAt"] <= waiting["openedAt"]


async def test_a_page_of_top_ups_takes_a_constant_number_of_statements(api: Api, statements_sent: list[str]) -> None:
    for number in range(20):
        top_up = await create_paid_top_up(credits=500)
        await refund_top_up(top_up, 1 + number)
        await deliver(build_dispute(top_up, DisputeStatus.OPEN, amount_minor=10))
    statements_sent.clear()
    await api.data(ALICE, AFTERWARDS, first=2)
    for_two = len(statements_sent)
    statements_sent.clear()
    edges = (await api.data(ALICE, AFTERWARDS, first=20))["account"]["topUps"]["edges"]
    assert len(statements_sent) == for_two <= 5
    # Each page has its own top-ups.
    assert [[one["credits"] for one in edge["node"]["refunds"]] for edge in edges] == [[20 - n] for n in range(20)]
    assert [len(edge["node"]["disputes"]) for edge in edges] == [1] * 20


async def test_only_the_newest_refunds_are_listed(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_LISTED", 3)
    top_up, other = await create_paid_top_up(credits=1_000), await create_paid_top_up(credits=1_000)
    for credits in (1, 2, 3, 4, 5):
        await refund_top_up(top_up, credits)
    await refund_top_up(other, 9)
    edges = (await api.data(ALICE, AFTERWARDS, first=5))["account"]["topUps"]["edges"]
    assert [[one["credits"] for one in edge["node"]["refunds"]] for edge in edges] == [[9], [5, 4, 3]]


async def test_the_second_of_two_refunds_in_one_request_lists_both(api: Api) -> None:
    await create_paid_top_up(credits=1_000)
    query = "{ account { topUps { edges { node { id } } } } }"
    [edge] = (await api.data(ALICE, query))["account"]["topUps"]["edges"]
    request = {"topUpId": edge["node"]["id"], "reason": "twice"}
    found = await api.data(
        OPERATOR,
        REFUND_TWICE,
        first=request | {"credits": 1, "idempotencyKey": unique_id("key")},
        second=request | {"credits": 2, "idempotencyKey": unique_id("key")},
    )
    assert found["first"] == {"topUp": {"refunded": 1, "refunds": [{"credits": 1}]}}
    assert found["second"] == {"topUp": {"refunded": 3, "refunds": [{"credits": 2}, {"credits": 1}]}}
