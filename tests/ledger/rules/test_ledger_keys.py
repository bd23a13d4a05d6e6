"""Ledger keys: what is derived from them, and which of them verifies an entry."""

import hashlib
import hmac
from datetime import UTC, datetime

import pytest

from app.ledger.rules.account_state import LedgerEntry
from app.ledger.rules.hash_chain import GENESIS_MAC, is_signed, sign_entry
from app.ledger.rules.ledger_keys import LedgerKey, LedgerKeys

OLD, NEW = bytes(range(32)), bytes(range(1, 33))
ENTRY = LedgerEntry(
    account_id=1, seq=1, version=1, kind="GRANT", credits=1, owed=0, balance_after=1,
    at=datetime(2026, 1, 1, tzinfo=UTC), actor="a", reason=None,
    task_id=None, block_run_id=None, top_up_id=None, request_id=None, draws=((1, 1),),
    hold_number=None, mac=b"",
)  # fmt: skip


def hkdf(key: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869 with SHA-256, no salt, and at most one block of output."""
    pseudorandom_key = hmac.digest(bytes(hashlib.sha256().digest_size), key, "sha256")
    return hmac.digest(pseudorandom_key, info + b"\x01", "sha256")[:size]


def signed(key: bytes, key_id: str | None) -> LedgerEntry:
    return ENTRY._replace(mac=sign_entry(ENTRY, previous_mac=GENESIS_MAC, key=key), key_id=key_id)


def test_each_purpose_has_its_own_key_by_hkdf() -> None:
    key = LedgerKey.derive(OLD)

    assert key.id == hkdf(OLD, b"credits ledger: key id", 4).hex()
    assert key.entries == hkdf(OLD, b"credits ledger: entries", 32)
    assert key.receipts == hkdf(OLD, b"credits ledger: receipts", 32)
    assert key.webhook_secrets == hkdf(OLD, b"credits ledger: webhook secrets", 32)


def test_the_derived_values_never_change() -> None:
    assert (LedgerKey.derive(OLD).id, LedgerKey.derive(OLD).entries[:4].hex()) == ("7a058e4e", "491a01b6")


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 32 bytes"):
        LedgerKeys.derive(NEW, [bytes(31)])


def test_texts_do_not_contain_a_key() -> None:
    key, keys = LedgerKey.derive(NEW), LedgerKeys.derive(NEW, [OLD])

    assert repr(key) == f"LedgerKey(id='{key.id}')"
    assert repr(keys) == f"LedgerKeys(signing=LedgerKey(id='{key.id}'))"


@pytest.mark.parametrize("others", [[OLD], [bytes(32), OLD], [OLD, bytes(32)]])
def test_an_entry_verifies_with_the_key_that_signed_it(others: list[bytes]) -> None:
    keys = LedgerKeys.derive(NEW, others)
    old, new = LedgerKey.derive(OLD), LedgerKey.derive(NEW)
    by_new, by_old, without_id = signed(new.entries, new.id), signed(old.entries, old.id), signed(OLD, None)

    assert [is_signed(entry, previous_mac=GENESIS_MAC, keys=keys) for entry in (by_new, by_old, without_id)] == [
        True
    ] * 3


def test_an_entry_whose_key_is_not_configured_is_neither_true_nor_false() -> None:
    old = LedgerKey.derive(OLD)

    assert is_signed(signed(old.entries, old.id), previous_mac=GENESIS_MAC, keys=LedgerKeys.derive(NEW)) is None


@pytest.mark.parametrize("key_id", [LedgerKey.derive(NEW).id, None])
def test_an_entry_does_not_verify_with_another_key_or_purpose(key_id: str | None) -> None:
    keys, old, new = LedgerKeys.derive(NEW, [OLD]), LedgerKey.derive(OLD), LedgerKey.derive(NEW)

    forged = [signed(key, key_id) for key in (old.entries, old.receipts, new.receipts, bytes(32))]

    assert [is_signed(entry, previous_mac=GENESIS_MAC, keys=keys) for entry in forged] == [False] * 4


def test_changed_content_or_another_position_does_not_verify() -> None:
    keys, new = LedgerKeys.derive(NEW), LedgerKey.derive(NEW)
    entry = signed(new.entries, new.id)

    assert is_signed(entry._replace(credits=2), previous_mac=GENESIS_MAC, keys=keys) is False
    assert is_signed(entry, previous_mac=bytes(31) + b"1", keys=keys) is False
