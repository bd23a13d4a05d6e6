"""Receipts: what was bought, of whom, for how much, with the taxes as the provider told them.

A receipt's page is opened in a browser, which sends no token of ours, by a link that whoever has it may follow: decided
so because receipts are forwarded to bookkeepers. The link names account and top-up and is signed with a key derived
from the ledger's, so nobody finds another's by trying; it opens this one page and nothing else, and does not expire.
"""

import base64
import binascii
import hmac
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from app.ledger import posting
from app.topups.rules import Reference, TaxLine, TopUpRow

PATH: Final = "/receipts"
_MAC_BYTES: Final = 16
_NAMED_BYTES: Final = 24
"""Eight of the account and sixteen of the top-up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A paid top-up, for people. Amounts are minor units of `currency`; `total_minor` has every tax in it."""

    number: str
    bought_credits: int
    bonus_credits: int
    amount_minor: int
    currency: str
    tax_lines: tuple[TaxLine, ...]
    total_minor: int
    paid_at: datetime
    reference: str
    token: str
    refunded_minor: int


def build_receipt(top_up: TopUpRow) -> Receipt | None:
    """The receipt of a top-up; None before it is paid. It stays when money goes back later."""
    if top_up.paid_at is None:
        return None
    return Receipt(
        number=f"{top_up.paid_at:%Y%m%d}-{top_up.id[:12].upper()}",
        bought_credits=top_up.credits,
        bonus_credits=top_up.bonus_credits,
        amount_minor=top_up.amount_minor,
        currency=top_up.currency,
        tax_lines=top_up.tax_lines,
        total_minor=top_up.amount_minor + sum(line.amount_minor for line in top_up.tax_lines if not line.inclusive),
        paid_at=top_up.paid_at,
        reference=top_up.reference,
        token=build_token(Reference(top_up.account_id, top_up.id)),
        refunded_minor=top_up.refunded_minor,
    )


def build_token(reference: Reference) -> str:
    """What a receipt's address ends in: 54 characters."""
    named = reference.account_id.to_bytes(8, "big") + bytes.fromhex(reference.row_id)
    return base64.urlsafe_b64encode(named + _mac(named)).decode().rstrip("=")


def parse_token(token: str) -> Reference | None:
    """The top-up that a token of ours names; None: it is none of ours."""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    named, mac = raw[:_NAMED_BYTES], raw[_NAMED_BYTES:]
    if len(raw) != _NAMED_BYTES + _MAC_BYTES or not hmac.compare_digest(mac, _mac(named)):
        return None
    return Reference(int.from_bytes(named[:8], "big"), named[8:].hex())


def _mac(named: bytes) -> bytes:
    return hmac.digest(posting.signing_key(), b"receipt\0" + named, "sha256")[:_MAC_BYTES]
