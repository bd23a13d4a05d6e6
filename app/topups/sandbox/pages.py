"""HTML of the sandbox's pages. Every text put into a page is escaped here."""

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Final

from app.topups.models import SandboxPayment
from app.topups.provider import DisputeStatus
from app.topups.rules import PaymentStatus, format_money
from app.topups.sandbox.store import CARD_LABELS

_PAGE: Final = Template(files("app.topups.sandbox").joinpath("page.html").read_text(encoding="utf-8"))

_PAYMENT: Final = Template("""\
<p class="amount">$amount</p>
<p>$description</p>
<p>$status</p>
<form method="post">
<input type="hidden" name="token" value="$token">
$cards
$buttons
</form>
<p class="note">$return_link<br>Reference: $reference</p>
""")
_BUTTON: Final = Template('<button class="$decision" name="decision" value="$decision">$label</button>')
_CARDS: Final = Template("""\
<label>Your card is saved for later payments. It is a <select name="card">
$options
</select></label>
""")
_OPTION: Final = Template('<option value="$card">$label</option>')
_LINK: Final = Template('<a href="$url" rel="noreferrer">$url</a>')
_PARAGRAPH: Final = Template("<p>$text</p>")

_STATUS_TEXTS: Final = {
    PaymentStatus.OPEN: ("Pay for credits", "Choose how the bank answers."),
    PaymentStatus.PAID: ("Paid", "Thank you. The credits are being added to your account."),
    PaymentStatus.DECLINED: ("The payment was declined", "Nothing was paid. You may try again."),
}
"""Title and text for each status of the payment."""

_BUTTONS: Final[dict[PaymentStatus, Sequence[tuple[str, str]]]] = {
    PaymentStatus.OPEN: [("pay", "Pay"), ("decline", "Decline")],
    PaymentStatus.PAID: [("resend", "Send the event of this payment again")],
    PaymentStatus.DECLINED: [("pay", "Pay now")],
}
_DISPUTE_BUTTONS: Final[dict[DisputeStatus | None, Sequence[tuple[str, str]]]] = {
    None: [("dispute", "Dispute it, as the buyer")],
    DisputeStatus.OPEN: [("win", "Decide the dispute for the seller"), ("lose", "Decide it for the buyer")],
}
"""Buttons of a paid payment for each status of its dispute."""


def render_payment(payment: SandboxPayment, *, token: str, dispute: DisputeStatus | None = None) -> str:
    """Return the page of a payment, with the buttons that its status allows. `token` is the token of its form."""
    status = PaymentStatus(payment.status)
    title, text = _STATUS_TEXTS[status]
    content = _fill(
        _PAYMENT,
        amount=format_money(payment.amount_minor, payment.currency),
        description=payment.description,
        status=text,
        token=token,
        reference=payment.reference,
        html={
            "cards": _render_card_choice() if payment.saves_card and status is not PaymentStatus.PAID else "",
            "buttons": _render_buttons(status, dispute),
            "return_link": _render_return_link(status, payment.return_url),
        },
    )
    return _fill(_PAGE, title=title, html={"content": content})


def render_message(title: str, text: str) -> str:
    """Return a page with a title and one paragraph."""
    return _fill(_PAGE, title=title, html={"content": _fill(_PARAGRAPH, text=text)})


def render_portal(card_labels: Sequence[str], return_url: str | None) -> str:
    """Return the billing portal: the customer's saved cards and a link back."""
    parts = [_fill(_PARAGRAPH, text=label) for label in card_labels or ["No card is saved."]]
    if return_url is not None:
        parts.append(_fill(_LINK, url=return_url))
    return _fill(_PAGE, title="Your saved cards", html={"content": "\n".join(parts)})


def _render_card_choice() -> str:
    options = "\n".join(_fill(_OPTION, card=card, label=label) for card, label in CARD_LABELS.items())
    return _fill(_CARDS, html={"options": options})


def _render_buttons(status: PaymentStatus, dispute: DisputeStatus | None) -> str:
    offered = [*_BUTTONS[status], *(_DISPUTE_BUTTONS.get(dispute, ()) if status is PaymentStatus.PAID else ())]
    return "\n".join(_fill(_BUTTON, decision=decision, label=label) for decision, label in offered)


def _render_return_link(status: PaymentStatus, return_url: str | None) -> str:
    if return_url is None:
        return "You may close this page afterwards."
    link = _fill(_LINK, url=return_url)
    return f"You return to {link}" if status is PaymentStatus.PAID else f"Afterwards you return to {link}"


def _fill(template: Template, *, html: dict[str, str] | None = None, **texts: str) -> str:
    """Fill a template. `texts` are escaped; `html` is inserted unchanged, and only this module creates it."""
    return template.substitute({name: escape(text) for name, text in texts.items()} | (html or {}))
