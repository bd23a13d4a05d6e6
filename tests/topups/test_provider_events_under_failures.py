"""Events of many payments, refunds and disputes under failures: each has its effect once.

A fake Stripe sends them repeatedly, in random order and eight at a time, to a real server of two worker processes,
while database connections and workers are killed and credits are spent.
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
from app.db.database_url import connection_arguments
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
from tests.fake_stripe import KEY, SECRET, FakeStripe, sign_event
from tests.fake_stripe.objects import Json
from tests.soak import sized
from tests.topups.stripe_fixtures import begin_at_stripe, open_stripe, session_id, stripe_settings
from tests.topups.top_up_fixtures import list_entries, reload

pytestmark = pytest.mark.anyio

PAYMENTS = sized(100, soak=300)
OWNERS = PAYMENTS // 10
SPENDERS = OWNERS // 3
CONCURRENCY = 8
KILLED_SHARE = 0.1
SECOND_EVENT_SHARE = 0.3
MAX_TRIES = 40

T = TypeVar("T")

# Ends the connection of one handler that is inside a transaction.
KILL = """
    SELECT pg_terminate_backend(pid) FROM (
        SELECT pid FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'credits-posting' AND state <> 'idle'
        ORDER BY random() LIMIT 1) AS busy
"""


@pytest.fixture
def server_url(db: str, fake_stripe: FakeStripe) -> Iterator[str]:
    """The URL of a server with two workers and Stripe as provider."""
    with (
        tempfile.TemporaryDirectory(prefix="credits-server-") as directory,
        running_server(
            DATABASE_URL=db, DATA_DIR=directory, PORT="0", WORKERS="2", LEDGER_KEY=LEDGER_KEY.hex(),
            PAYMENT_PROVIDER="stripe", STRIPE_SECRET_KEY=KEY, STRIPE_WEBHOOK_SECRET=SECRET,
            STRIPE_BASE_URL=fake_stripe.url,
        ) as (url, _),
    ):  # fmt: skip
        yield url


class Bought(NamedTuple):
    """A purchase with its expected refunded and clawed-back credits."""

    top_up: TopUpRow
    refunded: int
    clawed_back: int

    @property
    def status(self) -> TopUpStatus:
        return TopUpStatus.REFUNDED if self.refunded + self.clawed_back == self.top_up.credits else TopUpStatus.PAID


class ConnectionCut(Exception):
    """The server closed the connection in the middle of a request."""


@dataclass
class KeepAliveConnection:
    """A keep-alive connection to the server, opened again after a failure."""

    server_url: httpx.URL
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def deliver(self, event: Json) -> tuple[int, Json]:
        """Status and body of the response. Raises: ConnectionCut."""
        body, headers = sign_event(event)
        head = {"Host": f"{self.server_url.host}:{self.server_url.port}", "Content-Length": str(len(body)), **headers}
        lines = ["POST /webhooks/stripe HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]
        try:
            if self.streams is None:
                self.streams = await asyncio.open_connection(self.server_url.host, self.server_url.port)
            reader, writer = self.streams
            writer.write("\r\n".join(lines).encode() + body)
            answered = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"content-length: (\d+)", answered, re.IGNORECASE)
            assert length is not None, answered
            answer = json.loads(await reader.readexactly(int(length[1])))
        except (OSError, asyncio.IncompleteReadError):
            await self.close()
            raise ConnectionCut from None
        return int(answered.split(" ", 2)[1]), answer

    async def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()
            with suppress(OSError):
                await self.streams[1].wait_closed()
            self.streams = None


async def begin_purchases(fake: FakeStripe) -> list[TopUpRow]:
    """Begin the purchases."""

    class DirectStripe(Stripe):
        """Opens checkouts without HTTP: hundreds of SDK calls are not the subject of this test."""

        async def open_checkout(self, checkout: CheckoutRequest) -> CheckoutPage:
            made = fake.create_session(dict(self._session(checkout)))
            return CheckoutPage(provider_ref=made["id"], payment_url=made["url"])

    provider = DirectStripe.open(stripe_settings(fake))
    owners = [unique_id("buyer") for _ in range(OWNERS)]
    purchases = [
        await begin_at_stripe(provider, owners[number % OWNERS], 500 + 100 * (number % 7)) for number in range(PAYMENTS)
    ]
    await provider.close()
    return [one.top_up for one in purchases]


def add_refund_and_dispute(fake: FakeStripe, top_up: TopUpRow, number: int) -> tuple[Bought, list[Json]]:
    """The expected end of the payment with this number, and the events that follow it.

    Every fifth payment has a refund (of a part, of all, one that fails, one that fails and is followed by another); two
    in fifteen have a dispute, of which every other one is lost.
    """
    intent_id = fake.get(session_id(top_up))["payment_intent"]
    events: list[Json] = []
    refunded = 0

    def refund(credits: int, status: Literal["succeeded", "failed"]) -> int:
        begun = fake.refund_from_dashboard(intent_id, credits, status="pending")
        events.extend([begun, *fake.decide_refund(begun["data"]["object"]["id"], status)])
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
        return Bought(top_up, refunded, 0), events
    ending = "lost" if number // 15 % 2 else "won"
    events += [fake.dispute(intent_id), fake.dispute(intent_id, "closed", ending)]
    return Bought(top_up, refunded, top_up.credits - refunded if ending == "lost" else 0), events


async def spend(owner_id: str, rate_cards: RateCardCache, chance: random.Random, is_sent: asyncio.Event) -> None:
    """Spend some of an owner's credits as they arrive."""
    task = await retry_connection(lambda: start_task(owner_id, task_id=f"task-of-{owner_id}"))
    for _ in range(8):
        items = chance.randint(500, 1_500)
        if not await is_credited(task.account_id, items, is_sent):
            return
        run = block_run_request(task, block="ItemBlock", measurements=Measurements(items=items))
        [outcome] = await retry_connection(partial(charging.charge_many, [(task.account_id, run)], rate_cards))
        assert isinstance(outcome, Charge | BillingError)
        await asyncio.sleep(chance.uniform(0, 1))


async def is_credited(account_id: int, credits: int, is_sent: asyncio.Event) -> bool:
    """Wait for credits, since a refused charge would stop the task. False: they never arrived."""
    while (await retry_connection(lambda: get_balance(account_id))).available < credits:
        if is_sent.is_set():
            return False
        await asyncio.sleep(0.05)
    return True


async def retry_connection(operation: Callable[[], Awaitable[T]]) -> T:
    """Retry after a lost connection: those of this process are killed too."""
    for _ in range(MAX_TRIES):
        try:
            return await operation()
        except Exception as error:
            if not failures.is_connection_failure(error):
                raise
            await asyncio.sleep(0.05)
    raise AssertionError("the database never answered")


async def retry_waiting_events(fake: FakeStripe) -> None:
    """Retry all events that wait for another one."""
    provider = open_stripe(fake)
    for _ in range(4):
        due = await pools.fetch(
            "UPDATE provider_event SET next_attempt_at = clock_timestamp()"
            " WHERE handled_at IS NULL AND parked_at IS NULL RETURNING 1"
        )
        if due:
            await inbox_retries.retry_due(provider, limit=len(due))
    await provider.close()


@dataclass
class Sender:
    """Sends events while some of their handlers are killed. `counts`: results of the deliveries."""

    server_url: httpx.URL
    killer: asyncpg.Connection
    chance: random.Random
    killing: asyncio.Lock = field(default_factory=asyncio.Lock)
    counts: "Counter[str]" = field(default_factory=Counter)
    is_done: asyncio.Event = field(default_factory=asyncio.Event)

    async def send_all(self, deliveries: list[Json]) -> None:
        """Send all events, CONCURRENCY at a time."""
        waiting = iter(deliveries)
        await asyncio.gather(*(self._send_in_turn(waiting) for _ in range(CONCURRENCY)))
        self.is_done.set()

    async def _send_in_turn(self, waiting: Iterator[Json]) -> None:
        """Send events one after another over one connection."""
        connection = KeepAliveConnection(self.server_url)
        for event in waiting:
            await self._deliver(connection, event)
        await connection.close()

    async def _deliver(self, connection: KeepAliveConnection, event: Json) -> None:
        """Send an event until it is acknowledged, as Stripe does."""
        kills = self.chance.random() < KILLED_SHARE
        for _ in range(MAX_TRIES):
            killed = asyncio.create_task(self._kill()) if kills else None
            try:
                status, answer = await connection.deliver(event)
            except ConnectionCut:
                self.counts["cut off"] += 1
            else:
                if status == 200:
                    self.counts[answer["outcome"]] += 1
                    return
                assert status == 503, answer
                self.counts["again"] += 1
            finally:
                if killed is not None:
                    await killed
            kills = False
            await asyncio.sleep(0.05)
        raise AssertionError(f"{event['id']} was never acknowledged")

    async def _kill(self) -> None:
        await asyncio.sleep(self.chance.uniform(0, 0.01))
        async with self.killing:
            self.counts["killed"] += len(await self.killer.fetch(KILL))


def pay_all(fake: FakeStripe, top_ups: list[TopUpRow], chance: random.Random) -> tuple[list[Bought], list[Json]]:
    """Pay all checkouts. Returns: the expected ends, and the deliveries in random order.

    Of each payment one of its three events is sent one to five times, and sometimes a second one; each event of a
    refund or dispute is sent one to three times.
    """
    bought: list[Bought] = []
    deliveries: list[Json] = []
    for number, top_up in enumerate(top_ups):
        event, other, _ = chance.sample(fake.pay_checkout(session_id(top_up)), 3)
        deliveries += [event] * chance.randint(1, 5) + [other] * (chance.random() < SECOND_EVENT_SHARE)
        one, events = add_refund_and_dispute(fake, top_up, number)
        bought.append(one)
        deliveries += [event for event in events for _ in range(chance.randint(1, 3))]
    chance.shuffle(deliveries)
    return bought, deliveries


async def test_payments_are_credited_once_each_whatever_is_killed(
    server_url: str, fake_stripe: FakeStripe, db: str
) -> None:
    chance = random.Random(11)  # noqa: S311  the same order in every run
    bought, deliveries = pay_all(fake_stripe, await begin_purchases(fake_stripe), chance)
    owners = sorted({one.top_up.actor.removeprefix("user:") for one in bought})[:SPENDERS]
    rate_cards = await publish_rate_cards()
    for owner in owners:
        await grant_credits(owner, 100)
    killer = await asyncpg.connect(**connection_arguments(db))
    sender = Sender(httpx.URL(server_url), killer, chance)
    await asyncio.gather(
        kill_workers(server_url, sender),
        sender.send_all(deliveries),
        *(spend(owner, rate_cards, chance, sender.is_done) for owner in owners),
    )
    await killer.close()
    print(f"{len(deliveries)} deliveries: {dict(sender.counts)}")
    assert sender.counts["killed"] >= PAYMENTS // 6, sender.counts
    assert sender.counts["cut off"] >= 1, sender.counts
    assert sender.counts["WAITING"] >= PAYMENTS // 30, sender.counts
    await retry_waiting_events(fake_stripe)
    await check_results(bought)


async def check_results(bought: list[Bought]) -> None:
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


async def kill_workers(url: str, sender: Sender) -> None:
    """Kill a worker after a quarter of the deliveries, and another after half of them."""
    for deliveries in (PAYMENTS, 2 * PAYMENTS):
        while sum(sender.counts.values()) < deliveries:  # noqa: ASYNC110  counts have no event
            await asyncio.sleep(0.01)
        find_worker(url).send_signal(signal.SIGKILL)


def find_worker(url: str) -> psutil.Process:
    """One of the processes that listen at the server's address."""
    port = httpx.URL(url).port
    for process in psutil.Process().children(recursive=True):
        # A process that has just been killed may still be in the list.
        with suppress(psutil.NoSuchProcess):
            if "spawn_main" in " ".join(process.cmdline()) and any(
                one.laddr.port == port for one in process.net_connections("tcp")
            ):
                return process
    raise AssertionError("no worker listens")
