"""Beginning a top-up: limits, repeated requests, and recovery after an interruption."""

import re
from asyncio import gather
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from app.credits import MAX_CREDITS
from app.db import pools
from app.errors import BalanceLimitReached, IdempotencyConflict, InvalidInput, Misconfigured, Unavailable
from app.settings import Settings
from app.topups import purchases, queries, rows, settlement
from app.topups.configured_provider import open_provider
from app.topups.provider import CheckoutPage, CheckoutRequest
from app.topups.purchases import TopUpRequest
from app.topups.rules import PaymentStatus, TopUpRow, TopUpStatus
from app.topups.sandbox.provider import Sandbox
from tests.factories import grant_credits
from tests.topups.top_up_fixtures import (
    ADDRESS,
    SANDBOX,
    SECRET,
    TERMS,
    begin_top_up,
    create_top_up,
    find_account,
    find_page,
    list_entries,
    payment_event,
    reload,
)

pytestmark = pytest.mark.anyio


class UnreachableProvider(Sandbox):
    """A provider that does not answer."""

    async def open_checkout(self, checkout: CheckoutRequest) -> CheckoutPage:
        raise Unavailable("The payment provider does not answer.")


async def count_rows(table: str) -> int:
    return int((await pools.fetch(f"SELECT count(*) FROM {table}"))[0][0])


async def test_a_new_top_up_is_pending_without_entries_and_has_a_payment_page(db: str) -> None:
    first = await begin_top_up("alice", 1_200, return_url="https://shop.example/?a=1&b=<2>")
    top_up = first.top_up
    assert re.fullmatch("[0-9a-f]{32}", top_up.id)
    assert top_up._replace(created_at=first.balance.as_of) == TopUpRow(
        account_id=first.balance.account_id,
        id=top_up.id,
        credits=1_200,
        amount_minor=1_200,
        currency="USD",
        status=TopUpStatus.PENDING,
        provider="sandbox",
        provider_ref=(await find_page(top_up)).provider_ref,
        payment_url=f"{ADDRESS}/sandbox/pay/{top_up.account_id}-{top_up.id}",
        return_url="https://shop.example/?a=1&b=<2>",
        actor="user:alice",
        created_at=first.balance.as_of,
        paid_at=None,
        refunded_credits=0,
    )
    assert (first.replayed, first.balance.posted, first.balance.version) == (False, 0, 0)
    assert await list_entries(top_up.account_id) == []
    page = await find_page(top_up)
    assert (page.amount_minor, page.currency, page.status) == (1_200, "USD", PaymentStatus.OPEN)


async def test_the_price_is_the_credits_times_the_price_of_one_credit(db: str) -> None:
    terms = replace(TERMS, minor_per_credit=3, currency="EUR")
    top_up = await create_top_up("alice", 700, currency="EUR", terms=terms)
    assert (top_up.amount_minor, top_up.currency) == (2_100, "EUR")
    assert ((await find_page(top_up)).amount_minor, (await find_page(top_up)).currency) == (2_100, "EUR")


@pytest.mark.parametrize("credits", [500, 10_000])
async def test_the_smallest_and_largest_amounts_may_be_bought(db: str, credits: int) -> None:
    assert (await create_top_up("alice", credits)).credits == credits


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"credits": 499}, "credits"),
        ({"credits": 550}, "credits"),
        ({"credits": 10_100}, "credits"),
        ({"credits": -500}, "credits"),
        ({"credits": 2**70}, "credits"),
        ({"currency": "EUR"}, "currency"),
        ({"return_url": "javascript:alert(1)"}, "returnUrl"),
        ({"key": ""}, "idempotencyKey"),
        ({"key": "k" * 256}, "idempotencyKey"),
    ],
)
async def test_an_invalid_request_is_refused_and_writes_nothing(db: str, values: dict[str, Any], path: str) -> None:
    for owner_id in ("nobody-yet", "alice"):
        if owner_id == "alice":
            await grant_credits("alice", 1)
        with pytest.raises(InvalidInput) as refusal:
            await begin_top_up(owner_id, **({"credits": 500} | values))
        assert [problem.path for problem in refusal.value.problems] == [path]
    assert await find_account("nobody-yet") is None
    assert (await count_rows("top_up"), await count_rows("owner")) == (0, 1)


async def test_credits_that_would_exceed_the_balance_limit_are_refused_before_payment(db: str) -> None:
    await grant_credits("alice", MAX_CREDITS - 499)
    with pytest.raises(BalanceLimitReached):
        await begin_top_up("alice", 500)
    assert await count_rows("top_up") == 0


async def test_a_repeated_request_returns_the_same_top_up_and_page(db: str) -> None:
    first = await begin_top_up("alice", 500, key="once", return_url="https://shop.example/")
    again = await begin_top_up("alice", 500, key="once", return_url="https://shop.example/")
    assert (again.replayed, again.top_up) == (True, first.top_up)
    assert await count_rows("top_up") == 1


async def test_twenty_concurrent_requests_begin_one_top_up(db: str) -> None:
    found = await gather(*(begin_top_up("alice", 500, key="once") for _ in range(20)))
    assert sum(not one.replayed for one in found) == 1
    assert {(one.top_up.id, one.top_up.payment_url) for one in found} == {
        (found[0].top_up.id, f"{ADDRESS}/sandbox/pay/{found[0].top_up.reference}")
    }
    assert await count_rows("top_up") == 1


async def test_a_repeated_request_is_replayed_after_the_terms_changed(db: str) -> None:
    first = await begin_top_up("alice", 500, key="once")
    again = await begin_top_up("alice", 500, key="once", terms=replace(TERMS, minimum_credits=1_000))
    assert (again.replayed, again.top_up) == (True, first.top_up)


@pytest.mark.parametrize(
    "other", [{"credits": 600}, {"currency": "USD"}, {"return_url": "https://elsewhere.example/"}], ids=str
)
async def test_the_same_key_with_another_request_is_a_conflict(db: str, other: dict[str, Any]) -> None:
    first: dict[str, Any] = {"credits": 500, "key": "once"}
    await begin_top_up("alice", **first)
    with pytest.raises(IdempotencyConflict):
        await begin_top_up("alice", **(first | other))
    assert await count_rows("top_up") == 1


async def test_idempotency_keys_belong_to_their_owner(db: str) -> None:
    one, two = await begin_top_up("alice", 500, key="once"), await begin_top_up("bob", 900, key="once")
    assert (two.replayed, one.top_up.account_id == two.top_up.account_id) == (False, False)


async def test_a_repeated_request_opens_a_checkout_that_is_missing(db: str) -> None:
    request = TopUpRequest(owner_id="alice", credits=500, key="once", actor="user:alice")
    with pytest.raises(Unavailable):
        await purchases.begin_top_up(request, UnreachableProvider(ADDRESS, SECRET), TERMS)
    [left] = await queries.list_top_ups(await find_account("alice") or 0, before=None, limit=10)
    assert (left.status, left.payment_url, left.provider_ref) == (TopUpStatus.PENDING, None, None)

    again = await purchases.begin_top_up(request, SANDBOX, TERMS)

    assert (again.replayed, again.top_up.id) == (True, left.id)
    assert again.top_up.payment_url == f"{ADDRESS}/sandbox/pay/{left.reference}"
    assert again.top_up == await reload(left)


class EarlyEventSandbox(Sandbox):
    """A provider whose event of the payment arrives before its answer to our call."""

    async def open_checkout(self, checkout: CheckoutRequest) -> CheckoutPage:
        page = await SANDBOX.open_checkout(checkout)
        [top_up] = await queries.list_top_ups(await find_account("alice") or 0, before=None, limit=10)
        await settlement.settle(await payment_event(top_up))
        return page


async def test_a_payment_event_may_arrive_before_the_checkout_is_recorded(db: str) -> None:
    request = TopUpRequest(owner_id="alice", credits=500, key="once", actor="user:alice")
    top_up = (await purchases.begin_top_up(request, EarlyEventSandbox(ADDRESS, SECRET), TERMS)).top_up
    assert (top_up.status, top_up.provider_ref) == (TopUpStatus.PAID, (await find_page(top_up)).provider_ref)
    assert top_up.payment_url == f"{ADDRESS}/sandbox/pay/{top_up.reference}"
    assert await list_entries(top_up.account_id) == [("TOP_UP", 500, top_up.id, "user:alice")]


async def test_the_first_recorded_checkout_stays(db: str) -> None:
    top_up = await create_top_up()
    assert (
        await rows.record_checkout(top_up, provider_ref="pay_other", payment_url="https://elsewhere.example/") == top_up
    )
    assert await reload(top_up) == top_up


async def test_the_sandbox_opens_one_checkout_for_a_reference(db: str) -> None:
    top_up = await create_top_up()
    checkout = CheckoutRequest(
        reference=top_up.reference, description="500 credits", amount_minor=500, currency="USD", return_url=None
    )
    pages = await gather(*(SANDBOX.open_checkout(checkout) for _ in range(5)))
    assert {page.provider_ref for page in pages} == {top_up.provider_ref}


async def test_top_ups_are_listed_newest_first_for_one_account(db: str) -> None:
    mine = [await create_top_up("alice") for _ in range(5)]
    other = await create_top_up("bob")
    account_id = mine[0].account_id
    first = await queries.list_top_ups(account_id, before=None, limit=2)
    second = await queries.list_top_ups(account_id, before=(first[-1].created_at, first[-1].id), limit=10)
    assert [top_up.id for top_up in first + second] == [top_up.id for top_up in reversed(mine)]
    assert await queries.find_top_up(account_id, other.id) is None
    keys = [(account_id, mine[0].id), (other.account_id, other.id), (account_id, other.id), (account_id, "\x00")]
    assert await queries.find_top_ups(keys) == {keys[0]: await reload(mine[0]), keys[1]: await reload(other)}


def test_the_sandbox_does_not_run_in_production() -> None:
    chosen = Settings(environment="production", sandbox_secret=SecretStr("s" * 40))
    with pytest.raises(Misconfigured, match="does not run in production"):
        open_provider(chosen)


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(Misconfigured, match="at least 32 characters"):
        open_provider(Settings(sandbox_secret=SecretStr("s" * 31)))


@pytest.mark.parametrize(
    ("chosen", "address"),
    [
        ({"public_url": "https://credits.example/"}, "https://credits.example"),
        ({"host": "0.0.0.0", "port": 8080}, "http://127.0.0.1:8080"),  # noqa: S104  a setting of a test, never bound
        ({"host": "::1"}, "http://[::1]:8000"),
    ],
)
def test_payment_pages_use_the_public_url_of_the_server(chosen: dict[str, Any], address: str) -> None:
    provider = open_provider(Settings(sandbox_secret=SecretStr("s" * 32), **chosen))
    assert isinstance(provider, Sandbox)
    assert provider.address == address
    assert "sssss" not in repr(provider)
