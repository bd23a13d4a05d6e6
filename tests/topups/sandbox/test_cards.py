"""The sandbox's customers and saved cards: chosen on its page, reported in its events, charged as they behave."""

import re
from asyncio import gather
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest
from starlette.applications import Starlette

from app.db import pools
from app.topups.models import SandboxCustomer
from app.topups.provider import CardMissing, CheckoutRequest, SavedCardCharge
from app.topups.rules import PaymentStatus
from app.topups.sandbox.store import CardBehaviour
from app.webhooks import payment_routes
from tests.graphql_client import form_token
from tests.topups.top_up_fixtures import ADDRESS, SANDBOX

pytestmark = pytest.mark.anyio

SAVING = CheckoutRequest(
    reference=f"1-{'a' * 32}", description="500 credits", amount_minor=500, currency="USD", return_url=None,
    customer_ref="cus_1", saves_card=True,
)  # fmt: skip


@pytest.fixture
async def client(db: str) -> AsyncIterator[httpx.AsyncClient]:
    for number in (1, 2):
        await SandboxCustomer.create(customer_ref=f"cus_{number}", reference=str(number))
    transport = httpx.ASGITransport(app=Starlette(routes=payment_routes(SANDBOX)))
    async with httpx.AsyncClient(transport=transport, base_url=ADDRESS) as client:
        yield client


def build_charge(card_ref: str, number: int = 1, **more: str) -> SavedCardCharge:
    charge = SavedCardCharge(
        reference=f"1-{number:032x}", description="credits", amount_minor=1_000, currency="USD",
        customer_ref="cus_1", card_ref=card_ref,
    )  # fmt: skip
    return replace(charge, **more)  # type: ignore[arg-type]  # texts only


async def pay_and_save_card(client: httpx.AsyncClient, chosen: str, checkout: CheckoutRequest = SAVING) -> str:
    """Pay on the page with a card of this behaviour. Returns: the payment's id."""
    page = await SANDBOX.open_checkout(checkout)
    token = form_token((await client.get(page.payment_url)).text)
    await client.post(page.payment_url, data={"token": token, "decision": "pay", "card": chosen})
    return page.provider_ref


async def test_a_reference_is_one_customer_however_often_it_is_created(db: str) -> None:
    found = await gather(*(SANDBOX.create_customer("7") for _ in range(5)), SANDBOX.create_customer("8"))
    assert (len(set(found[:5])), len(set(found))) == (1, 2)


async def test_the_page_of_a_payment_that_saves_its_card_offers_card_behaviours(client: httpx.AsyncClient) -> None:
    page = await SANDBOX.open_checkout(SAVING)
    shown = (await client.get(page.payment_url)).text
    assert re.findall(r'<option value="(\w+)">', shown) == ["pays", "declines", "asks", "deleted", "refused"]
    other = await SANDBOX.open_checkout(replace(SAVING, reference=f"1-{'b' * 32}", saves_card=False))
    assert "<option" not in (await client.get(other.payment_url)).text


@pytest.mark.parametrize(
    ("chosen", "state", "label"),
    [
        ("pays", PaymentStatus.PAID, "test card that pays"),
        ("declines", PaymentStatus.DECLINED, "test card that declines"),
        ("asks", PaymentStatus.ACTION_REQUIRED, "test card that asks its owner"),
        ("nonsense", PaymentStatus.PAID, "test card that pays"),
    ],
)
async def test_later_payments_follow_the_behaviour_of_the_saved_card(
    client: httpx.AsyncClient, chosen: str, state: PaymentStatus, label: str
) -> None:
    payment = await SANDBOX.retrieve_payment(await pay_and_save_card(client, chosen))
    assert payment is not None
    assert payment.card is not None
    assert (payment.status, payment.card.customer_ref, payment.card.label) == (PaymentStatus.PAID, "cus_1", label)
    answers = await gather(*(SANDBOX.charge_saved_card(build_charge(payment.card.card_ref)) for _ in range(5)))
    assert len({answer.provider_ref for answer in answers}) == 1
    assert {(answer.status, answer.amount_minor) for answer in answers} == {(state, 1_000)}
    assert (answers[0].action_url is not None) is (state is PaymentStatus.ACTION_REQUIRED)
    assert answers[0].decline_reason == ("card_declined" if state is PaymentStatus.DECLINED else None)


async def test_a_card_of_another_customer_and_an_unknown_card_are_missing(client: httpx.AsyncClient) -> None:
    payment = await SANDBOX.retrieve_payment(await pay_and_save_card(client, "pays"))
    assert payment is not None
    assert payment.card is not None
    for charge in (build_charge("card_none", 2), build_charge(payment.card.card_ref, 3, customer_ref="cus_2")):
        with pytest.raises(CardMissing):
            await SANDBOX.charge_saved_card(charge)


async def test_the_event_of_a_payment_has_the_card_that_it_saved(client: httpx.AsyncClient) -> None:
    await pay_and_save_card(client, "declines")
    [record] = await pools.fetch("SELECT body->'payment'->'card' AS card FROM provider_event")
    assert '"label": "test card that declines"' in record["card"]
    page = await SANDBOX.find_payment_page(SAVING.reference)
    assert page is not None
    payment = await SANDBOX.retrieve_payment(page.provider_ref)
    assert payment is not None
    raw_body, headers = SANDBOX.sign_event(payment)
    event = await SANDBOX.verify_event(raw_body, headers)
    assert event is not None
    assert event.object == payment


async def test_no_card_is_saved_without_payment_or_consent(client: httpx.AsyncClient) -> None:
    await pay_and_save_card(client, "pays", replace(SAVING, saves_card=False))
    page = await SANDBOX.open_checkout(replace(SAVING, reference=f"1-{'c' * 32}"))
    found = await SANDBOX.find_payment_page(f"1-{'c' * 32}")
    assert found is not None
    await SANDBOX.decide_payment(found, PaymentStatus.DECLINED, behaviour=CardBehaviour.PAYS)
    assert [tuple(record) for record in await pools.fetch("SELECT card_ref FROM sandbox_card")] == []
    assert page.provider_ref


async def test_the_portal_shows_the_cards_and_links_back(client: httpx.AsyncClient) -> None:
    await pay_and_save_card(client, "asks")
    shown = await client.get(await SANDBOX.create_portal_session("cus_1", "https://shop.example/?a=1&b=<2>"))
    assert (shown.status_code, "test card that asks its owner" in shown.text) == (200, True)
    assert 'href="https://shop.example/?a=1&amp;b=&lt;2&gt;"' in shown.text
    evil = await client.get(await SANDBOX.create_portal_session("cus_2", "javascript:alert(1)"))
    assert ("javascript" in evil.text, "No card is saved." in evil.text) == (False, True)
