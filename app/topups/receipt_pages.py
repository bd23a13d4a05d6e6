"""A receipt as a printable HTML page. Every text that is put into it is escaped here."""

from html import escape
from importlib.resources import files
from string import Template
from typing import Final

from app.topups.receipts import Receipt
from app.topups.rules import format_money

_PAGE: Final = Template(files("app.topups").joinpath("receipt_page.html").read_text(encoding="utf-8"))
_LINE: Final = Template("<tr><th>$label</th><td>$text</td></tr>")
_TOTAL: Final = Template('<tr class="total"><th>$label</th><td>$text</td></tr>')


def render_receipt(receipt: Receipt, seller: str | None) -> str:
    """The page. `seller`: name and address, its lines divided by semicolons."""
    return _PAGE.substitute(
        number=escape(receipt.number),
        seller="<br>".join(escape(line.strip()) for line in (seller or "").split(";")),
        paid_at=f"{receipt.paid_at:%Y-%m-%d at %H:%M} UTC",
        lines="\n".join(_lines(receipt)),
        reference=escape(receipt.reference),
    )


def _lines(receipt: Receipt) -> list[str]:
    def priced(label: str, amount_minor: int) -> str:
        return _filled(_LINE, label, format_money(amount_minor, receipt.currency))

    lines = [priced(f"{receipt.bought_credits:,} credits", receipt.amount_minor)]
    if receipt.bonus_credits:
        lines.append(_filled(_LINE, f"{receipt.bonus_credits:,} promotional credits", "free"))
    lines += [
        priced(f"{line.label} (included)" if line.inclusive else line.label, line.amount_minor)
        for line in receipt.tax_lines
    ]
    lines.append(_filled(_TOTAL, "Total paid", format_money(receipt.total_minor, receipt.currency)))
    if receipt.refunded_minor:
        lines.append(priced("Given back since", receipt.refunded_minor))
    return lines


def _filled(template: Template, label: str, text: str) -> str:
    return template.substitute(label=escape(label), text=escape(text))
