"""The checker finds each thing that can be wrong with the books, and nothing where they are whole."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from app import audit as auditing
from app import database
from app.audit import audit
from app.ledger import accounts, posting, statements
from app.ledger.chain import sign
from app.pricing.catalogue import Catalogue
from app.tasks import lapses, reversing
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
        ("I1", "UPDATE entry SET draws = '[[2, \"500\"]]' WHERE kind = 'TOP_UP'"),
        ("I1", "UPDATE entry SET draws = '[[1, 500]]' WHERE kind = 'TOP_UP'"),
        ("I1", "DELETE FROM account WHERE owner_id = 'bob'"),
        ("I2", "UPDATE entry SET credits = credits - 1, balance_after = balance_after - 1 WHERE kind = 'TOP_UP'"),
        ("I2", "UPDATE entry SET reason = 'another' WHERE kind = 'REVERSAL'"),
        ("I2", "UPDATE entry SET mac = decode(repeat('11', 32), 'hex') WHERE kind = 'TOP_UP'"),
        ("I2", "DELETE FROM entry WHERE kind = 'REVERSAL'"),
        ("I2", "DELETE FROM entry WHERE kind = 'TOP_UP'"),
        ("I2", "UPDATE entry SET at = at - interval '1 hour' WHERE kind = 'TOP_UP'"),
        ("I2", "UPDATE entry SET draws = '{}' WHERE kind = 'TOP_UP'"),
        ("I2", "UPDATE entry SET draws = '[[1]]' WHERE kind = 'TOP_UP'"),
        ("I2", "UPDATE account SET last_mac = decode(repeat('11', 32), 'hex') WHERE owner_id = 'bob'"),
        ("I2", "UPDATE account SET version = version + 1, seq = seq + 1 WHERE owner_id = 'bob'"),
        ("I3", "UPDATE block_run SET cost = 9 WHERE block_run_id = 'b'"),
        ("I3", "DELETE FROM block_run WHERE block_run_id = 'b'"),
        ("I3", "UPDATE block_run SET reversed = 5 WHERE block_run_id = 'a'"),
        ("I3", "UPDATE operation SET result = '{\"seq\": 99}' WHERE key = 'r'"),
        ("I3", "UPDATE operation SET result = '{\"seq\": \"none\"}' WHERE key = 'r'"),
        ("I3", "UPDATE operation SET result = '{\"grant\": 99}' WHERE kind = 'grantCredits'"),
        ("I3", "UPDATE operation SET result = '{\"topUp\": \"none\"}' WHERE key = 't'"),
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


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"seq": 9}, "entry 9 follows entry 4"),
        ({"version": 4}, "entry 5 has version 4 after version 4"),
        ({"at": datetime(2026, 1, 1, tzinfo=UTC)}, "entry 5 is dated before the entry it follows"),
        ({"balance_after": 585}, "entry 5 says 585 after 84 and +500"),
        ({"draws": ((1, 500),)}, "grant 1 has 84 left, its draws 584"),
        ({"draws": ((2, 499),)}, "entry 5 moves 500, its draws do not"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_wrong_line_is_found_though_whoever_wrote_it_had_the_key(
    books: None, vandal: asyncpg.Connection, change: dict[str, Any], what: str
) -> None:
    before, last = reversed(await statements.entries(await accounts.ensure("alice"), before_seq=6, limit=2))
    line = replace(last.line, **change)
    mac = sign(line, after=before.mac, key=posting.signing_key())
    await vandal.execute(
        "UPDATE entry SET seq = $1, version = $2, at = $3, balance_after = $4, draws = $5, mac = $6 WHERE mac = $7",
        line.seq, line.version, line.at, line.balance_after, json.dumps(line.draws), mac, last.mac,
    )  # fmt: skip
    await vandal.execute("UPDATE account SET last_mac = $1 WHERE last_mac = $2", mac, last.mac)
    told = [one.what for one in (await audit()).breaks]
    assert what in told
    assert not any("MAC" in one for one in told)


async def test_small_chunks_see_the_same_and_leave_no_id_out(
    books: None, vandal: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await granted("carol", 5)
    monkeypatch.setattr(auditing, "_ACCOUNTS_AT_ONCE", 1)
    monkeypatch.setattr(auditing, "_ENTRIES_AT_ONCE", 2)
    heads: list[auditing.Head] = []
    seen: list[tuple[int, int]] = []
    report = await audit(progress=lambda done, total: seen.append((done, total)), head=heads.append)
    assert (report.breaks, report.accounts, report.entries) == ([], 3, 7)
    assert [head.seq for head in heads] == [1, 5, 1]
    assert seen[-1] == (3, 3)
    # Rows without an account stand before, between and behind those of accounts.
    ids = [head.account_id for head in heads]
    await vandal.execute("UPDATE credit_grant SET account_id = account_id + 1000")
    await vandal.execute("DELETE FROM account WHERE id = $1", ids[1])
    broken = await audit()
    assert sum("belongs to no account" in one.what for one in broken.breaks) == 5 + 4
    assert broken.entries == 7


async def test_of_very_many_breaks_the_first_are_told_and_the_rest_counted(
    books: None, vandal: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditing, "MOST_LISTED", 2)
    await vandal.execute("UPDATE entry SET mac = decode(repeat('11', 32), 'hex')")
    report = await audit()
    assert (len(report.breaks), report.intact) == (2, False)
    assert report.unlisted >= 4
    assert str(report.breaks[0]).startswith("I2 account ")


async def test_charges_while_it_runs_break_nothing(books: None, catalogue: Catalogue) -> None:
    task = await a_task("alice")

    async def write() -> None:
        for _ in range(30):
            await charge_many([(task.account_id, a_block_run(task, block="SearchTheWebBlock"))], catalogue)

    async def check() -> list[auditing.Break]:
        return [one for _ in range(4) for one in (await audit()).breaks]

    _, *found = await asyncio.gather(write(), check(), check())
    assert found == [[], []]
    assert (await audit()).entries == 36


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
    lapses.open_books(bytes(32))
    assert {one.invariant for one in (await audit()).breaks} == {"I2"}
