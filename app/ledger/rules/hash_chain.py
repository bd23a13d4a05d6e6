"""The keyed chain over an account's entries.

Each entry carries HMAC-SHA256(key, canonical bytes of its content and the MAC of the account's entry before it). The
key is not in the database, so whoever can write tables still cannot write history. A chain per account: nothing
serialises across accounts. The first entry follows 32 zero bytes.

Canonical bytes: the fields in the order of `Line`, each as decimal length, colon, UTF-8 text, comma (a netstring); no
field is '-', integers are plain decimal, time is whole microseconds since 1970 UTC, draws are `grant:credits` joined by
';'. `hold` came later: where a hold paid, its number stands behind the rest as `hold=` and a netstring.
"""

import hmac
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

GENESIS_MAC: Final = bytes(32)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class EntryContent(NamedTuple):
    """The content of one entry, in canonical order."""

    account_id: int
    seq: int
    version: int
    kind: str
    credits: int
    owed: int
    balance_after: int
    at: datetime
    actor: str
    reason: str | None
    task_id: str | None
    block_run_id: str | None
    top_up_id: str | None
    request_id: str | None
    draws: tuple[tuple[int, int], ...]
    hold_number: int | None = None


def canonical_bytes(line: EntryContent) -> bytes:
    """The bytes that are signed: a netstring of each field."""
    fields = (
        str(line.account_id),
        str(line.seq),
        str(line.version),
        line.kind,
        str(line.credits),
        str(line.owed),
        str(line.balance_after),
        str((line.at - _EPOCH) // _MICROSECOND),
        line.actor,
        line.reason,
        line.task_id,
        line.block_run_id,
        line.top_up_id,
        line.request_id,
        ";".join([f"{grant}:{credits}" for grant, credits in line.draws]),
    )
    text = "".join(["-," if field is None else f"{len(field)}:{field}," for field in fields])
    if not text.isascii():  # lengths are of bytes
        text = "".join(["-," if field is None else f"{len(field.encode())}:{field}," for field in fields])
    if line.hold_number is not None:
        hold = str(line.hold_number)
        text += f"hold={len(hold)}:{hold},"
    return text.encode()


def sign_entry(line: EntryContent, *, previous_mac: bytes, key: bytes) -> bytes:
    """The 32 bytes that bind `line` to the entry `after` whose MAC it follows."""
    return hmac.digest(key, previous_mac + canonical_bytes(line), "sha256")
