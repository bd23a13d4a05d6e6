"""Rotation of the ledger key: several servers, entries of all keys in one chain, and missing keys."""

import base64
import hmac
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from app.cli.checklist import database_checks
from app.cli.checklist.results import CheckFailed, Installation
from app.db import pools
from app.errors import Misconfigured
from app.ledger import posting, registered_keys
from app.ledger.rows import ENTRIES
from app.ledger.rules.account_state import AccountState
from app.ledger.rules.hash_chain import sign_entry
from app.ledger.rules.ledger_keys import LedgerKey
from app.outgoing_webhooks.secret_box import SecretBox, UnknownSecretKey
from app.settings import Settings
from app.state import configure_ledger, webhook_secrets
from app.tasks import stop_and_resume
from app.topups.receipts import build_token, parse_token
from app.topups.rules import Reference
from app.verify.verifier import verify_ledger
from tests.command_line import run_beside
from tests.conftest import LEDGER_KEY
from tests.databases import execute
from tests.factories import grant_credits

pytestmark = pytest.mark.anyio

OLD, NEW = bytes(range(64, 96)), bytes(range(96, 128))
OLD_ID, NEW_ID = LedgerKey.derive(OLD).id, LedgerKey.derive(NEW).id
RECEIPT = Reference(7, "ab" * 16)


@pytest.fixture(autouse=True)
def configured_key() -> Iterator[None]:
    yield
    stop_and_resume.configure_ledger(LEDGER_KEY)


def run_with(signing: bytes, *others: bytes) -> None:
    """This process continues as a server with these keys."""
    stop_and_resume.configure_ledger(signing, verification_keys=others)


async def key_ids() -> list[str | None]:
    return [row["key_id"] for row in await pools.fetch("SELECT key_id FROM entry ORDER BY account_id, seq")]


async def sign_as_before_keys_had_ids(db: str, key: bytes) -> None:
    """Replace the entries of one account by what an earlier version wrote: without id, signed with the key itself."""
    mac = bytes(32)
    statements = ["SET session_replication_role = replica"]
    for row in await pools.fetch(f"SELECT {ENTRIES.columns('e')} FROM entry AS e ORDER BY e.seq"):
        entry = ENTRIES.read(row)
        mac = sign_entry(entry, previous_mac=mac, key=key)
        statements.append(f"UPDATE entry SET key_id = NULL, mac = '\\x{mac.hex()}' WHERE seq = {entry.seq}")
    await execute(db, *statements, f"UPDATE account SET last_mac = '\\x{mac.hex()}'")


async def test_a_rotation_over_several_servers_leaves_one_chain_that_verifies(db: str) -> None:
    run_with(OLD)
    await grant_credits("alice", 1)
    run_with(OLD, NEW)  # the new key is known everywhere before a server uses it
    await grant_credits("alice", 2)
    for server in ((NEW, OLD), (OLD, NEW), (NEW, OLD)):  # servers restart one after another
        run_with(*server)
        await grant_credits("alice", 3)

    assert await key_ids() == [OLD_ID, OLD_ID, NEW_ID, OLD_ID, NEW_ID]
    for keys in ((OLD, NEW), (NEW, OLD), (bytes(32), NEW, OLD)):
        run_with(*keys)
        report = await verify_ledger()
        assert (report.is_intact, report.entries, report.missing_keys) == (True, 5, {})


async def test_entries_from_before_keys_had_ids_verify_after_a_rotation(db: str) -> None:
    run_with(OLD)
    await grant_credits("alice", 1)
    await grant_credits("alice", 2)
    await sign_as_before_keys_had_ids(db, OLD)
    for keys in ((OLD,), (NEW, OLD)):
        run_with(*keys)
        await grant_credits("alice", 3)
        assert (await verify_ledger()).is_intact

    assert await key_ids() == [None, None, OLD_ID, NEW_ID]
    run_with(NEW)
    report = await verify_ledger()
    assert [violation.invariant for violation in report.violations] == ["I2", "I2"]
    assert report.missing_keys == {OLD_ID: 1}


async def test_a_missing_key_is_named_by_verify_check_and_the_list(db: str) -> None:
    run_with(OLD)
    await registered_keys.register_signing_key()
    await grant_credits("alice", 1)
    run_with(NEW, OLD)
    await registered_keys.register_signing_key()
    await grant_credits("alice", 2)
    only_new, both = {"LEDGER_KEY": NEW.hex()}, {"LEDGER_KEY": NEW.hex(), "LEDGER_VERIFICATION_KEYS": OLD.hex()}

    incomplete = await run_beside("verify", DATABASE_URL=db, **only_new)
    complete = await run_beside("verify", DATABASE_URL=db, **both)
    listed = await run_beside("ledger-keys", DATABASE_URL=db, **only_new)
    listed_both = await run_beside("ledger-keys", DATABASE_URL=db, **both)

    assert incomplete.returncode == 3
    assert incomplete.stdout == (
        f"1 entry signed with the ledger key {OLD_ID}: add that key to LEDGER_VERIFICATION_KEYS\n"
        "1 account, 2 entries: 0 violations, 1 entry could not be verified\n"
    )
    assert (complete.returncode, complete.stdout) == (0, "1 account, 2 entries: the ledger is intact\n")
    assert listed.stdout == f"{NEW_ID}  signs, has signed entries\n{OLD_ID}  is not configured, has signed entries\n"
    assert listed_both.stdout == f"{NEW_ID}  signs, has signed entries\n{OLD_ID}  verifies, has signed entries\n"


async def test_the_check_fails_while_a_key_is_missing(db: str) -> None:
    run_with(OLD)
    await registered_keys.register_signing_key()
    await registered_keys.register_signing_key()  # of another server
    new = Settings(ledger_key=SecretStr(NEW.hex()))
    both = Settings(ledger_key=SecretStr(NEW.hex()), ledger_verification_keys=SecretStr(f" {OLD.hex()}, {'ab' * 32}"))

    with pytest.raises(CheckFailed) as failed:
        await database_checks.ledger_keys(Installation(settings=new, production=True))
    passed = await database_checks.ledger_keys(Installation(settings=both, production=True))

    assert str(failed.value) == (
        f"Entries were signed with ledger keys that are not configured: {OLD_ID}. Add these keys to "
        "LEDGER_VERIFICATION_KEYS, or these entries cannot be verified."
    )
    assert passed == f"{NEW_ID} signs; every key that has signed is configured"


async def test_a_changed_key_id_is_found(db: str) -> None:
    run_with(NEW, OLD)
    await grant_credits("alice", 1)
    await execute(db, "SET session_replication_role = replica", f"UPDATE entry SET key_id = '{OLD_ID}'")

    assert [violation.invariant for violation in (await verify_ledger()).violations] == ["I2"]


def test_receipts_open_after_a_rotation_and_those_from_before_derived_keys_too() -> None:
    named = (7).to_bytes(8, "big") + bytes.fromhex("ab" * 16)
    run_with(OLD)
    token = build_token(RECEIPT)
    earlier = token_of(named, hmac.digest(OLD, b"receipt\0" + named, "sha256")[:16])
    by_another_purpose = token_of(named, hmac.digest(LedgerKey.derive(OLD).entries, named, "sha256")[:16])

    for keys in ((OLD,), (NEW, OLD)):
        run_with(*keys)
        assert [parse_token(each) for each in (token, earlier)] == [RECEIPT, RECEIPT]
        assert parse_token(by_another_purpose) is None
    assert build_token(RECEIPT) != token
    run_with(NEW)
    assert [parse_token(each) for each in (token, earlier)] == [None, None]


def test_webhook_secrets_can_be_read_after_a_rotation_and_by_servers_before_it() -> None:
    def box(signing: bytes, *others: bytes) -> SecretBox:
        verification_keys = SecretStr(",".join(key.hex() for key in others)) if others else None
        return webhook_secrets(
            Settings(ledger_key=SecretStr(signing.hex()), ledger_verification_keys=verification_keys)
        )

    assert box(NEW, OLD).open(box(OLD).seal(b"secret", "endpoint"), "endpoint") == b"secret"
    assert box(OLD, NEW).open(box(NEW, OLD).seal(b"secret", "endpoint"), "endpoint") == b"secret"
    with pytest.raises(UnknownSecretKey):
        box(NEW).open(box(OLD).seal(b"secret", "endpoint"), "endpoint")


def token_of(named: bytes, mac: bytes) -> str:
    return base64.urlsafe_b64encode(named + mac).decode().rstrip("=")


async def test_no_text_of_the_ledgers_state_contains_a_key(db: str) -> None:
    run_with(OLD, NEW)
    seen: list[AccountState] = []

    async def decide(opened: posting.Posting) -> None:
        seen.extend(opened.accounts.values())

    granted = await grant_credits("alice", 1)
    await posting.post([granted.grant.account_id], decide)

    keys = [LedgerKey.derive(key) for key in (OLD, NEW)]
    secrets = [repr(value) for key in keys for value in (key.original, key.entries, key.receipts)]
    for text in (repr(seen), repr(posting._configuration), repr(posting.ledger_keys())):
        assert not any(secret in text for secret in secrets)
        assert OLD_ID in text


@pytest.mark.parametrize(
    ("signing", "others", "message"),
    [
        ("ab", None, "LEDGER_KEY must have at least 64 hex digits: generate it with `openssl rand -hex 32`."),
        ("ab" * 32, f"{'cd' * 32},xy", "Each of LEDGER_VERIFICATION_KEYS must have at least 64 hex digits: generate"),
        ("ab" * 32, f"{'cd' * 32},", "Each of LEDGER_VERIFICATION_KEYS must have at least 64 hex digits: generate"),
    ],
)
def test_invalid_keys_are_refused(signing: str, others: str | None, message: str) -> None:
    verification_keys = None if others is None else SecretStr(others)
    settings = Settings(ledger_key=SecretStr(signing), ledger_verification_keys=verification_keys)

    with pytest.raises(Misconfigured) as refused:
        configure_ledger(settings)

    assert str(refused.value).startswith(message)
    assert "abab" not in str(refused.value)
