"""The commands grant, verify and prices."""

import json
import subprocess
from pathlib import Path

import asyncpg
import pytest

from app.db import pools
from app.db.database_url import connection_arguments
from app.pricing import publishing
from tests.command_line import REPOSITORY, run_beside
from tests.conftest import LEDGER_KEY
from tests.factories import grant_credits


async def run(db: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command on the database of the test, with its ledger key."""
    return await run_beside(*arguments, DATABASE_URL=db, LEDGER_KEY=LEDGER_KEY.hex())


async def tamper(db: str, sql: str) -> None:
    """Change the ledger as only a superuser can, who disables triggers."""
    connection = await asyncpg.connect(**connection_arguments(db))
    try:
        await connection.execute(f"SET session_replication_role = replica; {sql}")
    finally:
        await connection.close()


async def test_a_grant_prints_the_available_credits_and_is_idempotent(db: str) -> None:
    command = ("grant", "alice", "1000", "--reason", "welcome", "--key", "first")

    first, again = await run(db, *command), await run(db, *command)

    assert first.stdout == "1,000 credits granted to alice: 1,000 available\n"
    assert again.stdout == "1,000 credits granted before to alice: 1,000 available\n"
    [(kind, credits, actor, reason)] = await pools.fetch("SELECT kind, credits, actor, reason FROM entry")
    assert (kind, credits, actor, reason) == ("GRANT", 1000, "operator:command-line", "welcome")


async def test_a_refused_grant_is_an_error_and_writes_nothing(db: str) -> None:
    refused = await run(db, "grant", "alice", "0", "--reason", "nothing")

    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: credits must lie between 1 and ")
    assert await pools.fetch("SELECT 1 FROM account") == []


@pytest.mark.parametrize("owner", ["", "al ice", "al\u200bice", "al\nice", "a" * 300, "al\udcffice"])
async def test_a_grant_to_an_invalid_owner_is_refused_as_by_the_api(db: str, owner: str) -> None:
    refused = await run(db, "grant", owner, "5", "--reason", "welcome")

    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "Error: ownerId must have 1 to 255 visible characters, without spaces.\n"
    assert await pools.fetch("SELECT 1 FROM account") == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--key", ""), "Error: idempotencyKey must have 1 to 255 visible characters, without spaces.\n"),
        (("--key", "a b"), "Error: idempotencyKey must have 1 to 255 visible characters, without spaces.\n"),
        (("--reason", "\udcff"), "Error: reason must say why, in 1 to 1,000 characters.\n"),
        (("--expires-at", "9999-12-31T23:59:59Z"), "must lie between 2000-01-01 and 9999-01-01 UTC.\n"),
        (("--expires-at", "2099-01-01T00:00:00"), "must have an offset from UTC, such as 2026-01-31T12:00:00Z.\n"),
    ],
)
async def test_a_grant_with_an_invalid_option_is_refused(db: str, options: tuple[str, str], message: str) -> None:
    refused = await run(db, "grant", "alice", "5", "--reason", "welcome", *options)

    assert refused.returncode in {1, 2}
    assert refused.stderr.endswith(message)
    assert "Traceback" not in refused.stderr
    assert await pools.fetch("SELECT 1 FROM account") == []


async def test_an_empty_key_of_a_publication_is_refused(db: str) -> None:
    await publishing.publish_default_card()

    refused = await run(db, "prices", "publish", str(REPOSITORY / "app/pricing/default_rate_card.json"), "--key", "")

    assert (refused.returncode, refused.stderr) == (
        1, "Error: idempotencyKey must have 1 to 255 visible characters, without spaces.\n"
    )  # fmt: skip
    assert len(await pools.fetch("SELECT 1 FROM rate_card")) == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("keys", "create", "", "--scope", "read"), "Error: name must have 1 to 255 visible characters.\n"),
        (("keys", "revoke", "\udcff"), "Error: id must have 1 to 255 visible characters, without spaces.\n"),
        (("provider-events", "replay", ""), "Error: id must have 1 to 255 visible characters, without spaces.\n"),
        (("token", "service", "\u3164"), "Error: name must have 1 to 255 visible characters.\n"),
        (("token", "user", "al ice"), "Error: name must have 1 to 255 visible characters, without spaces.\n"),
    ],
)
async def test_other_commands_refuse_invalid_ids_and_names(
    db: str, tmp_path: Path, command: tuple[str, ...], message: str
) -> None:
    refused = await run_beside(*command, DATABASE_URL=db, LEDGER_KEY=LEDGER_KEY.hex(), DATA_DIR=str(tmp_path))

    assert (refused.returncode, refused.stdout, refused.stderr) == (1, "", message)


@pytest.mark.parametrize(
    ("owner", "message"),
    [
        ("nobody", "Error: OWNER nobody has no account.\n"),
        ("", "Error: OWNER must have 1 to 255 visible characters, without spaces.\n"),
        ("al ice", "Error: OWNER must have 1 to 255 visible characters, without spaces.\n"),
    ],
)
async def test_an_unknown_owner_cannot_be_verified(db: str, owner: str, message: str) -> None:
    await grant_credits("alice", 100)

    refused = await run(db, "verify", owner)

    assert (refused.returncode, refused.stdout, refused.stderr) == (2, "", message)


async def test_a_verification_without_a_database_exits_with_3() -> None:
    failed = await run("postgresql://nobody@127.0.0.1:1/nothing", "verify")

    assert failed.returncode == 3
    assert "The database cannot be reached" in failed.stderr


async def test_an_intact_ledger_is_verified(db: str) -> None:
    await grant_credits("alice", 100)
    await grant_credits("bob", 100)

    everybody, bob = await run(db, "verify"), await run(db, "verify", "bob")

    assert (everybody.returncode, everybody.stdout) == (0, "2 accounts, 2 entries: the ledger is intact\n")
    assert (bob.returncode, bob.stdout) == (0, "1 account, 1 entry: the ledger is intact\n")


async def test_a_changed_balance_is_found(db: str) -> None:
    await grant_credits("alice", 100)
    await tamper(db, "UPDATE account SET posted = 101")

    found = await run(db, "verify")

    assert found.returncode == 1
    assert "I1 account" in found.stdout
    assert "(alice): posted 101, entries 100, grants 100\n" in found.stdout


async def test_removed_entries_are_found_by_the_saved_heads(db: str, tmp_path: Path) -> None:
    heads = tmp_path / "heads"
    await grant_credits("alice", 100)
    before = dict((await pools.fetch("SELECT * FROM account"))[0])
    await grant_credits("alice", 50)
    first = await run(db, "verify", "--heads", str(heads))
    saved = heads.read_text()
    await tamper(
        db,
        "DELETE FROM entry WHERE seq = 2; DELETE FROM credit_grant WHERE number = 2;"
        "DELETE FROM operation WHERE (result->>'seq')::int = 2;"
        "UPDATE account SET seq = 1, version = {version}, posted = 100,"
        " last_mac = (SELECT mac FROM entry), last_entry_at = (SELECT at FROM entry)".format_map(before),
    )

    without, cut = await run(db, "verify"), await run(db, "verify", "--heads", str(heads))

    assert first.returncode == 0
    assert without.stdout == "1 account, 1 entry: the ledger is intact\n"  # the chain alone cannot detect it
    assert cut.returncode == 1
    assert f"HEAD account {before['id']}: entry 2 is gone\n" in cut.stdout
    assert heads.read_text() == saved


async def test_new_entries_are_verified_and_their_heads_saved(db: str, tmp_path: Path) -> None:
    heads = tmp_path / "heads"
    await grant_credits("alice", 100)
    first = await run(db, "verify", "--heads", str(heads))
    await grant_credits("alice", 50)
    await grant_credits("bob", 50)

    second = await run(db, "verify", "--heads", str(heads))

    assert f"0 saved heads found, 1 heads saved to {heads}\n" in first.stdout
    assert f"1 saved heads found, 2 heads saved to {heads}\n" in second.stdout
    macs = await pools.fetch("SELECT id, seq, last_mac FROM account ORDER BY id")
    assert heads.read_text() == "".join(f"{number} {seq} {mac.hex()}\n" for number, seq, mac in macs)


@pytest.mark.parametrize(
    "line", ["something else", "9223372036854775808 1 00", f"1 {'9' * 400} 00", "1 -1 00", "1 1_0 00", "1 1 0", "1 1"]
)
async def test_a_file_without_heads_is_refused(db: str, tmp_path: Path, line: str) -> None:
    heads = tmp_path / "heads"
    heads.write_text(f"{line}\n")

    refused = await run(db, "verify", "--heads", str(heads))

    assert (refused.returncode, refused.stderr) == (2, "Error: heads is not a file of heads: see line 1.\n")
    assert heads.read_text() == f"{line}\n"


async def test_a_printed_rate_card_can_be_published(db: str, tmp_path: Path) -> None:
    await publishing.publish_default_card()
    card = tmp_path / "card.json"
    shown = await run(db, "prices", "show")
    card.write_text(shown.stdout)
    assert json.loads(shown.stdout) == json.loads((REPOSITORY / "app/pricing/default_rate_card.json").read_bytes())
    assert shown.stderr.startswith("rate card 1, in force from ")

    published = await run(db, "prices", "publish", str(card), "--reason", "as before", "--key", "again")
    again = await run(db, "prices", "publish", str(card), "--reason", "as before", "--key", "again")

    assert published.stdout.startswith("rate card 2 published, in force from ")
    assert again.stdout.startswith("rate card 2 was published before, in force from ")
    assert (await run(db, "prices", "show")).stderr.startswith("rate card 1, ")  # 2 is not in force yet
    assert (await run(db, "prices", "show", "--version", "3")).stderr == "Error: version 3 does not exist.\n"
