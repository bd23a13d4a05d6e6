"""`python -m app erase`: the owner id is nowhere afterwards, and amounts and the hash chain are intact."""

import re
import secrets
import subprocess
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from app.db import pools, roles
from app.erasure import erase_owner
from app.erasure.columns import ENTRY_COLUMNS, JSON_COLUMNS, TEXT_COLUMNS
from app.ledger import accounts
from app.outgoing_webhooks import endpoints
from app.outgoing_webhooks.secret_box import SecretBox
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import holds
from app.tasks.lifecycle import cancel_task
from app.topups import inbox
from app.topups.settlement import settle
from tests.command_line import run_beside, url_for_role
from tests.conftest import LEDGER_KEY
from tests.factories import charge_block_run, grant_credits, hold_request, publish_rate_cards, start_task
from tests.topups.refund_fixtures import refund_top_up
from tests.topups.top_up_fixtures import create_top_up, find_page, payment_event

pytestmark = pytest.mark.anyio

REASON = ("--reason", "request 17")

OWNER = "auth0|alice.o'neil@example.com"
"""It contains what has a meaning in regular expressions and in JSON."""

WITHOUT_OWNER_IDS = {
    "audit_record.action", "audit_record.key_id", "audit_record.scope", "auto_top_up.blocked_reason",
    "auto_top_up.consent_version", "block_run.block", "block_run.model", "block_run.outcome", "credit_grant.source",
    "credit_grant.top_up_id", "dispute.dispute_ref", "dispute.status", "dispute.top_up_id", "entry.draws",
    "entry.key_id", "entry.kind", "entry.top_up_id", "hold.claims", "hold.status", "notification.kind",
    "notification.subject", "operation.kind", "payment_customer.card_label", "payment_customer.card_ref",
    "payment_customer.customer_ref", "payment_customer.provider", "provider_payment.payment_ref",
    "provider_payment.top_up_id", "skipped_start.reason", "task.status", "task.stop_reason", "task.trigger",
    "top_up.currency", "top_up.decline_reason", "top_up.id", "top_up.payment_ref", "top_up.provider",
    "top_up.provider_ref", "top_up.status", "top_up_refund.id", "top_up_refund.refund_ref", "top_up_refund.status",
    "top_up_refund.top_up_id", "webhook_delivery.endpoint_id", "webhook_delivery.event_id",
    "webhook_delivery.event_type",
}  # fmt: skip
"""Columns with our own words and ids, ids of the provider, and names of blocks and models."""


async def run(db: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return await run_beside(*arguments, DATABASE_URL=db, LEDGER_KEY=LEDGER_KEY.hex())


async def fill_every_column(owner_id: str) -> None:
    """Write the owner id into every column that can contain it."""
    await endpoints.create_endpoint("https://hooks.example.com/", box=SecretBox([LEDGER_KEY]), allow_private=False)
    rate_cards: RateCardCache = await publish_rate_cards()
    await grant_credits(owner_id, 100, reason=f"asked by {owner_id}", key=f"welcome-{owner_id}")
    task = await start_task(owner_id, task_id=f"{owner_id}/task", agent_id=f"agent of {owner_id}", budget=50)
    child = await start_task(owner_id, task_id=f"{owner_id}/child", agent_id="other", parent_task_id=task.task_id)
    await charge_block_run(task, rate_cards, block_run_id=f"{owner_id}/run", request_id=f"for-{owner_id}")
    await charge_block_run(child, rate_cards)
    hold = hold_request(task, 5, block_run_id=f"{owner_id}/held")
    await holds.place_hold(hold, rate_cards)
    await holds.void_hold(hold.task_id, hold.block_run_id)
    await cancel_task(child.task_id)
    await cancel_task(task.task_id)
    top_up = await create_top_up(owner_id, return_url=f"https://app.example.com/{owner_id}")
    event = await payment_event(top_up, payment_ref=(await find_page(top_up)).provider_ref)
    session = {"client_reference_id": top_up.reference, "customer_details": {"email": owner_id}}
    event = replace(event, body={"data": {"object": session}})
    await inbox.store_event(event)
    await settle(event)
    await refund_top_up(top_up, 100, reason=f"{owner_id} wrote", actor="operator:test")
    await pools.fetch(
        "WITH made AS (INSERT INTO payment_customer VALUES ($1, 'sandbox', 'cus_1', 'card_1', 'test card'))"
        " UPDATE notification SET message = message || $2 RETURNING 1",
        task.account_id,
        f" for {owner_id}",
    )


async def places_of(text: str) -> list[str]:
    """The columns of all tables that contain a text."""
    columns = await pools.fetch(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
        " AND data_type IN ('text', 'character varying', 'jsonb')"
    )
    found = []
    for table, column in columns:
        if await pools.fetch(f"SELECT 1 FROM {table} WHERE position($1 IN {column}::text) > 0 LIMIT 1", text):
            found.append(f"{table}.{column}")
    return sorted(found)


async def test_an_erased_owner_id_is_nowhere_and_the_ledger_is_intact(db: str, tmp_path: Path) -> None:
    await fill_every_column(OWNER)
    await grant_credits("bob", 5, reason=f"found by {OWNER}")
    before = await pools.fetch("SELECT seq, kind, credits, balance_after FROM entry ORDER BY account_id, seq")
    heads = tmp_path / "heads"
    await run(db, "verify", "--heads", str(heads))
    written = await places_of(OWNER)

    erased = await run(db, "erase", OWNER, *REASON, "--heads", str(heads))

    assert erased.stderr == ""
    said, customer = erased.stdout.splitlines()
    pseudonym = said.rpartition(" ")[2]
    assert said == f"{OWNER} is now {pseudonym}"
    assert customer == "delete this customer at the payment provider: sandbox cus_1"
    assert written == [
        "account.owner_id", "block_run.block_run_id", "block_run.request_id", "block_run.task_id",
        "credit_grant.actor", "credit_grant.reason", "entry.actor", "entry.block_run_id", "entry.reason",
        "entry.request_id", "entry.task_id", "hold.block_run_id", "hold.task_id", "notification.message",
        "operation.key", "owner.owner_id", "provider_event.body", "sandbox_payment.return_url", "task.agent_id",
        "task.parent_task_id", "task.task_id", "task_account.task_id", "top_up.actor",
        "top_up.return_url", "top_up_refund.reason", "webhook_delivery.payload",
    ]  # fmt: skip
    assert await places_of(OWNER) == ["credit_grant.reason", "entry.reason"]  # of Bob's account
    assert await places_of("cus_1") == []
    assert await pools.fetch("SELECT seq, kind, credits, balance_after FROM entry ORDER BY account_id, seq") == before
    verified = await run(db, "verify", "--heads", str(heads))
    assert (verified.returncode, verified.stdout.splitlines()[-2].rpartition(": ")[2]) == (0, "the ledger is intact")
    [record] = await pools.fetch("SELECT subject, actor, reason FROM audit_record WHERE action = 'eraseOwner'")
    assert tuple(record) == (f"owner {pseudonym}", "operator:command-line", "request 17")


async def test_a_later_account_of_an_erased_person_is_new_and_empty(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await grant_credits("alice", 100)
    old = await accounts.find_account_id("alice")
    await run(db, "erase", "alice", *REASON)
    monkeypatch.setattr(accounts, "_cached_until", 0.0)  # as a minute later

    again = await run(db, "erase", "alice", *REASON)
    granted = await grant_credits("alice", 5)

    assert (again.returncode, again.stdout) == (0, "alice has no account: there is nothing to erase\n")
    assert granted.balance.available == 5
    assert await accounts.find_account_id("alice") != old


async def test_an_account_with_unfinished_work_is_not_erased(db: str) -> None:
    rate_cards = await publish_rate_cards()
    await grant_credits("alice", 100)
    task = await start_task("alice")
    await holds.place_hold(hold_request(task, 5), rate_cards)
    await create_top_up("alice")
    before = await pools.fetch("SELECT * FROM account")

    refused = await run(db, "erase", "alice", *REASON)

    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        "Error: OWNER has 1 running task, 1 open hold, 1 pending top-up: finish, cancel or refund them first.\n"
    )
    assert await pools.fetch("SELECT * FROM account") == before


async def test_entries_that_were_changed_are_not_signed_again(db: str) -> None:
    await grant_credits("alice", 100, reason="asked by alice")
    connection = await asyncpg.connect(db)
    await connection.execute("SET session_replication_role = replica; UPDATE entry SET actor = 'operator:mallory'")
    await connection.close()

    refused = await run(db, "erase", "alice", *REASON)

    assert refused.returncode == 1
    assert refused.stderr == "Error: OWNER has an account that is not intact: see `python -m app verify`.\n"
    assert await places_of("alice") == ["account.owner_id", "credit_grant.reason", "entry.reason", "owner.owner_id"]


async def test_ids_that_are_words_or_numbers_are_replaced_only_where_they_mean_the_owner(db: str) -> None:
    for owner in ("42", "GRANT"):
        await grant_credits(owner, 42, reason="GRANTED 42 credits, GRANT", actor=f"user:{owner}")
        await run(db, "erase", owner, *REASON)

    readable = "regexp_replace(actor || '; ' || reason, 'erased-[0-9a-f]+', '?', 'g')"
    rows = await pools.fetch(f"SELECT kind, {readable} FROM entry ORDER BY at")

    assert [tuple(row) for row in rows] == [
        ("GRANT", "user:?; GRANTED 42 credits, GRANT"),
        ("GRANT", "user:?; GRANTED 42 credits, ?"),
    ]


async def test_postgresql_and_python_find_an_owner_id_at_the_same_places(db: str) -> None:
    for owner in ("alice", "a.b", "auth0|x", "zoë", "x+y(z)[w]{2}\\d^$*?", "a-b", "_x", "'\"", "7", "é1"):
        text = f"{owner} x{owner} {owner}x user:{owner}, ({owner})/{owner}"
        pattern = erase_owner.owner_pattern(owner)

        [found] = await pools.fetch("SELECT regexp_replace($1, $2, '?', 'g') AS text", text, pattern)

        assert found["text"] == re.sub(pattern, "?", text)
        assert "user:?" in found["text"]


async def test_every_text_of_an_account_is_erased_or_known_to_contain_no_owner_id(db: str) -> None:
    columns = await pools.fetch(
        "SELECT table_name, column_name FROM information_schema.columns AS c WHERE table_schema = 'public'"
        " AND data_type IN ('text', 'character varying', 'jsonb') AND EXISTS (SELECT FROM information_schema.columns"
        " WHERE table_schema = 'public' AND table_name = c.table_name AND column_name = 'account_id')"
    )
    erased = {(table, name) for table, names in TEXT_COLUMNS.items() for name in names}
    erased |= {(table, name) for table, name, _ in JSON_COLUMNS} | {("entry", name) for name in ENTRY_COLUMNS}
    erased |= {("owner", "owner_id"), ("top_up", "payment_url"), ("top_up", "return_url")}

    others = {f"{table}.{name}" for table, name in map(tuple, columns) if (table, name) not in erased}

    assert others == WITHOUT_OWNER_IDS


async def test_the_application_role_cannot_erase(db: str) -> None:
    await grant_credits("alice", 100, reason="asked by alice")
    before = await pools.fetch("SELECT * FROM entry")
    name = f"application_{secrets.token_hex(4)}"
    assert await roles.grant_privileges(url_for_role(db, name, "secret"))

    refused = await run(url_for_role(db, name, "secret"), "erase", "alice", *REASON)

    await pools.fetch(f"DROP OWNED BY {name}")
    await pools.fetch(f"DROP ROLE {name}")

    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: The database role lacks a privilege: permission denied for table entry")
    assert await pools.fetch("SELECT * FROM entry") == before


@pytest.mark.parametrize(
    "change",
    ["credits = credits + 1", "balance_after = 0", "at = now()", "seq = 9", "account_id = 9", "draws = '[]'"],
)
async def test_not_even_an_erasure_can_change_amounts_or_times(db: str, change: str) -> None:
    account_id = (await grant_credits("alice", 100)).grant.account_id

    async def change_entries() -> None:
        async with pools.transaction() as connection:
            await connection.execute_query("SELECT set_config('credits.erased_account', $1, true)", [str(account_id)])
            await connection.execute_query(f"UPDATE entry SET {change}", [])

    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="rows of entry are never changed or deleted"):
        await change_entries()
