"""The routes of payments: answers to provider webhooks, and the sandbox's pages as a browser uses them."""

import html
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from app.db import pools
from app.topups.provider import DisputeStatus
from app.topups.rules import PaymentStatus, TopUpRow, TopUpStatus
from app.topups.sandbox.events import SIGNATURE_HEADER, build_body, sign
from app.webhooks import EVENT_LIMIT_BYTES, payment_routes
from tests.graphql_client import form_token
from tests.topups.refund_fixtures import build_dispute
from tests.topups.top_up_fixtures import (
    ADDRESS,
    SANDBOX,
    SECRET,
    create_top_up,
    decide_payment,
    find_page,
    list_entries,
    list_inbox,
    posted_credits,
    reload,
    sign_payment_event,
)

pytestmark = pytest.mark.anyio

WEBHOOK = "/webhooks/sandbox"


@pytest.fixture
async def client(db: str) -> AsyncIterator[httpx.AsyncClient]:
    """A browser, or a provider, in front of the payment routes."""
    transport = httpx.ASGITransport(app=Starlette(routes=payment_routes(SANDBOX)))
    async with httpx.AsyncClient(transport=transport, base_url=ADDRESS) as client:
        yield client


def path_of(top_up: TopUpRow) -> str:
    return f"/sandbox/pay/{top_up.reference}"


async def read_form_token(client: httpx.AsyncClient, top_up: TopUpRow) -> str:
    return form_token((await client.get(path_of(top_up))).text)


async def press(client: httpx.AsyncClient, top_up: TopUpRow, decision: str) -> httpx.Response:
    """Open the page and press one of its buttons."""
    fields = {"token": await read_form_token(client, top_up), "decision": decision}
    return await client.post(path_of(top_up), data=fields)


async def paid_event(top_up: TopUpRow, **changes: Any) -> dict[str, Any]:
    """The body of the event of the paid payment, with some fields of the payment changed."""
    raw_body, _ = await sign_payment_event(top_up)
    body: dict[str, Any] = json.loads(raw_body)
    body["payment"] |= changes
    return body


async def send(client: httpx.AsyncClient, body: object, *, age_seconds: int = 0) -> httpx.Response:
    """Send an event that the provider has signed that long ago."""
    raw_body = body if isinstance(body, bytes) else json.dumps(body).encode()
    signature = sign(raw_body, SECRET, at_seconds=int(time.time()) - age_seconds)
    return await client.post(WEBHOOK, content=raw_body, headers={SIGNATURE_HEADER: signature})


async def lose_the_database() -> None:
    """Point the pools at an address where nothing listens."""
    await pools.disconnect()
    with pytest.raises(OSError, match="Connect call failed"):
        await pools.connect("postgresql://127.0.0.1:1/nowhere")


async def test_a_signed_event_credits_once_however_often_it_is_sent(client: httpx.AsyncClient) -> None:
    top_up = await create_top_up()
    raw_body, headers = await sign_payment_event(top_up)
    answers = [await client.post(WEBHOOK, content=raw_body, headers=headers) for _ in range(3)]
    assert [(answer.status_code, answer.json()["outcome"]) for answer in answers] == [
        (200, "CREDITED"), (200, "DUPLICATE"), (200, "DUPLICATE"),
    ]  # fmt: skip
    assert await list_entries(top_up.account_id) == [("TOP_UP", 500, top_up.id, "user:alice")]


async def test_events_signed_within_the_tolerance_are_accepted_and_others_refused(client: httpx.AsyncClient) -> None:
    for age_seconds in (-290, 290):
        answer = await send(client, await paid_event(await create_top_up()), age_seconds=age_seconds)
        assert (answer.status_code, answer.json()) == (200, {"outcome": "CREDITED"})
    top_up = await create_top_up()
    body = await paid_event(top_up)
    for age_seconds in (310, -310):
        answer = await send(client, body, age_seconds=age_seconds)
        assert (answer.status_code, answer.json()["message"]) == (
            400, "The event was signed more than 300 seconds from now.",
        )  # fmt: skip
    assert (len(await list_inbox()), (await reload(top_up)).status) == (2, TopUpStatus.PENDING)


async def test_an_event_that_the_provider_has_not_signed_is_refused_and_not_stored(client: httpx.AsyncClient) -> None:
    top_up = await create_top_up()
    raw_body, headers = await sign_payment_event(top_up)
    tampered = raw_body.replace(b'"amount_minor":500', b'"amount_minor":900')
    assert tampered != raw_body
    foreign = {SIGNATURE_HEADER: sign(raw_body, b"a guessed secret", at_seconds=int(time.time()))}
    for content, sent in [
        (tampered, headers),
        (json.dumps(json.loads(raw_body)).encode(), headers),
        (raw_body, foreign),
        (raw_body, {}),
        (raw_body, {SIGNATURE_HEADER: "nonsense"}),
    ]:
        answer = await client.post(WEBHOOK, content=content, headers=sent)
        assert answer.status_code == 400
    assert await list_inbox() == {}
    assert (await posted_credits(top_up.account_id), (await reload(top_up)).status) == (0, TopUpStatus.PENDING)


async def test_a_signed_body_that_is_no_event_is_refused(client: httpx.AsyncClient) -> None:
    for body in (b"", b"{", b"null", b"[]", b"42", b"\xff", b'{"type": 1}', b'{"type": "payment.paid"}', b"[" * 60_000):
        assert (await send(client, body)).status_code == 400, body[:20]
    assert await list_inbox() == {}


async def test_a_field_of_another_form_is_refused(client: httpx.AsyncClient) -> None:
    top_up = await create_top_up()
    for changes in (
        {"amount_minor": "500"}, {"amount_minor": 0}, {"amount_minor": -5}, {"amount_minor": 2**53}, {"currency": None},
        {"reference": 7}, {"provider_ref": "x" * 256}, {"provider_ref": ""}, {"reference": "a\x00b"},
        {"status": "DECLINED"}, {"status": "UNKNOWN"}, {"live": "no"},
    ):  # fmt: skip
        assert (await send(client, await paid_event(top_up, **changes))).status_code == 400, changes
    assert (await list_inbox(), (await reload(top_up)).status) == ({}, TopUpStatus.PENDING)


@pytest.mark.parametrize(
    "reported_at", ["9999-12-31T23:59:59.999999Z", "1999-12-31T23:59:59Z", "2027-01-01T00:00:00", 1e18, 0, "infinity"]
)
async def test_a_dispute_reported_at_an_impossible_time_is_refused(
    client: httpx.AsyncClient, reported_at: object
) -> None:
    body = json.loads(json.dumps(build_body(build_dispute(await create_top_up(), DisputeStatus.OPEN)), default=str))
    body["dispute"] |= {"reported_at": reported_at, "payment_ref": "cs_1"}

    assert (await send(client, body)).status_code == 400
    assert await list_inbox() == {}


async def test_other_event_types_are_acknowledged_and_ignored(client: httpx.AsyncClient) -> None:
    assert (await send(client, {"id": "evt_1", "type": "customer.created"})).status_code == 200
    assert await list_inbox() == {}


async def test_an_event_of_another_amount_is_acknowledged_and_parked(client: httpx.AsyncClient) -> None:
    top_up = await create_top_up()
    body = await paid_event(top_up, amount_minor=50_000)
    answer = await send(client, body)
    assert (answer.status_code, answer.json()) == (200, {"outcome": "PARKED_MISMATCH"})
    stored = (await list_inbox())[f"sandbox:{body['id']}"]
    assert (stored["handled_at"], json.loads(stored["body"])) == (None, body)
    assert (await posted_credits(top_up.account_id), (await reload(top_up)).status) == (0, TopUpStatus.PENDING)


async def test_the_length_of_a_body_is_limited(client: httpx.AsyncClient) -> None:
    longest = json.dumps({"id": "evt_1", "type": "other", "more": ""}).encode()
    longest = longest[:-2] + b"x" * (EVENT_LIMIT_BYTES - len(longest)) + longest[-2:]
    assert (len(longest), (await send(client, longest)).status_code) == (8_388_608, 200)
    assert (await send(client, longest + b" ")).status_code == 413


async def test_the_webhook_accepts_only_post(client: httpx.AsyncClient) -> None:
    assert (await client.get(WEBHOOK)).status_code == 405


async def test_without_a_database_the_webhook_answers_503_and_the_event_may_be_sent_again(
    client: httpx.AsyncClient, db: str
) -> None:
    top_up = await create_top_up()
    body = await paid_event(top_up)
    await lose_the_database()
    answer = await send(client, body)
    assert (answer.status_code, answer.json()) == (
        503, {"message": "The event could not be handled now: send it again."},
    )  # fmt: skip
    await pools.disconnect()
    await pools.connect(db)
    assert (await send(client, body)).json() == {"outcome": "CREDITED"}


async def test_the_page_shows_the_payment_and_two_buttons(client: httpx.AsyncClient) -> None:
    top_up = await create_top_up("alice", 1_200)
    answer = await client.get(path_of(top_up))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
    assert "12.00 USD" in answer.text
    assert "1,200 credits" in answer.text
    assert re.findall(r'name="decision" value="(\w+)"', answer.text) == ["pay", "decline"]
    assert "$" not in answer.text


async def test_paying_redirects_to_exactly_the_given_return_url(client: httpx.AsyncClient) -> None:
    return_url = "https://shop.example/done?x={ID}&y='\"<>#a%20b"
    top_up = await create_top_up(return_url=return_url)
    answer = await press(client, top_up, "pay")
    assert (answer.status_code, answer.headers["location"]) == (303, return_url)
    assert (await reload(top_up)).status is TopUpStatus.PAID
    assert await list_entries(top_up.account_id) == [("TOP_UP", 500, top_up.id, "user:alice")]
    [stored] = (await list_inbox()).values()
    assert stored["event_id"].startswith("sandbox:evt_pay_")
    assert stored["outcome"] == "CREDITED"


async def test_without_a_return_url_the_page_shows_the_result(client: httpx.AsyncClient) -> None:
    top_up = await create_top_up()
    answer = await press(client, top_up, "pay")
    assert (answer.status_code, answer.headers["location"]) == (303, path_of(top_up))
    page = (await client.get(path_of(top_up))).text
    assert "<h1>Paid</h1>" in page
    assert re.findall(r'name="decision" value="(\w+)"', page) == ["resend", "dispute"]


async def test_a_declined_payment_fails_and_can_be_paid_afterwards(client: httpx.AsyncClient) -> None:
    top_up = await create_top_up()
    await press(client, top_up, "decline")
    assert ((await reload(top_up)).status, await posted_credits(top_up.account_id)) == (TopUpStatus.FAILED, 0)
    page = (await client.get(path_of(top_up))).text
    assert "The payment was declined" in page
    assert re.findall(r'name="decision" value="(\w+)"', page) == ["pay"]
    await press(client, top_up, "pay")
    assert ((await reload(top_up)).status, await posted_credits(top_up.account_id)) == (TopUpStatus.PAID, 500)


async def test_further_decisions_change_nothing_after_the_payment(client: httpx.AsyncClient) -> None:
    top_up = await create_top_up()
    for decision in ("pay", "pay", "decline", "resend"):
        assert (await press(client, top_up, decision)).status_code == 303
    assert ((await reload(top_up)).status, await posted_credits(top_up.account_id)) == (TopUpStatus.PAID, 500)
    assert len(await list_inbox()) == 1


async def test_an_event_that_was_lost_can_be_sent_again(client: httpx.AsyncClient) -> None:
    top_up = await create_top_up(return_url="https://shop.example/")
    await decide_payment(top_up)
    assert (await reload(top_up)).status is TopUpStatus.PENDING
    answer = await press(client, top_up, "resend")
    assert (answer.status_code, answer.headers["location"]) == (303, path_of(top_up))
    assert ((await reload(top_up)).status, await posted_credits(top_up.account_id)) == (TopUpStatus.PAID, 500)


async def test_a_form_with_another_token_is_refused(client: httpx.AsyncClient) -> None:
    mine, other = await create_top_up("alice"), await create_top_up("bob")
    for token in ("", "0" * 64, await read_form_token(client, other), "é", None):
        fields = {"decision": "pay"} | ({} if token is None else {"token": token})
        answer = await client.post(path_of(mine), data=fields)
        assert (answer.status_code, "Invalid form token" in answer.text) == (403, True)
    assert (await find_page(mine)).status == PaymentStatus.OPEN
    assert (await reload(mine)).status is TopUpStatus.PENDING


async def test_a_form_without_a_known_decision_is_refused(client: httpx.AsyncClient) -> None:
    top_up = await create_top_up()
    for decision in ("", "PAY", "refund"):
        assert (await press(client, top_up, decision)).status_code == 400
    assert (await find_page(top_up)).status == PaymentStatus.OPEN


async def test_the_length_of_a_form_is_limited(client: httpx.AsyncClient) -> None:
    top_up = await create_top_up()
    fields = {"token": await read_form_token(client, top_up), "decision": "pay", "more": "x" * 4_096}
    assert (await client.post(path_of(top_up), data=fields)).status_code == 413
    assert (await find_page(top_up)).status == PaymentStatus.OPEN


async def test_a_payment_that_does_not_exist_is_not_found(client: httpx.AsyncClient) -> None:
    token = SANDBOX.build_form_token("x")
    for reference in ("nothing", f"1-{'0' * 32}", "%00", "1-%22%3E%3Cscript%3E"):
        for answer in (
            await client.get(f"/sandbox/pay/{reference}"),
            await client.post(f"/sandbox/pay/{reference}", data={"decision": "pay", "token": token}),
        ):
            assert (answer.status_code, "Payment not found" in answer.text) == (404, True)
            assert "<script" not in answer.text


async def test_text_of_the_caller_is_escaped_on_the_page(client: httpx.AsyncClient) -> None:
    return_url = "https://shop.example/?q=\"><script>alert('x')</script>&amp;${title}"
    top_up = await create_top_up(return_url=return_url)
    for decision in (None, "pay"):
        if decision:
            await press(client, top_up, decision)
        page = (await client.get(path_of(top_up))).text
        assert "<script" not in page
        assert page.count(html.escape(return_url)) == 2  # the address, and the link's text
        assert html.unescape(html.escape(return_url)) == return_url


async def test_without_a_database_the_page_answers_503(client: httpx.AsyncClient, db: str) -> None:
    top_up = await create_top_up()
    await lose_the_database()
    answer = await client.get(path_of(top_up))
    assert (answer.status_code, "cannot reach its database" in answer.text) == (503, True)
    await pools.disconnect()
    await pools.connect(db)
    assert (await client.get(path_of(top_up))).status_code == 200


async def test_a_paid_payment_can_be_disputed_and_the_dispute_decided_on_its_page(client: httpx.AsyncClient) -> None:
    top_up = await create_top_up()
    assert (await press(client, top_up, "dispute")).status_code == 400  # it is not paid yet
    await press(client, top_up, "pay")
    seen = []
    for decision in ("dispute", "dispute", "lose", "win"):
        await press(client, top_up, decision)
        text = (await client.get(path_of(top_up))).text
        offered = [name for name in ("dispute", "win", "lose") if f'value="{name}"' in text]
        seen.append(((await reload(top_up)).status, offered))
    assert seen == [(TopUpStatus.DISPUTED, ["win", "lose"])] * 2 + [(TopUpStatus.REFUNDED, [])] * 2
    assert await posted_credits(top_up.account_id) == 0
    assert [row["outcome"] for row in (await list_inbox()).values()] == ["CREDITED", "DISPUTED", "DISPUTE_LOST"]


async def test_refund_events_are_settled_and_incomplete_ones_refused(client: httpx.AsyncClient) -> None:
    top_up = await create_top_up()
    await press(client, top_up, "pay")
    refund = {
        "provider": "sandbox", "live": False, "refund_ref": "re_1", "payment_ref": top_up.provider_ref,
        "reference": None, "status": "DONE", "amount_minor": 200, "currency": "USD",
    }  # fmt: skip
    body = {"id": "evt_re_1", "type": "refund.done", "refund": refund}
    answer = await send(client, body)
    assert (answer.status_code, answer.json()) == (200, {"outcome": "REFUNDED"})
    for changes in ({"refund_ref": ""}, {"payment_ref": 5}, {"amount_minor": 0}, {"currency": None}, {"reference": 5}):
        assert (await send(client, body | {"refund": refund | changes})).status_code == 400
    assert (await send(client, body | {"id": "e" * 201})).status_code == 400
    early = body | {"id": "evt_re_2", "refund": refund | {"refund_ref": "re_2", "payment_ref": "pay_unknown"}}
    assert (await send(client, early)).json() == {"outcome": "WAITING"}
    assert await posted_credits(top_up.account_id) == 300


@pytest.mark.parametrize(
    ("path", "title"),
    [
        ("/sandbox/portal/", "Customer not found"), ("/sandbox/pay/", "Payment not found"),
        ("/receipts/", "Receipt not found"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("parameter", ["%00", "a%00b", "%20", "%0A", "%FF", "%ED%A0%80", "%E2%80%8B", "x" * 256])
async def test_a_path_that_no_link_contains_is_not_found(
    client: httpx.AsyncClient, path: str, title: str, parameter: str
) -> None:
    answer = await client.get(path + parameter)

    assert (answer.status_code, title in answer.text) == (404, True)


@pytest.mark.parametrize("value", ["%00", "%FF", "%ED%A0%80", "http://[", "http://a%00b", "x" * 5_000])
async def test_a_return_url_that_is_not_allowed_is_left_out(client: httpx.AsyncClient, value: str) -> None:
    answer = await client.get(f"/sandbox/portal/cus_1?return={value}")

    assert (answer.status_code, "href" in answer.text) == (200, False)


@pytest.mark.parametrize("field", ["token", "decision", "card"])
@pytest.mark.parametrize("value", ["%00", "%FF", "%ED%A0%80", "%F0%9D%92%B3"])
async def test_a_form_field_of_any_bytes_is_no_fault(client: httpx.AsyncClient, field: str, value: str) -> None:
    top_up = await create_top_up()
    await client.get(path_of(top_up))
    fields = {"token": await read_form_token(client, top_up), "decision": "decline", "card": "pays"}
    body = "&".join(f"{name}={value if name == field else sent}" for name, sent in fields.items())

    answer = await client.post(
        path_of(top_up), content=body, headers={"content-type": "application/x-www-form-urlencoded"}
    )

    assert answer.status_code == {"token": 403, "decision": 400, "card": 303}[field]
