"""Promotions: top-ups of a certain size bring promotional credits in a grant that expires."""

from asyncio import gather
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from app.ledger import queries
from app.ledger.rules.account_state import GrantSource
from app.settings import Settings
from app.topups.auto_topup.purchasing import buy_if_needed
from app.topups.provider_events import EventOutcome
from app.topups.rules import PaymentStatus, TopUpTerms
from app.topups.settlement import settle
from tests.factories import charge_block_run, publish_rate_cards, start_task
from tests.topups.auto_topup_fixtures import enable_auto_topup
from tests.topups.top_up_fixtures import (
    SANDBOX,
    TERMS,
    begin_top_up,
    create_top_up,
    list_entries,
    payment_event,
    reload,
)

pytestmark = pytest.mark.anyio

PROMOTED = replace(TERMS, bonuses=((1_000, 100), (5_000, 1_000)), bonus_days=30)


@pytest.mark.parametrize(
    ("credits", "bonus"), [(500, 0), (999, 0), (1_000, 100), (4_999, 100), (5_000, 1_000), (10_000, 1_000)]
)
def test_the_highest_step_that_a_top_up_reaches_gives_its_bonus(credits: int, bonus: int) -> None:
    assert PROMOTED.bonus_credits(credits) == bonus


async def test_the_bonus_is_granted_with_the_payment_and_expires(db: str) -> None:
    top_up = await create_top_up("alice", 1_200, terms=PROMOTED)
    assert (top_up.bonus_credits, top_up.bonus_days, await list_entries(top_up.account_id)) == (100, 30, [])

    assert await settle(await payment_event(top_up)) is EventOutcome.CREDITED

    assert await list_entries(top_up.account_id) == [
        ("TOP_UP", 1_200, top_up.id, "user:alice"),
        ("GRANT", 100, top_up.id, "user:alice"),
    ]
    paid_at = (await reload(top_up)).paid_at
    assert paid_at is not None
    bonus, bought = await queries.list_grants(top_up.account_id, before_number=99, limit=9)
    assert (bought.source, bought.credits, bought.expires_at) == (GrantSource.PURCHASED, 1_200, None)
    assert (bonus.source, bonus.credits, bonus.top_up_id) == (GrantSource.PROMOTIONAL, 100, top_up.id)
    assert bonus.expires_at == paid_at + timedelta(days=30)


async def test_the_bonus_is_granted_once_however_many_events_arrive(db: str) -> None:
    top_up = await create_top_up("alice", 5_000, terms=PROMOTED)
    await settle(await payment_event(top_up, PaymentStatus.DECLINED))
    events = [await payment_event(top_up, event_id=f"sandbox:evt_{number}") for number in range(5)]
    await gather(*map(settle, [*events, *events]))
    assert [credits for _, credits, _, _ in await list_entries(top_up.account_id)] == [5_000, 1_000]


async def test_the_bonus_is_that_of_the_terms_when_the_top_up_was_begun(db: str) -> None:
    before = await begin_top_up("alice", 1_000, terms=PROMOTED, key="once")
    again = await begin_top_up("alice", 1_000, terms=TERMS, key="once")
    assert (again.replayed, again.top_up.bonus_credits) == (True, 100)
    await settle(await payment_event(before.top_up))
    assert [credits for _, credits, _, _ in await list_entries(before.top_up.account_id)] == [1_000, 100]


async def test_an_automatic_top_up_brings_a_bonus(db: str) -> None:
    account_id = await enable_auto_topup()
    await buy_if_needed(account_id, SANDBOX, PROMOTED)
    assert [(kind, credits) for kind, credits, _, _ in await list_entries(account_id)] == [
        ("TOP_UP", 1_000),
        ("GRANT", 100),
    ]


async def test_the_bonus_is_spent_first(db: str) -> None:
    top_up = await create_top_up("alice", 1_000, terms=PROMOTED)
    await settle(await payment_event(top_up))
    await charge_block_run(await start_task("alice"), await publish_rate_cards())
    bonus, bought = await queries.list_grants(top_up.account_id, before_number=99, limit=9)
    assert (bonus.remaining, bought.remaining) == (90, 1_000)


def test_promotions_are_read_from_the_settings() -> None:
    chosen = TopUpTerms.from_settings(Settings(top_up_bonuses="10000:1500, 5000:500", top_up_bonus_days=90))  # type: ignore[arg-type]  # as in the environment
    assert (chosen.bonuses, chosen.bonus_days) == (((5_000, 500), (10_000, 1_500)), 90)
    assert TopUpTerms.from_settings(Settings()).bonuses == ()


@pytest.mark.parametrize(
    "text", ["5000", "5000:", ":5", "a:b", "5000:500,5000:600", "0:5", "5:0", "1:2:3", "-1:2", "1:1e3"]
)
def test_invalid_promotions_are_refused(text: Any) -> None:
    with pytest.raises(ValidationError, match="CREDITS:BONUS"):
        Settings(top_up_bonuses=text)
