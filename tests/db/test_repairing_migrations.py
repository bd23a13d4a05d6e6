"""Migrations that change existing rows: what they do to rows of earlier versions."""

import importlib
from datetime import UTC, datetime

import asyncpg
import pytest

from app.auth.models import ServiceKey
from app.db import pools
from app.ledger import owner_scope, queries
from app.topups.provider import DisputeStatus
from app.verify.verifier import verify_ledger
from tests.factories import get_balance, grant_credits, publish_rate_cards
from tests.topups.refund_fixtures import build_dispute, create_paid_top_up, deliver, spend_credits

pytestmark = pytest.mark.anyio


async def execute(db: str, sql: str) -> None:
    connection = await asyncpg.connect(db)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


def sql_of(migration: str, name: str) -> str:
    found: str = getattr(importlib.import_module(f"migrations.{migration}"), name)
    return found


async def test_an_account_with_an_infinite_expiry_is_usable_again(db: str) -> None:
    await grant_credits("alice", 100, expires_at=datetime(9998, 1, 1, tzinfo=UTC))
    account_id = await owner_scope.find_account_id("alice", owner_ids=None)
    assert account_id is not None
    await execute(
        db,
        """
        UPDATE credit_grant SET expires_at = 'infinity', starts_at = '-infinity';
        UPDATE account SET next_change_at = 'infinity';
        INSERT INTO service_key (id, name, secret_hash, scopes, created_at, expires_at)
            VALUES ('k', 'k', '', '["read"]', now(), 'infinity');
        """,
    )
    with pytest.raises(TypeError):
        await grant_credits("alice", 1)
    await execute(db, sql_of("0010_finite_instants", "REPAIR"))
    await grant_credits("alice", 1)
    assert (await get_balance(account_id)).posted == 101
    grants = await queries.list_grants(account_id, before_number=10, limit=10)
    assert [(grant.starts_at, grant.expires_at) for grant in grants] == [(None, None)] * 2
    assert (await verify_ledger()).violations == []
    assert (await ServiceKey.get(id="k")).expires_at is None


async def test_disputes_of_earlier_versions_get_their_frozen_credits_and_their_debt(db: str) -> None:
    rate_cards = await publish_rate_cards()
    lost = await create_paid_top_up("alice", 500)
    await spend_credits("alice", rate_cards, 200)
    await deliver(build_dispute(lost, DisputeStatus.LOST))
    opened = await create_paid_top_up("bob", 500)
    await deliver(build_dispute(opened, DisputeStatus.OPEN))
    figures = "SELECT status, credits, frozen_credits, debt_credits FROM dispute ORDER BY status"
    expected = [("LOST", 500, 0, 200), ("OPEN", 500, 500, 0)]
    assert [tuple(row) for row in await pools.fetch(figures)] == expected
    await execute(db, "UPDATE dispute SET frozen_credits = 0, debt_credits = 0")
    update, _, _ = sql_of("0005_dispute_figures", "FIGURES").partition("ALTER TABLE")
    await execute(db, update)
    assert [tuple(row) for row in await pools.fetch(figures)] == expected
    assert (await verify_ledger()).violations == []
