"""The verifier finds violations in refunds, disputes and debt, and none in an intact ledger."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from app.db import pools
from app.db.database_url import connection_arguments
from app.ledger import accounts
from app.pricing.rate_card_cache import RateCardCache
from app.topups.provider import DisputeStatus
from app.verify.verifier import verify_ledger
from tests.factories import charge_block_run, grant_credits, start_task
from tests.topups.refund_fixtures import build_dispute, create_paid_top_up, deliver, refund_top_up

pytestmark = pytest.mark.anyio


@pytest.fixture
async def payments(db: str, rate_cards: RateCardCache) -> None:
    """Bob: a top-up of 1,000 with a bonus of 100, partly refunded, partly disputed. Alice: a top-up of 500 whose
    dispute was lost; 400 of it were spent and are debt.
    """
    lost = await create_paid_top_up(credits=500)
    task = await start_task("alice")
    for _ in range(40):
        await charge_block_run(task, rate_cards)
    await deliver(build_dispute(lost, DisputeStatus.LOST))
    top_up = await create_paid_top_up("bob", credits=1_000, bonus=100)
    await refund_top_up(top_up, 300, key="r")
    await deliver(build_dispute(top_up, DisputeStatus.OPEN, amount_minor=200))


@pytest.fixture
async def attacker(payments: None, db: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection with all privileges, without triggers and without the check constraints of these tables."""
    connection = await asyncpg.connect(**connection_arguments(db))
    await connection.execute("SET session_replication_role = replica")
    checks = await connection.fetch(
        "SELECT conrelid::regclass::text AS name, conname, pg_get_constraintdef(oid) AS definition FROM pg_constraint"
        " WHERE contype = 'c' AND conrelid IN ('top_up'::regclass, 'top_up_refund'::regclass, 'dispute'::regclass)"
    )
    for name, check, _ in checks:
        await connection.execute(f"ALTER TABLE {name} DROP CONSTRAINT {check}")
    yield connection
    for name, _, _ in checks:
        await connection.execute(f"DELETE FROM {name}")
    for name, check, definition in checks:
        await connection.execute(f"ALTER TABLE {name} ADD CONSTRAINT {check} {definition}")
    await connection.close()


async def test_a_ledger_with_refunds_disputes_and_debt_is_intact(payments: None) -> None:
    report = await verify_ledger()
    assert (report.violations, report.accounts) == ([], 2)
    found = await pools.fetch("SELECT owner_id, posted, frozen, owed FROM account ORDER BY owner_id")
    assert [tuple(record) for record in found] == [("alice", 0, 0, 400), ("bob", 770, 200, 0)]


@pytest.mark.parametrize(
    ("sql", "messages"),
    [
        ("UPDATE top_up SET refunded_credits = 301 WHERE credits = 1000",
         ["has 301 refunded and 0 clawed back, its entries 300", "has 301 refunded for 300, its refunds 300 for 300"]),
        ("UPDATE top_up SET refunded_minor = 299 WHERE credits = 1000",
         ["has 300 refunded for 299, its refunds 300 for 300"]),
        ("UPDATE top_up SET clawed_back_credits = 1 WHERE credits = 1000",
         ["has 300 refunded and 1 clawed back, its entries 300", "has 1 clawed back, its lost disputes 0"]),
        ("UPDATE top_up SET clawed_back_credits = 400 WHERE credits = 500",
         ["has 0 refunded and 400 clawed back, its entries 500", "has 400 clawed back, its lost disputes 500",
          "is REFUNDED with 400 of 500 given back"]),
        ("UPDATE top_up SET bonus_credits = 101 WHERE credits = 1000",
         ["has a bonus of 101, 30 of it taken back, its entries 70"]),
        ("UPDATE top_up SET status = 'PAID' WHERE credits = 1000", ["is PAID with 300 of 1000 given back"]),
        ("UPDATE top_up SET status = 'REFUNDED' WHERE credits = 1000", ["is REFUNDED with 300 of 1000 given back"]),
        ("UPDATE top_up SET status = 'PAID' WHERE credits = 500", ["is PAID with 500 of 500 given back"]),
        ("UPDATE top_up_refund SET credits = 299", ["has 300 refunded for 300, its refunds 299 for 300"]),
        ("UPDATE top_up_refund SET amount_minor = 299", ["has 300 refunded for 300, its refunds 300 for 299"]),
        ("UPDATE top_up_refund SET bonus_credits = 29", ["has a bonus of 100, 29 of it taken back, its entries 70"]),
        ("UPDATE top_up_refund SET status = 'FAILED'",
         ["has 300 refunded for 300, its refunds 0 for 0", "has a bonus of 100, 0 of it taken back, its entries 70"]),
        ("UPDATE dispute SET credits = 499 WHERE status = 'LOST'", ["has 500 clawed back, its lost disputes 499"]),
        ("UPDATE dispute SET status = 'WON' WHERE status = 'LOST'", ["has 500 clawed back, its lost disputes 0"]),
        ("DELETE FROM entry WHERE kind = 'DEBT'", ["has 0 refunded and 500 clawed back, its entries 100"]),
        ("DELETE FROM entry WHERE kind = 'REFUND' AND credits = -300",
         ["has 300 refunded and 0 clawed back, its entries 0"]),
        ("DELETE FROM entry WHERE kind = 'ADJUSTMENT'", ["has a bonus of 100, 30 of it taken back, its entries 100"]),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)  # fmt: skip
async def test_refunds_that_do_not_add_up_are_reported(
    attacker: asyncpg.Connection, sql: str, messages: list[str]
) -> None:
    assert (await attacker.execute(sql)).endswith(" 1")
    found = [one.message.split(" ", 2)[2] for one in (await verify_ledger()).violations if one.invariant == "I7"]
    assert sorted(found) == sorted(messages)


@pytest.mark.parametrize(
    ("invariant", "sql", "message"),
    [
        ("I4", "UPDATE account SET frozen = 199 WHERE owner_id = 'bob'", "frozen 199, open disputes 200"),
        ("I4", "UPDATE account SET frozen = 1 WHERE owner_id = 'alice'", "frozen 1, open disputes 0"),
        ("I4", "UPDATE dispute SET frozen_credits = 199 WHERE status = 'OPEN'", "frozen 200, open disputes 199"),
        ("I4", "DELETE FROM dispute WHERE status = 'OPEN'", "frozen 200, open disputes 0"),
        ("I8", "UPDATE account SET owed = 401 WHERE owner_id = 'alice'", "owed 401, entries 400"),
        ("I8", "UPDATE account SET owed = 7 WHERE owner_id = 'bob'",
         "owes 7 with 570 available and 700 in grants that pay debt"),
        ("I3", "DELETE FROM top_up_refund", "which does not exist"),
        ("I7", "UPDATE top_up_refund SET top_up_id = 'gone'", "belongs to top-up gone, which does not exist"),
        ("I7", "UPDATE dispute SET top_up_id = 'gone' WHERE status = 'OPEN'", "top-up gone, which does not exist"),
    ],
    ids=lambda value: value[:60],
)  # fmt: skip
async def test_each_violation_is_found(attacker: asyncpg.Connection, invariant: str, sql: str, message: str) -> None:
    assert (await attacker.execute(sql)).endswith(" 1")
    assert any(message in one.message for one in (await verify_ledger()).violations if one.invariant == invariant)


async def test_an_unpaid_top_up_with_entries_is_reported(attacker: asyncpg.Connection) -> None:
    await attacker.execute("UPDATE top_up SET status = 'PENDING' WHERE credits = 500")
    found = [one.message.split(" ", 2)[2] for one in (await verify_ledger()).violations if one.invariant == "I7"]
    assert "over 500 is PENDING, its entries 500" in found


async def test_debt_beside_credits_that_do_not_pay_debt_is_no_violation(payments: None) -> None:
    await grant_credits("alice", 50)
    assert (await verify_ledger()).violations == []
    alice = await accounts.find_account_id("alice")
    [figures] = await pools.fetch("SELECT posted, owed FROM account WHERE id = $1", alice)
    assert tuple(figures) == (50, 400)
