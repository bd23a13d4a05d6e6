"""The sandbox's pages as HTML. Every text that is put into one is escaped here."""

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Final

from app.topups.provider import DisputeStatus
from app.topups.rules import PaymentStatus, format_money
from app.topups.sandbox.cards import LABELS
from app.topups.sandbox.provider import SandboxPage

_PAGE: Final = Template(files("app.topups.sandbox").joinpath("page.html").read_text(encoding="utf-8"))

_PAYMENT: Final = Template("""\
<p class="amount">$amount</p>
<p>$description</p>
<p>$state</p>
<form method="post">
<input type="hidden" name="token" value="$token">
$cards
$buttons
</form>
<p class="note">$onward<br>Reference: $reference</p>
""")

_BUTTON: Final = Template('<button class="$decision" name="decision" value="$decision">$label</button>')
_CARDS: Final = Template("""\
<label>Your card is saved for later payments. It is a <select name="card">
$options
</select></label>
""")
_OPTION: Final = Template('<option value="$card">$label</option>')
_LINK: Final = Template('<a href="$url" rel="noreferrer">$url</a>')
_NOTICE: Final = Template("<p>$text</p>")

_TITLES: Final = {
    PaymentStatus.OPEN: "Pay for credits",
    PaymentStatus.PAID: "Paid",
    PaymentStatus.DECLINED: "The payment was declined",
}
_STATES: Final = {
    PaymentStatus.OPEN: "Choose what the bank should say.",
    PaymentStatus.PAID: "Thank you. The credits are on their way to your account.",
    PaymentStatus.DECLINED: "Nothing was paid. You may try again.",
}
_BUTTONS: Final[dict[PaymentStatus, Sequence[tuple[str, str]]]] = {
    PaymentStatus.OPEN: [("pay", "Pay"), ("decline", "Decline")],
    PaymentStatus.PAID: [("resend", "Send the notice of this payment again")],
    PaymentStatus.DECLINED: [("pay", "Pay after all")],
}


_OF_DISPUTE: Final[dict[DisputeStatus | None, Sequence[tuple[str, str]]]] = {
    None: [("dispute", "Dispute it, as the buyer")],
    DisputeStatus.OPEN: [("win", "Decide the dispute for the seller"), ("lose", "Decide it for the buyer")],
}
"""What may be done about a payment that is paid, by where its dispute stands."""


def render_payment(page: SandboxPage, *, token: str, dispute: DisputeStatus | None = None) -> str:
    """The page of a payment: buttons while there is something to decide, the result afterwards."""
    content = _filled(
        _PAYMENT,
        amount=format_money(page.amount_minor, page.currency),
        description=page.description,
        state=_STATES[page.status],
        token=token,
        reference=page.reference,
        html={"cards": _cards(page), "buttons": _buttons(page.status, dispute), "onward": _onward(page)},
    )
    return _filled(_PAGE, title=_TITLES[page.status], html={"content": content})


def render_message(title: str, text: str) -> str:
    """A page that only says something."""
    return _filled(_PAGE, title=title, html={"content": _filled(_NOTICE, text=text)})


def render_portal(labels: Sequence[str], return_url: str | None) -> str:
    """The page on which a customer looks at the cards that are saved."""
    texts = [_filled(_NOTICE, text=label) for label in labels] or [_filled(_NOTICE, text="No card is saved.")]
    onward = [_filled(_LINK, url=return_url)] if return_url is not None else []
    return _filled(_PAGE, title="Your saved cards", html={"content": "\n".join(texts + onward)})


def _cards(page: SandboxPage) -> str:
    """The choice of a card, where the payment saves it and is not made yet."""
    if not page.saves_card or page.status is PaymentStatus.PAID:
        return ""
    options = "\n".join(_filled(_OPTION, card=card, label=label) for card, label in LABELS.items())
    return _filled(_CARDS, html={"options": options})


def _buttons(state: PaymentStatus, dispute: DisputeStatus | None) -> str:
    offered = [*_BUTTONS[state], *(_OF_DISPUTE.get(dispute, ()) if state is PaymentStatus.PAID else ())]
    return "\n".join(_filled(_BUTTON, decision=decision, label=label) for decision, label in offered)


def _onward(page: SandboxPage) -> str:
    if page.return_url is None:
        return "You may close this page afterwards."
    link = _filled(_LINK, url=page.return_url)
    return f"You return to {link}" if page.status is PaymentStatus.PAID else f"Afterwards you return to {link}"


def _filled(template: Template, *, html: dict[str, str] | None = None, **texts: str) -> str:
    """`texts` are escaped, `html` is put in as it is: what this module has made itself."""
    return template.substitute({name: escape(text) for name, text in texts.items()} | (html or {}))
