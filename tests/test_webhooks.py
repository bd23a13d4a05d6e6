"""The routes of payments: what a provider's notice is answered with, and the sandbox's pages in a browser's hands."""

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
from app.topups.rules import PaymentStatus, TopUpRow, TopUpStatus
from app.topups.sandbox.provider import SIGNATURE_HEADER
from app.topups.sandbox.signatures import sign
from app.webhooks import EVENT_LIMIT_BYTES, payment_routes
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


async def token_on(client: httpx.AsyncClient, top_up: TopUpRow) -> str:
    """The form token that the payment's page carries."""
    found = re.search(r'name="token" value="([0-9a-f]{64})"', (await client.get(path_of(top_up))).text)
    assert found is not None
    return found[1]


async def press(client: httpx.AsyncClient, top_up: TopUpRow, decision: str) -> httpx.Response:
    """Open the page and press one of its buttons."""
    fields = {"token": await token_on(client, top_up), "decision": decision}
    return await client.post(path_of(top_up), data=fields)


async def told(top_up: TopUpRow, **changes: Any) -> dict[str, Any]:
    """The body of the notice that the payment is paid, with some of its payment's fields changed."""
    raw_body, _ = SANDBOX.sign_payment_event(await decide_payment(top_up))
    body: dict[str, Any] = json.loads(raw_body)
    body["payment"] |= changes
    return body


async def send(client: httpx.AsyncClient, body: object, *, age_seconds: int = 0) -> httpx.Response:
    """Send a notice that the provider has signed that long ago."""
    raw_body = body if isinstance(body, bytes) else json.dumps(body).encode()
    signature = sign(raw_body, SECRET, at_seconds=int(time.time()) - age_seconds)
    return await client.post(WEBHOOK, content=raw_body, headers={SIGNATURE_HEADER: signature})


async def test_a_signed_notice_credits_once_however_often_it_comes(client: httpx.AsyncClient) -> None:
    top_up = await create_top_up()
    raw_body, headers = SANDBOX.sign_payment_event(await decide_payment(top_up))
    answers = [await client.post(WEBHOOK, content=raw_body, headers=headers) for _ in range(3)]
    assert [(answer.status_code, answer.json()["outcome"]) for answer in answers] == [
        (200, "CREDITED"), (200, "DUPLICATE"), (200, "DUPLICATE"),
    ]  # fmt: skip
    assert await list_entries(top_up.account_id) == [("TOP_UP", 500, top_up.id, "user:alice")]


async def lose_the_database() -> None:
    """From now on this process finds nobody where it looks for PostgreSQL."""
    await pools.disconnect()
    with pytest.raises(OSError, match="Connect call failed"):
        await pools.connect("postgresql://127.0.0.1:1/nowhere")


@pytest.mark.parametrize("age_seconds", [-290, 290])
async def test_a_notice_within_the_tolerance_is_taken(client: httpx.AsyncClient, age_seconds: int) -> None:
    answer = await send(client, await told(await create_top_up()), age_seconds=age_seconds)
    assert (answer.status_code, answer.json()) == (200, {"outcome": "CREDITED"})


@pytest.mark.parametrize("age_seconds", [310, -310])
async def test_an_old_notice_and_one_from_the_future_are_refused(client: httpx.AsyncClient, age_seconds: int) -> None:
    top_up = await create_top_up()
    answer = await send(client, await told(top_up), age_seconds=age_seconds)
    assert (answer.status_code, answer.json()["message"]) == (
        400, "The notice was signed more than 300 seconds from now.",
    )  # fmt: skip
    assert (await list_inbox(), (await reload(top_up)).status) == ({}, TopUpStatus.PENDING)


async def test_a_notice_that_the_provider_did_not_sign_is_refused_and_not_kept(client: httpx.AsyncClient) -> None:
    top_up = await create_top_up()
    raw_body, headers = SANDBOX.sign_payment_event(await decide_payment(top_up))
    tampered = raw_body.replace(b'"amountMinor":500', b'"amountMinor":900')
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
    assert (await list_inbox(), await posted_credits(top_up.account_id), (await reload(top_up)).status) == (
        {},
        0,
        TopUpStatus.PENDING,
    )


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[]", b"42", b"\xff", b'{"type": 1}', b'{"type": "payment.paid"}', b"[" * 60_000],
    ids=repr,
)
async def test_a_signed_notice_that_says_nothing_useful_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    assert (await send(client, body)).status_code == 400
    assert await list_inbox() == {}


@pytest.mark.parametrize(
    "changes",
    [{"amountMinor": "500"}, {"amountMinor": 0}, {"amountMinor": -5}, {"amountMinor": 2**53}, {"currency": None},
     {"reference": 7}, {"id": "x" * 256}, {"reference": "a\x00b"}],
    ids=str,
)  # fmt: skip
async def test_a_field_in_another_form_is_refused(client: httpx.AsyncClient, changes: dict[str, Any]) -> None:
    top_up = await create_top_up()
    assert (await send(client, await told(top_up, **changes))).status_code == 400
    assert (await list_inbox(), (await reload(top_up)).status) == ({}, TopUpStatus.PENDING)


async def test_kinds_that_do_not_concern_us_are_acknowledged_and_ignored(client: httpx.AsyncClient) -> None:
    assert (await send(client, {"id": "evt_1", "type": "customer.created"})).status_code == 200
    assert await list_inbox() == {}


async def test_a_notice_of_another_amount_is_acknowledged_parked_and_not_credited(client: httpx.AsyncClient) -> None:
    top_up = await create_top_up()
    body = await told(top_up, amountMinor=50_000)
    answer = await send(client, body)
    assert (answer.status_code, answer.json()) == (200, {"outcome": "PARKED_MISMATCH"})
    notice = (await list_inbox())[f"sandbox:{body['id']}"]
    assert (notice["handled_at"], json.loads(notice["body"])) == (None, body)
    assert (await posted_credits(top_up.account_id), (await reload(top_up)).status) == (0, TopUpStatus.PENDING)


async def test_a_body_may_be_so_long_and_no_longer(client: httpx.AsyncClient) -> None:
    longest = json.dumps({"id": "evt_1", "type": "other", "more": ""}).encode()
    longest = longest[:-2] + b"x" * (EVENT_LIMIT_BYTES - len(longest)) + longest[-2:]
    assert (len(longest), (await send(client, longest)).status_code) == (65_536, 200)
    assert (await send(client, longest + b" ")).status_code == 413


async def test_only_post_is_taken(client: httpx.AsyncClient) -> None:
    assert (await client.get(WEBHOOK)).status_code == 405


async def test_trouble_with_the_database_asks_the_provider_to_come_again(client: httpx.AsyncClient, db: str) -> None:
    top_up = await create_top_up()
    body = await told(top_up)
    await lose_the_database()
    answer = await send(client, body)
    assert (answer.status_code, answer.json()) == (
        503, {"message": "The notice could not be dealt with now: send it again."},
    )  # fmt: skip
    await pools.disconnect()
    await pools.connect(db)
    assert (await send(client, body)).json() == {"outcome": "CREDITED"}


async def test_the_page_shows_what_is_paid_and_two_buttons(client: httpx.AsyncClient) -> None:
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


async def test_paying_sends_the_buyer_back_exactly_where_the_call_said(client: httpx.AsyncClient) -> None:
    back = "https://shop.example/done?x={ID}&y='\"<>#a%20b"
    top_up = await create_top_up(return_url=back)
    answer = await press(client, top_up, "pay")
    assert (answer.status_code, answer.headers["location"]) == (303, back)
    assert (await reload(top_up)).status is TopUpStatus.PAID
    assert await list_entries(top_up.account_id) == [("TOP_UP", 500, top_up.id, "user:alice")]
    [notice] = (await list_inbox()).values()
    assert notice["event_id"].startswith("sandbox:evt_pay_")
    assert notice["outcome"] == "CREDITED"


async def test_without_a_return_address_the_page_shows_the_result(client: httpx.AsyncClient) -> None:
    top_up = await create_top_up()
    answer = await press(client, top_up, "pay")
    assert (answer.status_code, answer.headers["location"]) == (303, path_of(top_up))
    page = (await client.get(path_of(top_up))).text
    assert "<h1>Paid</h1>" in page
    assert re.findall(r'name="decision" value="(\w+)"', page) == ["resend", "dispute"]


async def test_a_declined_payment_fails_and_may_be_paid_after_all(client: httpx.AsyncClient) -> None:
    top_up = await create_top_up()
    await press(client, top_up, "decline")
    assert ((await reload(top_up)).status, await posted_credits(top_up.account_id)) == (TopUpStatus.FAILED, 0)
    page = (await client.get(path_of(top_up))).text
    assert "The payment was declined" in page
    assert re.findall(r'name="decision" value="(\w+)"', page) == ["pay"]
    await press(client, top_up, "pay")
    assert ((await reload(top_up)).status, await posted_credits(top_up.account_id)) == (TopUpStatus.PAID, 500)


async def test_pressing_again_changes_nothing_and_paid_stays_paid(client: httpx.AsyncClient) -> None:
    top_up = await create_top_up()
    for decision in ("pay", "pay", "decline", "resend"):
        assert (await press(client, top_up, decision)).status_code == 303
    assert ((await reload(top_up)).status, await posted_credits(top_up.account_id)) == (TopUpStatus.PAID, 500)
    assert len(await list_inbox()) == 1


async def test_a_notice_that_did_not_arrive_can_be_sent_again(client: httpx.AsyncClient) -> None:
    top_up = await create_top_up(return_url="https://shop.example/")
    await decide_payment(top_up)
    assert (await reload(top_up)).status is TopUpStatus.PENDING
    answer = await press(client, top_up, "resend")
    assert (answer.status_code, answer.headers["location"]) == (303, path_of(top_up))
    assert ((await reload(top_up)).status, await posted_credits(top_up.account_id)) == (TopUpStatus.PAID, 500)


async def test_a_form_with_another_token_decides_nothing(client: httpx.AsyncClient) -> None:
    mine, other = await create_top_up("alice"), await create_top_up("bob")
    for token in ("", "0" * 64, await token_on(client, other), "é", None):
        fields = {"decision": "pay"} | ({} if token is None else {"token": token})
        answer = await client.post(path_of(mine), data=fields)
        assert (answer.status_code, "Not sent by this page" in answer.text) == (403, True)
    assert ((await find_page(mine)).status, (await reload(mine)).status) == (PaymentStatus.OPEN, TopUpStatus.PENDING)


@pytest.mark.parametrize("decision", ["", "PAY", "refund"])
async def test_a_form_that_chooses_nothing_decides_nothing(client: httpx.AsyncClient, decision: str) -> None:
    top_up = await create_top_up()
    assert (await press(client, top_up, decision)).status_code == 400
    assert (await find_page(top_up)).status is PaymentStatus.OPEN


async def test_a_form_is_short(client: httpx.AsyncClient) -> None:
    top_up = await create_top_up()
    fields = {"token": await token_on(client, top_up), "decision": "pay", "more": "x" * 4_096}
    assert (await client.post(path_of(top_up), data=fields)).status_code == 413
    assert (await find_page(top_up)).status is PaymentStatus.OPEN


@pytest.mark.parametrize("reference", ["nothing", f"1-{'0' * 32}", "%00", "1-%22%3E%3Cscript%3E"])
async def test_there_is_no_page_for_a_payment_that_does_not_exist(client: httpx.AsyncClient, reference: str) -> None:
    for answer in (
        await client.get(f"/sandbox/pay/{reference}"),
        await client.post(
            f"/sandbox/pay/{reference}", data={"decision": "pay", "token": SANDBOX.build_form_token("x")}
        ),
    ):
        assert (answer.status_code, "There is no such payment" in answer.text) == (404, True)
        assert "<script" not in answer.text


async def test_what_a_caller_wrote_is_text_on_the_page_and_never_markup(client: httpx.AsyncClient) -> None:
    back = "https://shop.example/?q=\"><script>alert('x')</script>&amp;${title}"
    top_up = await create_top_up(return_url=back)
    for decision in (None, "pay"):
        if decision:
            await press(client, top_up, decision)
        page = (await client.get(path_of(top_up))).text
        assert "<script" not in page
        assert page.count(html.escape(back)) == 2  # the address, and the link's text
        assert html.unescape(html.escape(back)) == back


async def test_the_page_says_so_when_the_database_is_away(client: httpx.AsyncClient, db: str) -> None:
    top_up = await create_top_up()
    await lose_the_database()
    answer = await client.get(path_of(top_up))
    assert (answer.status_code, "cannot reach its database" in answer.text) == (503, True)
    await pools.disconnect()
    await pools.connect(db)
    assert (await client.get(path_of(top_up))).status_code == 200


async def test_a_paid_payment_can_be_disputed_and_decided_on_its_page(client: httpx.AsyncClient) -> None:
    top_up = await create_top_up()
    assert (await press(client, top_up, "dispute")).status_code == 400  # nothing was paid yet
    await press(client, top_up, "pay")
    seen = []
    for decision in ("dispute", "dispute", "lose", "win"):
        await press(client, top_up, decision)
        text = (await client.get(path_of(top_up))).text
        offered = [name for name in ("dispute", "win", "lose") if f'value="{name}"' in text]
        seen.append(((await reload(top_up)).status, offered))
    assert seen == [(TopUpStatus.DISPUTED, ["win", "lose"])] * 2 + [(TopUpStatus.REFUNDED, [])] * 2
    assert await posted_credits(top_up.account_id) == 0
    assert [notice["outcome"] for notice in (await list_inbox()).values()] == ["CREDITED", "DISPUTED", "DISPUTE_LOST"]


async def test_signed_notices_of_refunds_are_settled_and_incomplete_ones_refused(client: httpx.AsyncClient) -> None:
    top_up = await create_top_up()
    await press(client, top_up, "pay")
    about = {"id": "re_1", "payment": top_up.provider_ref, "reference": None, "amountMinor": 200, "currency": "USD"}
    body = {"id": "evt_re_1", "type": "refund.done", "refund": about}
    answer = await send(client, body)
    assert (answer.status_code, answer.json()) == (200, {"outcome": "REFUNDED"})
    for wrong in ({"id": ""}, {"payment": 5}, {"amountMinor": 0}, {"currency": None}, {"reference": 5}):
        assert (await send(client, body | {"refund": about | wrong})).status_code == 400
    assert (await send(client, body | {"id": "e" * 201})).status_code == 400
    early = body | {"id": "evt_re_2", "refund": about | {"id": "re_2", "payment": "pay_unknown"}}
    assert (await send(client, early)).json() == {"outcome": "WAITING"}
    assert await posted_credits(top_up.account_id) == 300
