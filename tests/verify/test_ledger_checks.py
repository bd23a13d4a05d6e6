"""The verifier finds every violation of the ledger's invariants, and none in an intact ledger."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from app.db import pools
from app.db.database_url import connection_arguments
from app.ledger import accounts, posting, queries
from app.ledger.rules.hash_chain import sign_entry
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import holds, reversals, stop_and_resume
from app.tasks.charging import charge_many
from app.topups import purchases, settlement
from app.topups.provider import ProviderEvent
from app.topups.rules import Payment, PaymentStatus, TopUpTerms
from app.topups.sandbox.provider import Sandbox
from app.verify import verifier
from app.verify.verifier import verify_ledger
from tests.factories import (
    block_run_request,
    capture_request,
    charge_block_run,
    grant_credits,
    hold_request,
    publish_rate_cards,
    start_task,
)

pytestmark = pytest.mark.anyio

TERMS = TopUpTerms(
    minimum_credits=500, maximum_credits=10_000, multiple_credits=100, currency="USD", minor_per_credit=1
)


@pytest.fixture
async def ledger(db: str, rate_cards: RateCardCache) -> None:
    """Two accounts with grants, charges, a free block run, a reversal and a top-up."""
    await grant_credits("bob", 5)
    await grant_credits("alice", 100)
    task = await start_task("alice")
    runs = [block_run_request(task, block_run_id=name) for name in ("a", "b")] + [
        block_run_request(task, block="NoteBlock")
    ]
    await charge_many([(task.account_id, run) for run in runs], rate_cards)
    await reversals.reverse_charge(
        task.task_id, "a", credits=4, reason="failed", idempotency_key="r", actor="operator:o"
    )
    provider = Sandbox("http://testserver", b"a secret of the sandbox, long enough")
    request = purchases.TopUpRequest(owner_id="alice", credits=500, key="t", actor="user:alice")
    top_up = (await purchases.begin_top_up(request, provider, TERMS)).top_up
    assert top_up.provider_ref is not None
    payment = Payment(
        provider=top_up.provider,
        reference=top_up.reference,
        provider_ref=top_up.provider_ref,
        amount_minor=500,
        currency="USD",
        status=PaymentStatus.PAID,
    )
    await settlement.settle(ProviderEvent(event_id="sandbox:evt_1", object=payment, body={}))


@pytest.fixture
async def attacker(db: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection with all privileges and without triggers; the attacker does not have the ledger key."""
    connection = await asyncpg.connect(**connection_arguments(db))
    await connection.execute("SET session_replication_role = replica")
    yield connection
    await connection.close()


async def test_an_intact_ledger_has_no_violation(ledger: None) -> None:
    report = await verify_ledger()
    assert (report.violations, report.accounts, report.entries) == ([], 2, 6)
    assert (await verify_ledger("alice")).entries == 5
    assert (await verify_ledger("bob")).accounts == 1


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
        (
            "I3",
            "UPDATE block_run SET outcome = 'FAILED', finished_at = now(), outcome_seq = 1 WHERE block_run_id = 'a'",
        ),
        (
            "I3",
            "UPDATE block_run SET outcome = 'FAILED', finished_at = now(), outcome_seq = 99 WHERE block_run_id = 'a'",
        ),
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
async def test_each_violation_is_found(ledger: None, attacker: asyncpg.Connection, invariant: str, sql: str) -> None:
    await attacker.execute(sql)
    found = {one.invariant for one in (await verify_ledger()).violations}
    assert any(name.startswith(invariant) for name in found), found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seq": 9}, "entry 9 follows entry 4"),
        ({"version": 4}, "entry 5 has version 4 after version 4"),
        ({"at": datetime(2026, 1, 1, tzinfo=UTC)}, "entry 5 is dated before the entry it follows"),
        ({"balance_after": 585}, "entry 5 has balance 585 after balance 84 and +500"),
        ({"draws": ((1, 500),)}, "grant 1 has 84 left, its draws 584"),
        ({"draws": ((2, 499),)}, "entry 5 moves 500, its draws do not"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_wrong_entry_is_found_even_if_it_was_signed_with_the_key(
    ledger: None, attacker: asyncpg.Connection, change: dict[str, Any], message: str
) -> None:
    before, last = reversed(
        await queries.list_entries(await accounts.get_or_create_account("alice"), before_seq=6, limit=2)
    )
    line = last._replace(**change)
    mac = sign_entry(line, previous_mac=before.mac, key=posting.ledger_keys().signing.entries)
    await attacker.execute(
        "UPDATE entry SET seq = $1, version = $2, at = $3, balance_after = $4, draws = $5, mac = $6 WHERE mac = $7",
        line.seq, line.version, line.at, line.balance_after, json.dumps(line.draws), mac, last.mac,
    )  # fmt: skip
    await attacker.execute("UPDATE account SET last_mac = $1 WHERE last_mac = $2", mac, last.mac)
    messages = [one.message for one in (await verify_ledger()).violations]
    assert message in messages
    assert not any("MAC" in one for one in messages)


async def test_small_ranges_find_the_same_and_leave_no_id_out(
    ledger: None, attacker: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await grant_credits("carol", 5)
    monkeypatch.setattr(verifier, "_ACCOUNTS_AT_ONCE", 1)
    monkeypatch.setattr(verifier, "_ENTRIES_AT_ONCE", 2)
    heads: list[verifier.AccountHead] = []
    seen: list[tuple[int, int]] = []
    report = await verify_ledger(on_progress=lambda done, total: seen.append((done, total)), on_head=heads.append)
    assert (report.violations, report.accounts, report.entries) == ([], 3, 7)
    assert [head.seq for head in heads] == [1, 5, 1]
    assert seen[-1] == (3, 3)
    # Rows without an account come before, between and after those of accounts.
    ids = [head.account_id for head in heads]
    await attacker.execute("UPDATE credit_grant SET account_id = account_id + 1000")
    await attacker.execute("DELETE FROM account WHERE id = $1", ids[1])
    broken = await verify_ledger()
    assert sum("belongs to no account" in one.message for one in broken.violations) == 5 + 4
    assert broken.entries == 7


async def test_the_first_violations_are_listed_and_the_rest_counted(
    ledger: None, attacker: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier, "MAX_LISTED", 2)
    await attacker.execute("UPDATE entry SET mac = decode(repeat('11', 32), 'hex')")
    report = await verify_ledger()
    assert (len(report.violations), report.is_intact) == (2, False)
    assert report.unlisted >= 4
    assert str(report.violations[0]).startswith("I2 account ")


async def test_concurrent_charges_cause_no_violation(ledger: None, rate_cards: RateCardCache) -> None:
    task = await start_task("alice")

    async def write() -> None:
        for _ in range(30):
            await charge_many([(task.account_id, block_run_request(task, block="SearchTheWebBlock"))], rate_cards)

    async def check() -> list[verifier.Violation]:
        return [one for _ in range(4) for one in (await verify_ledger()).violations]

    _, *found = await asyncio.gather(write(), check(), check())
    assert found == [[], []]
    assert (await verify_ledger()).entries == 36


async def test_a_negative_available_balance_is_found(ledger: None, attacker: asyncpg.Connection) -> None:
    await attacker.execute("ALTER TABLE account DROP CONSTRAINT account_figures")
    try:
        await attacker.execute("UPDATE account SET held = posted + 1 WHERE owner_id = 'bob'")
        assert any(one.invariant.startswith("I6") for one in (await verify_ledger()).violations)
    finally:
        await attacker.execute("UPDATE account SET held = 0 WHERE owner_id = 'bob'")
        await attacker.execute(
            "ALTER TABLE account ADD CONSTRAINT account_figures CHECK ("
            "posted BETWEEN 0 AND 9007199254740991 AND held >= 0 AND frozen BETWEEN 0 AND 9007199254740991"
            " AND owed BETWEEN 0 AND 9007199254740991 AND held <= posted AND seq >= 0 AND version >= seq)"
        )


async def test_the_key_that_signed_is_named_if_it_is_not_configured(ledger: None) -> None:
    signed_by = posting.ledger_keys().signing.id
    stop_and_resume.configure_ledger(bytes(32))

    report = await verify_ledger()

    assert report.violations == []
    assert report.missing_keys == {signed_by: report.entries}


@pytest.fixture
async def ledger_with_holds(db: str) -> None:
    """A ledger with all kinds of holds, all on grant 1 of 200 credits: 62 are held by the open holds 3, 4 and 5.

    1: 12 of 30 captured; 2: 20 voided; 3: 25 open; 4: a budget of 60, and within it 5, a budget of 20, and 6 (3
    of 8 captured). Each budget has paid a block run of 10. Bob has one entry and no hold.
    """
    prices = await publish_rate_cards()
    await grant_credits("alice", 200)
    await grant_credits("bob", 5)
    plain = await start_task("alice", task_id="plain")
    captured, voided = hold_request(plain, 30, block_run_id="captured"), hold_request(plain, 20, block_run_id="voided")
    for request in (captured, voided, hold_request(plain, 25, block_run_id="open")):
        await holds.place_hold(request, prices)
    await holds.capture_hold(capture_request(captured, 12))
    await holds.void_hold("plain", "voided")
    outer = await start_task("alice", task_id="outer", budget=60)
    inner = await start_task("alice", task_id="inner", parent_task_id="outer", budget=20)
    for task in (outer, inner):
        await charge_block_run(task, prices, block_run_id=f"of {task.task_id}")
    within = hold_request(outer, 8, block_run_id="within")
    await holds.place_hold(within, prices)
    await holds.capture_hold(capture_request(within, 3))


@pytest.fixture
async def unchecked(ledger_with_holds: None, attacker: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
    """The attacker after dropping the check constraints of holds."""
    checks = await attacker.fetch(
        "SELECT conname, pg_get_constraintdef(oid) AS definition FROM pg_constraint"
        " WHERE conrelid = 'hold'::regclass AND contype = 'c'"
    )
    assert len(checks) == 2
    for check in checks:
        await attacker.execute(f"ALTER TABLE hold DROP CONSTRAINT {check['conname']}")
    yield attacker
    await attacker.execute("DELETE FROM hold")
    for check in checks:
        await attacker.execute(f"ALTER TABLE hold ADD CONSTRAINT {check['conname']} {check['definition']}")


async def messages_of(invariant: str) -> list[str]:
    """The violations of one invariant: messages for Alice, full lines for others."""
    found = (await verify_ledger()).violations
    return [one.message if one.owner_id == "alice" else str(one) for one in found if one.invariant == invariant]


async def test_a_ledger_with_holds_is_intact(ledger_with_holds: None) -> None:
    report = await verify_ledger()
    assert (report.violations, report.accounts, report.entries) == ([], 2, 6)
    [account] = await pools.fetch("SELECT posted, held, hold_count, open_holds FROM account WHERE owner_id = 'alice'")
    assert tuple(account) == (165, 62, 6, 3)


GRANT_1 = "grant 1 has 62 claimed, open holds claim {}"
HELD = "held 62, 3 open holds, the last hold 6; found {}, {} and {}"


@pytest.mark.parametrize(
    ("sql", "messages"),
    [
        ("UPDATE account SET held = 63 WHERE owner_id = 'alice'",
         ["held 63, 3 open holds, the last hold 6; found 62, 3 and 6", "held 63, open claims 62"]),
        ("UPDATE account SET open_holds = 4 WHERE owner_id = 'alice'",
         ["held 62, 4 open holds, the last hold 6; found 62, 3 and 6"]),
        ("UPDATE account SET hold_count = 7 WHERE owner_id = 'alice'",
         ["held 62, 3 open holds, the last hold 7; found 62, 3 and 6"]),
        ("UPDATE credit_grant SET claimed = 63 WHERE credits = 200",
         ["grant 1 has 63 claimed, open holds claim 62", "held 62, open claims 63"]),
        ("DELETE FROM hold WHERE number = 3", [HELD.format(37, 2, 6), GRANT_1.format(37)]),
        ("UPDATE hold SET claims = '[[2, 25]]' WHERE number = 3",
         [GRANT_1.format(37), "grant 2 has 0 claimed, open holds claim 25"]),
        ("UPDATE hold SET claims = '[[1, 24]]' WHERE number = 3",
         [GRANT_1.format(61), "hold 3 has 25 remaining and claims 24"]),
        ("UPDATE hold SET claims = '[[1, \"25\"]]' WHERE number = 3",
         [GRANT_1.format(37), "hold 3 has 25 remaining and claims 0"]),
        ("UPDATE hold SET claims = '{}' WHERE number = 3",
         [GRANT_1.format(37), "hold 3 has 25 remaining and claims 0"]),
        ("UPDATE hold SET claims = '[1, [2]]' WHERE number = 3",
         [GRANT_1.format(37), "hold 3 has 25 remaining and claims 0"]),
        ("UPDATE hold SET credits = 26 WHERE number = 3",
         ["hold 3 was for 26: captured 0, released 0, remaining 25, allocated 0"]),
        ("UPDATE hold SET captured = 13, released = 17 WHERE number = 1",
         ["hold 1 captured 13, block run captured cost 12", "hold 1 captured 13, its charges 12"]),
        ("UPDATE hold SET captured = 9, released = 1 WHERE number = 4", ["hold 4 captured 9, its charges 10"]),
        ("UPDATE hold SET remaining = 24, released = 1 WHERE number = 3",
         [HELD.format(61, 3, 6), "hold 3 has 24 remaining and claims 25"]),
        ("UPDATE hold SET status = 'VOIDED' WHERE number = 3",
         [HELD.format(37, 2, 6), GRANT_1.format(37), "hold 3 is VOIDED and still claims"]),
        ("UPDATE hold SET claims = '[[1, 1]]' WHERE number = 2",
         ["hold 2 has 0 remaining and claims 1", "hold 2 is VOIDED and still claims"]),
        ("UPDATE hold SET claims = '[[1, 0]]' WHERE number = 2", ["hold 2 is VOIDED and still claims"]),
        ("UPDATE hold SET allocated = 22, released = 1 WHERE number = 4",
         ["hold 4 allocated 22, the holds drawn from it have 23"]),
        ("UPDATE hold SET block_run_id = 'another' WHERE number = 1",
         ["hold 1 captured 12, block run another cost unknown"]),
        ("UPDATE hold SET block_run_id = 'of outer' WHERE number = 3",
         ["hold 3 is open, but block run of outer was charged"]),
        ("UPDATE hold SET task_id = 'nowhere' WHERE number = 3",
         ["hold 3 is for task nowhere, which does not exist"]),
        ("UPDATE task SET budget_hold = 9 WHERE task_id = 'inner'",
         ["task inner draws on budget 9, which does not exist"]),
        ("UPDATE task SET budget_hold = 3 WHERE task_id = 'inner'",  # a hold of a block run is no budget
         ["task inner draws on budget 3, which does not exist"]),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)  # fmt: skip
async def test_claims_that_do_not_add_up_are_reported_and_nothing_else(
    unchecked: asyncpg.Connection, sql: str, messages: list[str]
) -> None:
    assert await unchecked.execute(sql) in ("UPDATE 1", "DELETE 1")
    found = (await verify_ledger()).violations
    assert {(one.invariant, one.owner_id) for one in found} == {("I4", "alice")}
    assert sorted(one.message for one in found) == sorted(messages)


async def test_a_captured_hold_without_its_block_run_is_reported(
    ledger_with_holds: None, attacker: asyncpg.Connection
) -> None:
    await attacker.execute("DELETE FROM block_run WHERE block_run_id = 'within'")
    assert await messages_of("I4") == ["hold 6 captured 3, block run within cost unknown"]


@pytest.mark.parametrize(
    ("sql", "messages"),
    [
        ("UPDATE entry SET hold_number = NULL WHERE hold_number = 6", ["hold 6 captured 3, its charges 0"]),
        ("UPDATE entry SET hold_number = 5 WHERE hold_number = 4",
         ["hold 4 captured 10, its charges 0", "hold 5 captured 10, its charges 20"]),
        ("UPDATE entry SET hold_number = 99 WHERE hold_number = 6",
         ["hold 6 captured 3, its charges 0", "hold 99 has entries but does not exist"]),
    ],
)  # fmt: skip
async def test_a_changed_hold_number_in_an_entry_breaks_its_mac_and_the_sums(
    ledger_with_holds: None, attacker: asyncpg.Connection, sql: str, messages: list[str]
) -> None:
    [seq] = await attacker.fetchrow(
        "SELECT seq FROM entry WHERE hold_number = $1", 4 if "hold_number = 4" in sql else 6
    )
    assert await attacker.execute(sql) == "UPDATE 1"
    assert await messages_of("I2") == [f"entry {seq} has a MAC that does not match its content and position"]
    assert sorted(await messages_of("I4")) == messages


async def test_an_entry_with_a_hold_of_another_account_is_reported(
    ledger_with_holds: None, attacker: asyncpg.Connection
) -> None:
    bob = await accounts.get_or_create_account("bob")
    await attacker.execute("UPDATE entry SET hold_number = 3 WHERE account_id = $1", bob)
    assert await messages_of("I4") == [f"I4 account {bob} (bob): hold 3 has entries but does not exist"]
    assert len(await messages_of("I2")) == 1


async def test_holds_without_an_account_are_reported(ledger_with_holds: None, attacker: asyncpg.Connection) -> None:
    await attacker.execute("UPDATE hold SET account_id = account_id + 1000 WHERE number = 3")
    found = await messages_of("I4")
    assert HELD.format(37, 2, 6) in found
    assert any(one.endswith("(no owner): hold 3 is for task plain, which does not exist") for one in found)
