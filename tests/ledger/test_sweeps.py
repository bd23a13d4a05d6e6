"""Sweeps of the ledger: an account that fails or is locked stops no other."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from app.db import pools
from app.ledger.due_changes_sweep import DueChangesSweep
from app.ledger.expiry_notifications import ExpiryNotifications
from tests.factories import grant_credits

pytestmark = pytest.mark.anyio


async def expiring(owner_id: str, seconds: float) -> int:
    """An account with 10 credits that expire then."""
    given = await grant_credits(owner_id, 10, expires_at=datetime.now(UTC) + timedelta(seconds=seconds))
    return given.balance.account_id


async def posted(*account_ids: int) -> list[int]:
    rows = await pools.fetch("SELECT posted FROM account WHERE id = ANY($1::bigint[]) ORDER BY id", list(account_ids))
    return [row["posted"] for row in rows]


async def test_an_account_whose_changes_cannot_be_written_stops_no_other(
    db: str, caplog: pytest.LogCaptureFixture
) -> None:
    accounts = [await expiring(owner, 0.1) for owner in ("alice", "bob", "carol")]
    await pools.fetch("UPDATE account SET seq = 0 WHERE id = $1", accounts[1])  # so its next entry exists already
    await asyncio.sleep(0.15)
    sweep = DueChangesSweep()

    assert [await sweep.apply_all(), await sweep.apply_all()] == [2, 0]

    assert await posted(*accounts) == [0, 10, 0]
    assert [record.getMessage() for record in caplog.records] == [
        f"due changes of account {accounts[1]} failed; they are tried again in 30 s"
    ]
    await pools.fetch("UPDATE account SET seq = 1 WHERE id = $1", accounts[1])
    assert (await DueChangesSweep().apply_all(), await posted(*accounts)) == (1, [0, 0, 0])


async def test_accounts_set_aside_do_not_fill_the_limit_of_a_sweep(db: str) -> None:
    accounts = [await expiring(owner, 0.1) for owner in ("alice", "bob", "carol")]
    await pools.fetch("UPDATE account SET seq = 0 WHERE id = ANY($1::bigint[])", accounts[:2])
    await asyncio.sleep(0.15)
    sweep = DueChangesSweep()

    assert [await sweep.apply_all(limit=2), await sweep.apply_all(limit=2)] == [0, 1]
    assert await posted(*accounts) == [10, 10, 0]


async def test_an_account_that_is_locked_does_not_delay_others(db: str) -> None:
    accounts = [await expiring(owner, 0.1) for owner in ("alice", "bob")]
    await asyncio.sleep(0.15)
    async with pools.transaction() as connection:
        await connection.execute_query("SELECT FROM account WHERE id = $1 FOR UPDATE", [accounts[0]])
        async with asyncio.timeout(2):
            assert await DueChangesSweep().apply_all() == 1
    assert await posted(*accounts) == [10, 0]
    assert await DueChangesSweep().apply_all() == 1


async def test_an_account_that_cannot_be_notified_stops_no_other(db: str, caplog: pytest.LogCaptureFixture) -> None:
    accounts = [await expiring(owner, 3_600) for owner in ("alice", "bob", "carol")]
    await pools.fetch(  # so that the number of its next notification exists already
        "INSERT INTO notification (account_id, number, kind, agent_id, subject, message, at)"
        " VALUES ($1, 1, 'EXPIRING', '', 'another', 'soon', now())",
        accounts[1],
    )
    notifications = ExpiryNotifications((7, 1))

    assert [await notifications.notify(), await notifications.notify()] == [2, 0]

    found = await pools.fetch("SELECT account_id FROM notification WHERE subject = 'grant 1, 1 days'")
    assert sorted(row["account_id"] for row in found) == [accounts[0], accounts[2]]
    assert [record.getMessage() for record in caplog.records] == [
        f"expiry notifications of account {accounts[1]} failed; they are tried again in 30 s"
    ]
