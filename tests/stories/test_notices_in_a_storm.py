"""300 payments by Stripe, told of again and again, in any order and eight at once, while handlers are killed: each is
credited once. The real server as two worker processes; the SDK against the stand-in.
"""

import asyncio
import random
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import asyncpg
import httpx
import psutil
import pytest

from app import database
from app.audit import audit
from app.tasks import lapses
from app.topups.provider import Checkout, CheckoutPage
from app.topups.rules import Status, TopUpState
from app.topups.stripe import Stripe
from tests.commands import serving
from tests.conftest import LEDGER_KEY
from tests.factories import unique
from tests.stripe_stand_in import KEY, SECRET, Books, serving_stripe, signed
from tests.stripe_stand_in.objects import Json
from tests.topups.at_stripe import begun_at, session_of, settings_for
from tests.topups.buying import entries, now

pytestmark = pytest.mark.anyio

PAYMENTS = 300
OWNERS = 30
AT_ONCE = 8
KILLED_SHARE = 0.1
OTHERS_SHARE = 0.3
MOST_TRIES = 40

# The handlers that are in the middle of a transaction: their connections break under them.
KILL = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'credits-posting' AND state <> 'idle'
"""


@pytest.fixture
def stripe_books() -> Iterator[Books]:
    with serving_stripe() as books:
        yield books


@pytest.fixture
def shop(database_url: str, stripe_books: Books) -> Iterator[str]:
    """The address of a server of two workers that sells by Stripe."""
    with (
        tempfile.TemporaryDirectory(prefix="credits-shop-") as directory,
        serving(
            DATABASE_URL=database_url, DATA_DIR=directory, PORT="0", WORKERS="2", LEDGER_KEY=LEDGER_KEY.hex(),
            PAYMENT_PROVIDER="stripe", STRIPE_SECRET_KEY=KEY, STRIPE_WEBHOOK_SECRET=SECRET,
            STRIPE_BASE_URL=stripe_books.url,
        ) as (url, _),
    ):  # fmt: skip
        yield url


@pytest.fixture
async def books_open(database_url: str) -> AsyncIterator[None]:
    """The pools of this process, to begin purchases and to look at what came of them."""
    lapses.open_books(LEDGER_KEY)
    await database.connect(database_url)
    yield
    await database.disconnect()


async def begun_and_paid(books: Books) -> tuple[list[TopUpState], list[Json]]:
    """The purchases, and all that Stripe tells of them: three events each."""

    class AtTheCounter(Stripe):
        """Opens its checkouts without the wire between: 300 calls of the SDK are not what is looked at here."""

        async def begin(self, checkout: Checkout) -> CheckoutPage:
            made = books.create_session(dict(self._session(checkout)))
            return CheckoutPage(provider_ref=made["id"], payment_url=made["url"])

    provider = AtTheCounter.open(settings_for(books))
    owners = [unique("storm") for _ in range(OWNERS)]
    top_ups = [
        (await begun_at(provider, owners[number % OWNERS], 500 + 100 * (number % 7))).top_up
        for number in range(PAYMENTS)
    ]
    await provider.close()
    told = [event for top_up in top_ups for event in books.pay(session_of(top_up))]
    # Refunds and disputes of these payments belong here, once their notices are settled.
    return top_ups, told


async def test_three_hundred_payments_are_credited_once_each_whatever_is_killed(
    shop: str, stripe_books: Books, books_open: None, database_url: str
) -> None:
    chance = random.Random(11)  # noqa: S311  the same storm in every run
    top_ups, told = await begun_and_paid(stripe_books)
    # Of each payment one of its three events, one to five times; of some another one too.
    deliveries: list[Json] = []
    for first in range(0, len(told), 3):
        event, other, _ = chance.sample(told[first : first + 3], 3)
        deliveries += [event] * chance.randint(1, 5) + [other] * (chance.random() < OTHERS_SHARE)
    chance.shuffle(deliveries)
    killer = await asyncpg.connect(**database.credentials(database_url))
    killing = asyncio.Lock()
    places = asyncio.Semaphore(AT_ONCE)
    said: Counter[str] = Counter()

    async def kill() -> None:
        async with killing:
            said["killed"] += len(await killer.fetch(KILL))

    async def deliver(client: httpx.AsyncClient, event: Json, *, killed: bool) -> None:
        """As Stripe does: until it is acknowledged."""
        async with places:
            for _ in range(MOST_TRIES):
                body, headers = signed(event)
                sending = asyncio.create_task(client.post("/webhooks/stripe", content=body, headers=headers))
                if killed:
                    await asyncio.sleep(chance.uniform(0, 0.01))
                    await kill()
                try:
                    answer = await sending
                except httpx.TransportError:
                    said["cut off"] += 1
                else:
                    if answer.status_code == 200:
                        said[answer.json()["outcome"]] += 1
                        return
                    assert answer.status_code == 503, answer.text
                    said["again"] += 1
                killed = False
                await asyncio.sleep(0.05)
            raise AssertionError(f"{event['id']} was never acknowledged")

    async with httpx.AsyncClient(base_url=shop, timeout=20) as client:
        losing = asyncio.create_task(lose_workers(shop))
        await asyncio.gather(*(deliver(client, event, killed=chance.random() < KILLED_SHARE) for event in deliveries))
        await losing
    await killer.close()
    print(f"{len(deliveries)} deliveries: {dict(said)}")

    assert said["killed"] >= 5, said
    assert said["cut off"] >= 1, said
    accounts = {top_up.account_id for top_up in top_ups}
    found = [entry for account_id in accounts for entry in await entries(account_id)]
    assert sorted(found) == sorted(("TOP_UP", one.credits, one.id, one.actor) for one in top_ups)
    assert {(await now(top_up)).status for top_up in top_ups} == {Status.PAID}
    waiting = "SELECT event_id FROM provider_notice WHERE provider = 'stripe' AND handled_at IS NULL"
    assert await database.fetch(waiting) == []
    for owner in {top_up.actor.removeprefix("user:") for top_up in top_ups}:
        assert (await audit(owner)).breaks == []


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
