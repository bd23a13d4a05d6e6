"""Change notifications are sent after the commit. Their failures affect no posting, and a sweep replaces them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import pytest

from app.cli.connection import open_database
from app.db import embedded_postgres, migrations, pools
from app.db.database_url import connection_arguments
from app.ledger import accounts, posting, queries
from app.ledger.posting import Posting
from app.live import change_notifier
from app.live.change_feed import ChangeFeed
from app.live.change_notifier import NOTIFIER, ChangeNotifier
from app.tasks import stop_and_resume
from tests.conftest import LEDGER_KEY
from tests.factories import grant_credits

pytestmark = pytest.mark.anyio

QUEUE_PAGES = 64
"""The smallest queue that PostgreSQL allows: 512 KiB."""


Received = asyncio.Queue[tuple[str, str]]


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[Received]:
    """The notifications (channel, payload) that arrive."""
    received = Received()
    async with connected(url) as connection:
        for channel in ("credits", "credits_owners", "credits_signals"):
            await connection.add_listener(channel, lambda *arguments: received.put_nowait(arguments[-2:]))
        yield received


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(**connection_arguments(url))
    try:
        yield connection
    finally:
        await connection.close()


async def next_notifications(received: Received, count: int) -> list[tuple[str, str]]:
    async with asyncio.timeout(10):
        return [await received.get() for _ in range(count)]


@pytest.fixture
async def small_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """The URL of a migrated PostgreSQL with a small queue of notifications, with open pools."""
    monkeypatch.setitem(embedded_postgres.SETTINGS, "max_notify_queue_pages", str(QUEUE_PAGES))
    with embedded_postgres.start(tmp_path / "postgres") as server:
        await pools.connect(server.url)
        try:
            await migrations.apply()
            accounts.clear_cache()
            stop_and_resume.configure_ledger(LEDGER_KEY)
            yield server.url
        finally:
            await pools.disconnect()


@asynccontextmanager
async def full_queue(url: str) -> AsyncIterator[None]:
    """Fill the queue: a connection that listens, inside a transaction, prevents that it is emptied."""
    async with connected(url) as blocking, connected(url) as filling:
        await blocking.execute("LISTEN other")
        await blocking.execute("BEGIN")
        with pytest.raises(asyncpg.ProgramLimitExceededError, match="too many notifications in the NOTIFY queue"):
            await _send_until_refused(filling)
        yield


async def _send_until_refused(connection: asyncpg.Connection) -> None:
    for _ in range(2 * QUEUE_PAGES):
        await connection.execute("SELECT pg_notify('other', repeat('x', 7900))")


async def test_with_a_full_queue_postings_commit_and_a_sweep_wakes_their_subscribers(
    small_queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    account_id = (await grant_credits("alice", 100)).balance.account_id
    await NOTIFIER.flush()
    feed = ChangeFeed(sweep_seconds=60, conflate_seconds=0.001)
    async with full_queue(small_queue):
        with feed.subscribe(account_id) as subscription, feed.subscribe("bob") as first_of_bob:
            await grant_credits("alice", 10)
            await grant_credits("bob", 1)
            await NOTIFIER.flush()
            await feed.sweep()
            async with asyncio.timeout(5):
                await subscription.wait()
                await first_of_bob.wait()
        [balance] = (await queries.get_balances([account_id])).values()
        assert (balance.posted, balance.version) == (110, 2)
        assert [record.getMessage()[:36] for record in caplog.records if "notifications" in record.message] == [
            "change notifications cannot be sent;"
        ]
    # PostgreSQL keeps refusing notifications after the cause has ended, so the notifier frees the queue.
    await grant_credits("alice", 10)
    await NOTIFIER.flush()
    async with listening(small_queue) as received:
        await grant_credits("alice", 10)
        await NOTIFIER.flush()
        assert await next_notifications(received, 1) == [("credits", f"{account_id}:4")]


async def test_a_command_sends_its_notifications_before_it_ends(db: str) -> None:
    async with listening(db) as received:
        async with open_database(db):
            account_id = (await grant_credits("alice", 100)).balance.account_id
        assert sorted(await next_notifications(received, 3)) == [
            ("credits", f"{account_id}:1"),
            ("credits_owners", "alice"),
            ("credits_signals", f"{account_id}:1:a"),
        ]


async def test_a_transaction_that_is_rolled_back_announces_nothing(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    account_id = (await grant_credits("alice", 100)).balance.account_id
    await NOTIFIER.flush()

    async def change_and_fail(posting: Posting) -> None:
        posting.publish_change(account_id)
        raise LookupError

    monkeypatch.setattr(pools, "fetch", None)
    with pytest.raises(LookupError):
        await posting.post([account_id], change_and_fail)
    await NOTIFIER.flush()


async def test_changes_during_a_send_are_sent_together_with_their_newest_versions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[tuple[list[str], list[str]]] = []
    may_end = asyncio.Event()

    async def fetch(_: str, channels: list[str], payloads: list[str]) -> None:
        sent.append((channels, payloads))
        await may_end.wait()

    monkeypatch.setattr(pools, "fetch", fetch)
    notifier = ChangeNotifier()
    notifier.announce_versions({1: 5})
    await asyncio.sleep(0.01)
    notifier.announce_versions({1: 6, 2: 1})
    notifier.announce_versions({1: 7})
    notifier.announce_signals([(1, 7, "a"), (1, 7, "t")])
    notifier.announce_owner("bob")
    may_end.set()
    await notifier.flush()
    assert sent == [
        (["credits"], ["1:5"]),
        (["credits", "credits_signals", "credits_owners"], ["1:7,2:1", "1:7:a,1:7:t", "bob"]),
    ]


async def test_a_send_that_hangs_is_abandoned_and_later_changes_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = asyncio.Queue[list[str]]()
    is_dead = True

    async def fetch(_: str, _channels: list[str], payloads: list[str]) -> None:
        sent.put_nowait(payloads)
        while is_dead:  # not even a cancellation ends it
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    monkeypatch.setattr(pools, "fetch", fetch)
    monkeypatch.setattr(change_notifier, "SEND_SECONDS", 0.05)
    notifier = ChangeNotifier()
    notifier.announce_versions({1: 5})
    async with asyncio.timeout(5):
        first = await sent.get()
        notifier.announce_versions({2: 1})
        assert (first, await sent.get()) == (["1:5"], ["2:1"])
    is_dead = False
    await notifier.flush()


async def test_payloads_are_shorter_than_postgresql_allows(db: str) -> None:
    async with listening(db) as received:
        NOTIFIER.announce_versions({10**12 + number: 10**15 for number in range(1_000)})
        payloads = [payload for _, payload in await next_notifications(received, 4)]
        assert (sum(len(payload.split(",")) for payload in payloads), received.empty()) == (1_000, True)
        assert max(map(len, payloads)) < 8_000
