"""Receipts: their content, and that only a link made by this server opens one."""

from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest
from starlette.applications import Starlette

from app.topups.receipts import build_receipt, build_token, parse_token, render_receipt
from app.topups.rules import Reference, TaxLine, TopUpRow, TopUpStatus
from app.topups.settlement import settle
from app.webhooks import payment_routes
from tests.topups.top_up_fixtures import ADDRESS, SANDBOX, TERMS, create_top_up, payment_event, reload

pytestmark = pytest.mark.anyio

VAT = TaxLine(label="VAT 19 %", amount_minor=192, inclusive=True)
SALES_TAX = TaxLine(label="Sales tax", amount_minor=77, inclusive=False)


@pytest.fixture
async def browser(db: str) -> AsyncIterator[httpx.AsyncClient]:
    """A browser without a token."""
    app = Starlette(routes=payment_routes(SANDBOX, seller="Credits & Co; 1 <High> Street"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=ADDRESS) as client:
        yield client


async def create_paid_top_up(*taxes: TaxLine, owner_id: str = "alice") -> TopUpRow:
    top_up = await create_top_up(owner_id, 1_200, terms=replace(TERMS, bonuses=((1_000, 100),)))
    await settle(await payment_event(top_up, tax_lines=taxes))
    return await reload(top_up)


def path_of(top_up: TopUpRow) -> str:
    return f"/receipts/{build_token(Reference(top_up.account_id, top_up.id))}"


async def test_a_receipt_has_the_purchase_the_price_and_the_taxes_of_the_provider(db: str) -> None:
    top_up = await create_paid_top_up(VAT, SALES_TAX)
    receipt = build_receipt(top_up)
    assert receipt is not None
    assert (receipt.bought_credits, receipt.bonus_credits, receipt.currency) == (1_200, 100, "USD")
    assert (receipt.amount_minor, receipt.tax_lines, receipt.total_minor) == (1_200, (VAT, SALES_TAX), 1_277)
    assert (receipt.paid_at, receipt.reference) == (top_up.paid_at, top_up.reference)
    assert receipt.number == f"{top_up.paid_at:%Y%m%d}-{top_up.id[:12].upper()}"


async def test_a_receipt_exists_from_the_payment_on_and_stays_after_a_refund(db: str) -> None:
    assert build_receipt(await create_top_up()) is None
    refunded = (await create_paid_top_up())._replace(status=TopUpStatus.REFUNDED, refunded_minor=1_200)
    assert build_receipt(refunded) is not None


async def test_the_page_opens_with_its_link_alone(browser: httpx.AsyncClient) -> None:
    top_up = await create_paid_top_up(VAT, SALES_TAX)
    answer = await browser.get(path_of(top_up))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert (answer.headers["cache-control"], answer.headers["referrer-policy"]) == ("no-store", "no-referrer")
    for text in ("1,200 credits", "100 promotional credits", "12.00 USD", "VAT 19 % (included)", "1.92 USD",
                 "Sales tax", "0.77 USD", "12.77 USD", top_up.reference,
                 "Credits &amp; Co<br>1 &lt;High&gt; Street"):  # fmt: skip
        assert text in answer.text
    assert "$" not in answer.text
    assert "Refunded since" not in answer.text


async def test_a_changed_or_invented_link_opens_nothing(browser: httpx.AsyncClient) -> None:
    mine, pending = await create_paid_top_up(), await create_top_up("bob")
    token = path_of(mine).removeprefix("/receipts/")
    middle = len(token) // 2
    changed = [token[:middle] + ("A" if token[middle] != "A" else "B") + token[middle + 1 :], token[:-4], token + "A"]
    for path in (
        *(f"/receipts/{other}" for other in (*changed, "nothing", "%00", "A" * 54, "é", mine.reference)),
        path_of(pending),
        path_of(mine._replace(account_id=pending.account_id)),
    ):
        answer = await browser.get(path)
        assert (answer.status_code, "Receipt not found" in answer.text) == (404, True), path
    assert parse_token(token) == Reference(mine.account_id, mine.id)


async def test_the_label_of_a_tax_is_escaped(db: str) -> None:
    receipt = build_receipt(await create_paid_top_up(replace(VAT, label='<script>alert("$x")</script>')))
    assert receipt is not None
    page = render_receipt(receipt, None)
    assert "<script" not in page
    assert "&lt;script&gt;alert(&quot;$x&quot;)&lt;/script&gt; (included)" in page


async def test_a_refund_is_on_the_receipt(db: str) -> None:
    receipt = build_receipt((await create_paid_top_up())._replace(refunded_minor=500))
    assert receipt is not None
    assert "<th>Refunded since</th><td>5.00 USD</td>" in render_receipt(receipt, None)


async def test_receipts_stay_available_without_a_payment_provider(db: str) -> None:
    top_up = await create_paid_top_up()
    app = Starlette(routes=payment_routes(None))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=ADDRESS) as client:
        assert (await client.get(path_of(top_up))).status_code == 200
