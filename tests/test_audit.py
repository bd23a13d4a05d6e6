"""The checker finds each thing that can be wrong with the books, and nothing where they are whole."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from app import database
from app.audit import audit
from app.ledger import posting
from app.pricing.catalogue import Catalogue
from app.tasks import reversing
from app.tasks.charging import charge_many
from app.topups import purchase
from app.topups.provider import ProviderEvent
from app.topups.rules import Payment, PaymentState, Terms
from app.topups.sandbox import Sandbox
from tests.factories import a_block_run, a_task, granted

pytestmark = pytest.mark.anyio

TERMS = Terms(minimum_credits=500, maximum_credits=10_000, multiple_credits=100, currency="USD", minor_per_credit=1)


@pytest.fixture
async def books(db: str, catalogue: Catalogue) -> None:
    """Books with something of everything: grants, charges, a free run, a reversal, a top-up, two accounts."""
    await granted("bob", 5)
    await granted("alice", 100)
    task = await a_task("alice")
    runs = [a_block_run(task, block_run_id=name) for name in ("a", "b")] + [a_block_run(task, block="NoteBlock")]
    await charge_many([(task.account_id, run) for run in runs], catalogue)
    await reversing.reverse_charge(task.task_id, "a", credits=4, reason="failed", key="r", actor="operator:o")
    provider = Sandbox("http://testserver", b"a secret of the sandbox, long enough")
    request = purchase.TopUpRequest(owner_id="alice", credits=500, key="t", actor="user:alice")
    top_up = (await purchase.begin(request, provider, TERMS)).top_up
    assert top_up.provider_ref is not None
    payment = Payment(
        provider=top_up.provider,
        reference=top_up.reference,
        provider_ref=top_up.provider_ref,
        amount_minor=500,
        currency="USD",
        state=PaymentState.PAID,
    )
    await purchase.settle(ProviderEvent(event_id="sandbox:evt_1", payment=payment, body={}))


@pytest.fixture
async def vandal(db: str) -> AsyncIterator[asyncpg.Connection]:
    """Somebody with all rights to the tables, whom no trigger stops: but without the key."""
    connection = await asyncpg.connect(**database.credentials(db))
    await connection.execute("SET session_replication_role = replica")
    yield connection
    await connection.close()


async def test_whole_books_have_no_break(books: None) -> None:
    report = await audit()
    assert (report.breaks, report.accounts, report.entries) == ([], 2, 6)
    assert (await audit("alice")).entries == 5
    assert (await audit("bob")).accounts == 1


@pytest.mark.parametrize(
    ("invariant", "sql"),
    [
        ("I1", "UPDATE account SET posted = posted + 1 WHERE owner_id = 'alice'"),
        ("I1", "UPDATE credit_grant SET remaining = remaining - 1 WHERE credits = 500"),
        ("I1", "DELETE FROM credit_grant WHERE credits = 5"),
        ("I2", "UPDATE entry SET credits = credits - 1, balance_after = balance_after - 1 WHERE kind = 'TOP_UP'"),
        ("I2", "UPDATE entry SET reason = 'another' WHERE kind = 'REVERSAL'"),
        ("I2", "UPDATE entry SET mac = decode(repeat('11', 32), 'hex') WHERE kind = 'TOP_UP'"),
        ("I2", "DELETE FROM entry WHERE kind = 'REVERSAL'"),
        ("I2", "DELETE FROM entry WHERE kind = 'TOP_UP'"),
        ("I2", "UPDATE account SET version = version + 1, seq = seq + 1 WHERE owner_id = 'bob'"),
        ("I3", "UPDATE block_run SET cost = 9 WHERE block_run_id = 'b'"),
        ("I3", "DELETE FROM block_run WHERE block_run_id = 'b'"),
        ("I3", "UPDATE block_run SET reversed = 5 WHERE block_run_id = 'a'"),
        ("I3", "UPDATE operation SET result = '{\"seq\": 99}' WHERE key = 'r'"),
        ("I4", "UPDATE account SET held = 1 WHERE owner_id = 'alice'"),
        ("I5", "UPDATE task SET charged = charged + 1"),
        ("I5", "UPDATE task SET steps = steps + 1"),
        ("I5", "UPDATE task SET reversed = 0"),
        ("I7", "UPDATE top_up SET credits = 600"),
        ("I7", "UPDATE top_up SET status = 'PENDING'"),
        ("I8", "UPDATE account SET owed = 1 WHERE owner_id = 'bob'"),
    ],
    ids=lambda value: value[:60],
)
async def test_each_break_is_found(books: None, vandal: asyncpg.Connection, invariant: str, sql: str) -> None:
    await vandal.execute(sql)
    found = {one.invariant for one in (await audit()).breaks}
    assert any(name.startswith(invariant) for name in found), found


async def test_availability_below_zero_is_found(books: None, vandal: asyncpg.Connection) -> None:
    await vandal.execute("ALTER TABLE account DROP CONSTRAINT account_figures")
    try:
        await vandal.execute("UPDATE account SET frozen = posted + 1 WHERE owner_id = 'bob'")
        assert any(one.invariant.startswith("I6") for one in (await audit()).breaks)
    finally:
        await vandal.execute("UPDATE account SET frozen = 0 WHERE owner_id = 'bob'")
        await vandal.execute(
            "ALTER TABLE account ADD CONSTRAINT account_figures CHECK ("
            "posted BETWEEN 0 AND 9007199254740991 AND held >= 0 AND frozen >= 0"
            " AND owed BETWEEN 0 AND 9007199254740991 AND held + frozen <= posted AND seq >= 0 AND version >= seq)"
        )


async def test_another_key_does_not_open_the_chain(books: None) -> None:
    posting.use_key(bytes(32))
    assert {one.invariant for one in (await audit()).breaks} == {"I2"}
