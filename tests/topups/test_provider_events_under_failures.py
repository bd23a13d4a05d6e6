"""300 payments by Stripe, their refunds and disputes, told of again and again, in any order and eight at once, while
handlers are killed and credits are spent: each is credited once, and ends as its notices say. The real server as two
worker processes; notices and signatures of the stand-in.
"""

import asyncio
import json
import random
import re
import signal
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple, TypeVar

import asyncpg
import httpx
import psutil
import pytest

from app.db import failures, pools
from app.errors import BillingError
from app.pricing.measurements import Measurements
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import charging
from app.tasks.charging import Charge
from app.topups import inbox_retries
from app.topups.provider import CheckoutPage, CheckoutRequest
from app.topups.rules import TopUpRow, TopUpStatus
from app.topups.stripe.provider import Stripe
from app.verify.verifier import verify_ledger
from tests.command_line import running_server
from tests.conftest import LEDGER_KEY
from tests.factories import block_run_request, get_balance, grant_credits, publish_rate_cards, start_task, unique_id
from tests.fake_stripe import KEY, SECRET, FakeStripe, serve_fake_stripe, sign_event
from tests.fake_stripe.objects import Json
from tests.soak import sized
from tests.topups.stripe_fixtures import begin_at_stripe, open_stripe, session_id, stripe_settings
from tests.topups.top_up_fixtures import list_entries, reload

pytestmark = pytest.mark.anyio

PAYMENTS = sized(100, soak=300)
OWNERS = PAYMENTS // 10
SPENDERS = OWNERS // 3
AT_ONCE = 8
KILLED_SHARE = 0.1
OTHERS_SHARE = 0.3
MOST_TRIES = 40

T = TypeVar("T")

# One handler that is in the middle of a transaction: its connection breaks under it.
KILL = """
    SELECT pg_terminate_backend(pid) FROM (
        SELECT pid FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'credits-posting' AND state <> 'idle'
        ORDER BY random() LIMIT 1) AS busy
"""


@pytest.fixture
def fake_stripe() -> Iterator[FakeStripe]:
    with serve_fake_stripe() as books:
        yield books


@pytest.fixture
def shop(db: str, fake_stripe: FakeStripe) -> Iterator[str]:
    """The address of a server of two workers that sells by Stripe."""
    with (
        tempfile.TemporaryDirectory(prefix="credits-shop-") as directory,
        running_server(
            DATABASE_URL=db, DATA_DIR=directory, PORT="0", WORKERS="2", LEDGER_KEY=LEDGER_KEY.hex(),
            PAYMENT_PROVIDER="stripe", STRIPE_SECRET_KEY=KEY, STRIPE_WEBHOOK_SECRET=SECRET,
            STRIPE_BASE_URL=fake_stripe.url,
        ) as (url, _),
    ):  # fmt: skip
        yield url


class Bought(NamedTuple):
    """A purchase, and what is to be said of it in the end: credits refunded and clawed back."""

    top_up: TopUpRow
    refunded: int
    clawed_back: int

    @property
    def status(self) -> TopUpStatus:
        return TopUpStatus.REFUNDED if self.refunded + self.clawed_back == self.top_up.credits else TopUpStatus.PAID


class CutOff(Exception):
    """The shop has gone in the middle of a request."""


@dataclass
class Line:
    """A connection to the shop that is kept, as Stripe keeps its own; opened anew where it broke."""

    shop: httpx.URL
    ends: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def deliver(self, event: Json) -> tuple[int, Json]:
        """Status and answer. Raises: CutOff."""
        body, headers = sign_event(event)
        head = {"Host": f"{self.shop.host}:{self.shop.port}", "Content-Length": str(len(body)), **headers}
        lines = ["POST /webhooks/stripe HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]
        try:
            if self.ends is None:
                self.ends = await asyncio.open_connection(self.shop.host, self.shop.port)
            reader, writer = self.ends
            writer.write("\r\n".join(lines).encode() + body)
            answered = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"content-length: (\d+)", answered, re.IGNORECASE)
            assert length is not None, answered
            answer = json.loads(await reader.readexactly(int(length[1])))
        except (OSError, asyncio.IncompleteReadError):
            await self.close()
            raise CutOff from None
        return int(answered.split(" ", 2)[1]), answer

    async def close(self) -> None:
        if self.ends is not None:
            self.ends[1].close()
            with suppress(OSError):
                await self.ends[1].wait_closed()
            self.ends = None


async def begun(books: FakeStripe) -> list[TopUpRow]:
    """The purchases, none of them paid yet."""

    class AtTheCounter(Stripe):
        """Opens its checkouts without the wire between: 300 calls of the SDK are not what is looked at here."""

        async def open_checkout(self, checkout: CheckoutRequest) -> CheckoutPage:
            made = books.create_session(dict(self._session(checkout)))
            return CheckoutPage(provider_ref=made["id"], payment_url=made["url"])

    provider = AtTheCounter.open(stripe_settings(books))
    owners = [unique_id("storm") for _ in range(OWNERS)]
    purchases = [
        await begin_at_stripe(provider, owners[number % OWNERS], 500 + 100 * (number % 7)) for number in range(PAYMENTS)
    ]
    await provider.close()
    return [one.top_up for one in purchases]


def afterwards(books: FakeStripe, top_up: TopUpRow, number: int) -> tuple[Bought, list[Json]]:
    """What becomes of the payment with this number, and what Stripe tells of it: a refund of every fifth (of a part, of
    all, one that fails, one that fails and is followed by another), a dispute of two in fifteen, every other one lost.
    """
    intent_id = books.get(session_id(top_up))["payment_intent"]
    told: list[Json] = []
    refunded = 0

    def refund(credits: int, status: Literal["succeeded", "failed"]) -> int:
        begun = books.refund_from_dashboard(intent_id, credits, status="pending")
        told.extend([begun, *books.decide_refund(begun["data"]["object"]["id"], status)])
        return credits if status == "succeeded" else 0

    if number % 5 == 0:
        match number // 5 % 4:
            case 0:
                refunded = refund(200, "succeeded")
            case 1:
                refunded = refund(top_up.credits, "succeeded")
            case 2:
                refunded = refund(300, "failed")
            case _:
                refunded = refund(top_up.credits, "failed") + refund(200, "succeeded")
    if number % 15 not in (1, 5):
        return Bought(top_up, refunded, 0), told
    ending = "lost" if number // 15 % 2 else "won"
    told += [books.dispute(intent_id), books.dispute(intent_id, "closed", ending)]
    return Bought(top_up, refunded, top_up.credits - refunded if ending == "lost" else 0), told


async def spent(owner_id: str, rate_cards: RateCardCache, chance: random.Random, storm_is_over: asyncio.Event) -> None:
    """Some of an owner's credits are spent meanwhile, as they come; each block run at most once."""
    task = await asked_until_answered(lambda: start_task(owner_id, task_id=f"task-of-{owner_id}"))
    for _ in range(8):
        items = chance.randint(500, 1_500)
        if not await is_credited(task.account_id, items, storm_is_over):
            return
        run = block_run_request(task, block="ItemBlock", measurements=Measurements(items=items))
        [outcome] = await asked_until_answered(partial(charging.charge_many, [(task.account_id, run)], rate_cards))
        assert isinstance(outcome, Charge | BillingError)
        await asyncio.sleep(chance.uniform(0, 1))


async def is_credited(account_id: int, credits: int, storm_is_over: asyncio.Event) -> bool:
    """Wait until so many credits are there: a refused charge would stop the task, and nothing would be spent. False:
    they never came.
    """
    while (await asked_until_answered(lambda: get_balance(account_id))).available < credits:
        if storm_is_over.is_set():
            return False
        await asyncio.sleep(0.05)
    return True


async def asked_until_answered(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask again where the connection was lost: those of this process are killed too."""
    for _ in range(MOST_TRIES):
        try:
            return await ask()
        except Exception as fault:
            if not failures.is_connection_failure(fault):
                raise
            await asyncio.sleep(0.05)
    raise AssertionError("the database never answered")


async def settle_what_waits(books: FakeStripe) -> None:
    """Time passes, until everything that waits for another notice has been tried again."""
    provider = open_stripe(books)
    for _ in range(4):
        due = await pools.fetch(
            "UPDATE provider_event SET next_attempt_at = clock_timestamp()"
            " WHERE handled_at IS NULL AND parked_at IS NULL RETURNING 1"
        )
        if due:
            await inbox_retries.retry_due(provider, limit=len(due))
    await provider.close()


@dataclass
class Storm:
    """Deliveries, some of whose handlers are killed; `said` counts what came of them."""

    shop: httpx.URL
    killer: asyncpg.Connection
    chance: random.Random
    killing: asyncio.Lock = field(default_factory=asyncio.Lock)
    said: "Counter[str]" = field(default_factory=Counter)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def carry_all(self, deliveries: list[Json]) -> None:
        """Deliver all, so many at once; then the storm is over."""
        waiting = iter(deliveries)
        await asyncio.gather(*(self.carry(waiting) for _ in range(AT_ONCE)))
        self.over.set()

    async def carry(self, waiting: Iterator[Json]) -> None:
        """Deliver one after another, by a line of one's own."""
        line = Line(self.shop)
        for event in waiting:
            await self._deliver(line, event)
        await line.close()

    async def _deliver(self, line: Line, event: Json) -> None:
        """As Stripe does: until it is acknowledged."""
        kills = self.chance.random() < KILLED_SHARE
        for _ in range(MOST_TRIES):
            killed = asyncio.create_task(self._kill()) if kills else None
            try:
                status, answer = await line.deliver(event)
            except CutOff:
                self.said["cut off"] += 1
            else:
                if status == 200:
                    self.said[answer["outcome"]] += 1
                    return
                assert status == 503, answer
                self.said["again"] += 1
            finally:
                if killed is not None:
                    await killed
            kills = False
            await asyncio.sleep(0.05)
        raise AssertionError(f"{event['id']} was never acknowledged")

    async def _kill(self) -> None:
        await asyncio.sleep(self.chance.uniform(0, 0.01))
        async with self.killing:
            self.said["killed"] += len(await self.killer.fetch(KILL))


def told_of(books: FakeStripe, top_ups: list[TopUpRow], chance: random.Random) -> tuple[list[Bought], list[Json]]:
    """All are paid. Returns: what they must come to, and the deliveries in any order: of each payment one of its three
    events, one to five times, and of some another one too; what came after it, each one to three times.
    """
    bought: list[Bought] = []
    deliveries: list[Json] = []
    for number, top_up in enumerate(top_ups):
        event, other, _ = chance.sample(books.pay_checkout(session_id(top_up)), 3)
        deliveries += [event] * chance.randint(1, 5) + [other] * (chance.random() < OTHERS_SHARE)
        one, told = afterwards(books, top_up, number)
        bought.append(one)
        deliveries += [event for event in told for _ in range(chance.randint(1, 3))]
    chance.shuffle(deliveries)
    return bought, deliveries


async def test_payments_are_credited_once_each_whatever_is_killed(shop: str, fake_stripe: FakeStripe, db: str) -> None:
    chance = random.Random(11)  # noqa: S311  the same storm in every run
    bought, deliveries = told_of(fake_stripe, await begun(fake_stripe), chance)
    owners = sorted({one.top_up.actor.removeprefix("user:") for one in bought})[:SPENDERS]
    rate_cards = await publish_rate_cards()
    for owner in owners:
        await grant_credits(owner, 100)
    killer = await asyncpg.connect(**pools.connection_arguments(db))
    storm = Storm(httpx.URL(shop), killer, chance)
    await asyncio.gather(
        lose_workers(shop),
        storm.carry_all(deliveries),
        *(spent(owner, rate_cards, chance, storm.over) for owner in owners),
    )
    await killer.close()
    print(f"{len(deliveries)} deliveries: {dict(storm.said)}")
    assert storm.said["killed"] >= PAYMENTS // 6, storm.said
    assert storm.said["cut off"] >= 1, storm.said
    assert storm.said["WAITING"] >= PAYMENTS // 30, storm.said
    await settle_what_waits(fake_stripe)
    await all_is_as_told(bought)


async def all_is_as_told(bought: list[Bought]) -> None:
    unhandled = "SELECT event_id, outcome, last_error FROM provider_event WHERE handled_at IS NULL"
    assert await pools.fetch(unhandled) == []
    found = [
        entry for account_id in {one.top_up.account_id for one in bought} for entry in await list_entries(account_id)
    ]
    credited = [entry for entry in found if entry[0] == "TOP_UP"]
    top_ups = [one.top_up for one in bought]
    assert len(credited) == PAYMENTS
    assert sorted(credited) == sorted(("TOP_UP", one.credits, one.id, one.actor) for one in top_ups)
    for one in bought:
        top_up = await reload(one.top_up)
        assert (top_up.status, top_up.refunded_credits, top_up.refunded_minor, top_up.clawed_back_credits) == (
            one.status, one.refunded, one.refunded, one.clawed_back,
        )  # fmt: skip
    assert {"CHARGE", "DEBT", "DEBT_PAID", "REFUND"} <= {entry[0] for entry in found}
    assert await pools.fetch("SELECT 1 FROM account WHERE frozen <> 0") == []
    assert (await verify_ledger()).violations == []


async def lose_workers(url: str) -> None:
    """One of the two workers is gone without a word, and then another."""
    for _ in range(2):
        await asyncio.sleep(1)
        worker_of_shop(url).send_signal(signal.SIGKILL)


def worker_of_shop(url: str) -> psutil.Process:
    """One of the processes that listen at the shop's address."""
    port = httpx.URL(url).port
    for process in psutil.Process().children(recursive=True):
        # One that was killed a moment ago is still in the list, and says nothing.
        with suppress(psutil.NoSuchProcess):
            if "spawn_main" in " ".join(process.cmdline()) and any(
                one.laddr.port == port for one in process.net_connections("tcp")
            ):
                return process
    raise AssertionError("no worker listens")
