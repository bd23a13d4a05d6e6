"""The HMAC chain over the entries of an account.

The MAC of an entry is HMAC-SHA256(key, MAC of the previous entry + canonical bytes of the content). For the first entry
of an account, the previous MAC is 32 zero bytes. Each account has its own chain, so that writes to different accounts
do not wait for each other. The key is derived from a ledger key, whose id is in the entry (`ledger_keys`). The keys are
not in the database, so write access to the tables is not enough to forge entries.

Canonical bytes are the content fields in the order of `LedgerEntry`, each as a netstring: the decimal length in bytes,
a colon, the text in UTF-8, a comma. NULL is "-," without a length. Integers are decimal numbers, times are microseconds
since 1970 in UTC, draws are `grant:credits` pairs joined by ";". Only if a hold paid, "hold=" and the netstring of
`hold_number` are appended.
"""

import hmac
from datetime import UTC, datetime, timedelta
from typing import Final

from app.ledger.rules.account_state import LedgerEntry
from app.ledger.rules.ledger_keys import LedgerKeys

GENESIS_MAC: Final = bytes(32)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def canonical_bytes(entry: LedgerEntry) -> bytes:
    """Return the bytes that are signed: all fields except `mac` and `key_id`."""
    fields = (
        str(entry.account_id),
        str(entry.seq),
        str(entry.version),
        entry.kind,
        str(entry.credits),
        str(entry.owed),
        str(entry.balance_after),
        str((entry.at - _EPOCH) // _MICROSECOND),
        entry.actor,
        entry.reason,
        entry.task_id,
        entry.block_run_id,
        entry.top_up_id,
        entry.request_id,
        ";".join([f"{grant}:{credits}" for grant, credits in entry.draws]),
    )
    text = "".join(["-," if field is None else f"{len(field)}:{field}," for field in fields])
    if not text.isascii():  # lengths count bytes, not characters
        text = "".join(["-," if field is None else f"{len(field.encode())}:{field}," for field in fields])
    if entry.hold_number is not None:
        hold = str(entry.hold_number)
        text += f"hold={len(hold)}:{hold},"
    return text.encode()


def sign_entry(entry: LedgerEntry, *, previous_mac: bytes, key: bytes) -> bytes:
    """Return the 32-byte MAC of an entry."""
    return hmac.digest(key, previous_mac + canonical_bytes(entry), "sha256")


def is_signed(entry: LedgerEntry, *, previous_mac: bytes, keys: LedgerKeys) -> bool | None:
    """Return whether the MAC of an entry matches its content and position. None: its key is not configured."""
    if entry.key_id is not None:
        key = keys.by_id.get(entry.key_id)
        return None if key is None else sign_entry(entry, previous_mac=previous_mac, key=key.entries) == entry.mac
    oldest_first = reversed([*keys.by_id.values()])
    return any(sign_entry(entry, previous_mac=previous_mac, key=key.original) == entry.mac for key in oldest_first)
