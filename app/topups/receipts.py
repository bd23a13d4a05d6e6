"""Receipts of paid top-ups: content, signed links, and the printable HTML page.

A receipt is opened in a browser, which sends no token, and buyers forward receipts to their bookkeepers. So everybody
who has the link can open the page. The link contains the ids of the account and the top-up, and a MAC, so that it
cannot be guessed. The key of the MAC is derived from a ledger key. The link opens only this page and does not expire.
"""

import base64
import binascii
import hmac
from dataclasses import dataclass
from datetime import datetime
from html import escape
from importlib.resources import files
from string import Template
from typing import Final

from app.ledger import posting
from app.topups.rules import Reference, TaxLine, TopUpRow, format_money
from app.wording import counted

PATH: Final = "/receipts"
_MAC_BYTES: Final = 16
_NAMED_BYTES: Final = 24
"""8 bytes of the account id and 16 of the top-up id."""

_PAGE: Final = Template(files("app.topups").joinpath("receipt_page.html").read_text(encoding="utf-8"))
_LINE: Final = Template("<tr><th>$label</th><td>$text</td></tr>")
_TOTAL: Final = Template('<tr class="total"><th>$label</th><td>$text</td></tr>')


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A receipt. Amounts are in minor units of `currency`; `total_minor` includes all taxes."""

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
    """Return the receipt of a top-up, or None before it is paid. It remains available after refunds."""
    if top_up.paid_at is None:
        return None
    tax_lines = top_up.tax_lines or ()
    return Receipt(
        number=f"{top_up.paid_at:%Y%m%d}-{top_up.id[:12].upper()}",
        bought_credits=top_up.credits,
        bonus_credits=top_up.bonus_credits,
        amount_minor=top_up.amount_minor,
        currency=top_up.currency,
        tax_lines=tax_lines,
        total_minor=top_up.paid_minor,
        paid_at=top_up.paid_at,
        reference=top_up.reference,
        token=build_token(Reference(top_up.account_id, top_up.id)),
        refunded_minor=top_up.refunded_minor,
    )


def build_token(reference: Reference) -> str:
    """Return the last part of a receipt's URL, which has 54 characters."""
    named = reference.account_id.to_bytes(8, "big") + bytes.fromhex(reference.row_id)
    return base64.urlsafe_b64encode(named + _mac(posting.ledger_keys().signing.receipts, named)).decode().rstrip("=")


def parse_token(token: str) -> Reference | None:
    """Return the top-up that a token names, or None if this server did not create the token."""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    named, mac = raw[:_NAMED_BYTES], raw[_NAMED_BYTES:]
    if len(raw) != _NAMED_BYTES + _MAC_BYTES or not _is_signed(named, mac):
        return None
    return Reference(int.from_bytes(named[:8], "big"), named[8:].hex())


def render_receipt(receipt: Receipt, seller: str | None) -> str:
    """Return the page as HTML with every text escaped.

    `seller` is a name and address, with lines separated by semicolons.
    """
    return _PAGE.substitute(
        number=escape(receipt.number),
        seller="<br>".join(escape(line.strip()) for line in (seller or "").split(";")),
        paid_at=f"{receipt.paid_at:%Y-%m-%d at %H:%M} UTC",
        lines="\n".join(_render_lines(receipt)),
        reference=escape(receipt.reference),
    )


def _render_lines(receipt: Receipt) -> list[str]:
    def render(label: str, amount_minor: int, *, template: Template = _LINE) -> str:
        return _fill(template, label, format_money(amount_minor, receipt.currency))

    lines = [render(counted(receipt.bought_credits, "credit"), receipt.amount_minor)]
    if receipt.bonus_credits:
        lines.append(_fill(_LINE, counted(receipt.bonus_credits, "promotional credit"), "free"))
    lines += [
        render(f"{line.label} (included)" if line.inclusive else line.label, line.amount_minor)
        for line in receipt.tax_lines
    ]
    lines.append(render("Total paid", receipt.total_minor, template=_TOTAL))
    if receipt.refunded_minor:
        lines.append(render("Refunded since", receipt.refunded_minor))
    return lines


def _fill(template: Template, label: str, text: str) -> str:
    return template.substitute(label=escape(label), text=escape(text))


def _is_signed(named: bytes, mac: bytes) -> bool:
    """Return whether a configured key made this MAC. The second MAC is the one of links from earlier versions."""
    return any(
        hmac.compare_digest(mac, possible)
        for key in posting.ledger_keys().by_id.values()
        for possible in (_mac(key.receipts, named), _mac(key.original, b"receipt\0" + named))
    )


def _mac(key: bytes, signed: bytes) -> bytes:
    return hmac.digest(key, signed, "sha256")[:_MAC_BYTES]
