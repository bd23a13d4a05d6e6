"""The sandbox's customers and saved cards: chosen on its page, told in its notices, paid with as they behave."""

import re
from asyncio import gather
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest
from starlette.applications import Starlette

from app import database
from app.topups.provider import Checkout, SavedCharge
from app.topups.rules import PaymentState
from app.topups.sandbox.cards import Behaviour
from app.webhooks import routes
from tests.topups.buying import ADDRESS, SANDBOX

pytestmark = pytest.mark.anyio

SAVING = Checkout(
    reference=f"1-{'a' * 32}", description="500 credits", amount_minor=500, currency="USD", return_url=None,
    customer_ref="cus_1", saves_card=True,
)  # fmt: skip


@pytest.fixture
async def client(db: str) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=Starlette(routes=routes(SANDBOX)))
    async with httpx.AsyncClient(transport=transport, base_url=ADDRESS) as client:
        yield client


def charge_of(card_ref: str, number: int = 1, **more: str) -> SavedCharge:
    charge = SavedCharge(
        reference=f"1-{number:032x}", description="credits", amount_minor=1_000, currency="USD",
        customer_ref="cus_1", card_ref=card_ref,
    )  # fmt: skip
    return replace(charge, **more)  # type: ignore[arg-type]  # texts only


async def saved(client: httpx.AsyncClient, chosen: str, checkout: Checkout = SAVING) -> str:
    """Pay on the page with a card that behaves so. Returns: the payment's id."""
    page = await SANDBOX.begin(checkout)
    token = re.search(r'name="token" value="(\w+)"', (await client.get(page.payment_url)).text)
    assert token is not None
    await client.post(page.payment_url, data={"token": token[1], "decision": "pay", "card": chosen})
    return page.provider_ref


async def test_an_account_is_one_customer_however_often_it_is_asked_for(db: str) -> None:
    found = await gather(*(SANDBOX.customer("7") for _ in range(5)), SANDBOX.customer("8"))
    assert (len(set(found[:5])), len(set(found))) == (1, 2)


async def test_the_page_of_a_payment_that_saves_its_card_asks_how_the_card_behaves(client: httpx.AsyncClient) -> None:
    page = await SANDBOX.begin(SAVING)
    shown = (await client.get(page.payment_url)).text
    assert re.findall(r'<option value="(\w+)">', shown) == ["pays", "declines", "asks"]
    other = await SANDBOX.begin(replace(SAVING, reference=f"1-{'b' * 32}", saves_card=False))
    assert "<option" not in (await client.get(other.payment_url)).text


@pytest.mark.parametrize(
    ("chosen", "state", "label"),
    [
        ("pays", PaymentState.PAID, "test card that pays"),
        ("declines", PaymentState.DECLINED, "test card that declines"),
        ("asks", PaymentState.ACTION_REQUIRED, "test card that asks its owner"),
        ("nonsense", PaymentState.PAID, "test card that pays"),
    ],
)
async def test_later_payments_go_as_the_card_that_was_chosen_behaves(
    client: httpx.AsyncClient, chosen: str, state: PaymentState, label: str
) -> None:
    told = await SANDBOX.ask(await saved(client, chosen))
    assert told is not None
    assert told.card is not None
    assert (told.state, told.card.customer_ref, told.card.label) == (PaymentState.PAID, "cus_1", label)
    answers = await gather(*(SANDBOX.charge_saved(charge_of(told.card.card_ref)) for _ in range(5)))
    assert len({answer.provider_ref for answer in answers}) == 1
    assert {(answer.state, answer.amount_minor) for answer in answers} == {(state, 1_000)}
    assert (answers[0].action_url is not None) is (state is PaymentState.ACTION_REQUIRED)
    assert answers[0].decline_reason == ("card_declined" if state is PaymentState.DECLINED else None)


async def test_a_card_of_somebody_else_and_one_that_does_not_exist_are_declined(client: httpx.AsyncClient) -> None:
    told = await SANDBOX.ask(await saved(client, "pays"))
    assert told is not None
    assert told.card is not None
    for number, charge in enumerate(
        (charge_of("card_none", 2), charge_of(told.card.card_ref, 3, customer_ref="cus_2"))
    ):
        assert (number, (await SANDBOX.charge_saved(charge)).state) == (number, PaymentState.DECLINED)


async def test_the_notice_of_a_payment_tells_of_the_card_that_it_saved(client: httpx.AsyncClient) -> None:
    await saved(client, "declines")
    [record] = await database.fetch("SELECT body->'payment'->'card' AS card FROM provider_notice")
    assert '"label": "test card that declines"' in record["card"]
    page = await SANDBOX.page(SAVING.reference)
    assert page is not None
    told = await SANDBOX.ask(page.provider_ref)
    assert told is not None
    raw_body, headers = SANDBOX.notice(page, told.card)
    event = await SANDBOX.verify(raw_body, headers)
    assert event is not None
    assert event.told == told


async def test_no_card_is_kept_of_a_payment_that_was_declined_or_did_not_consent(client: httpx.AsyncClient) -> None:
    await saved(client, "pays", replace(SAVING, saves_card=False))
    page = await SANDBOX.begin(replace(SAVING, reference=f"1-{'c' * 32}"))
    found = await SANDBOX.page(f"1-{'c' * 32}")
    assert found is not None
    await SANDBOX.decide(found, PaymentState.DECLINED, card=Behaviour.PAYS)
    assert [tuple(record) for record in await database.fetch("SELECT card_ref FROM sandbox_card")] == []
    assert page.provider_ref


async def test_the_portal_shows_the_cards_and_leads_back(client: httpx.AsyncClient) -> None:
    await saved(client, "asks")
    shown = await client.get(await SANDBOX.portal("cus_1", "https://shop.example/?a=1&b=<2>"))
    assert (shown.status_code, "test card that asks its owner" in shown.text) == (200, True)
    assert 'href="https://shop.example/?a=1&amp;b=&lt;2&gt;"' in shown.text
    evil = await client.get(await SANDBOX.portal("cus_2", "javascript:alert(1)"))
    assert ("javascript" in evil.text, "No card is saved." in evil.text) == (False, True)
