"""Buying credits: begin a top-up, confirm it on the return page, open the billing portal.

The provider is called before or after a transaction, never inside one. If it refuses to begin a payment, the top-up
becomes FAILED and the reason is stored. So no PENDING top-up remains, and a repeated request gets the same error.
"""

from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from app.audit_log.records import AuditContext
from app.credits import MAX_CREDITS, check_key
from app.errors import BalanceLimitReached, InvalidInput, Unavailable
from app.ledger import accounts, idempotency, posting
from app.ledger import queries as ledger_queries
from app.ledger.posting import Posting
from app.ledger.rules.account_state import AccountBalance
from app.topups import customers, queries, rows
from app.topups.errors import PaymentRefused, TopUpNotFound
from app.topups.provider import CheckoutPage, CheckoutRequest, PaymentProvider
from app.topups.provider_events import payment_query_event
from app.topups.rules import (
    REFUSED_PREFIX,
    UNPAID_STATUSES,
    PaymentStatus,
    Reference,
    TopUpRow,
    TopUpStatus,
    TopUpTerms,
    find_return_url_problems,
    is_refusal,
)
from app.topups.settlement import settle
from app.wording import counted

_MAX_REASON_LENGTH: Final = 64
"""The length of `top_up.decline_reason`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUpRequest:
    """A request to buy credits. If `currency` is None, it is the currency in which credits are sold.

    `save_card` means that the buyer consents to later payments with this card in their absence.
    """

    owner_id: str
    credits: int
    currency: str | None = None
    return_url: str | None = None
    save_card: bool = False
    key: str
    actor: str
    audit: AuditContext | None = None

    def request_hash(self) -> bytes:
        content = {"credits": self.credits, "currency": self.currency, "returnUrl": self.return_url}
        return idempotency.hash_request("beginTopUp", content | ({"saveCard": True} if self.save_card else {}))


@dataclass(frozen=True, slots=True)
class BegunTopUp:
    """A top-up with the page on which to pay (`top_up.payment_url`). `replayed` is True if an earlier call began it."""

    top_up: TopUpRow
    balance: AccountBalance
    replayed: bool


@dataclass(frozen=True, slots=True)
class ConfirmedTopUp:
    """A top-up and the balance after the provider was queried."""

    top_up: TopUpRow
    balance: AccountBalance


async def begin_top_up(request: TopUpRequest, provider: PaymentProvider, terms: TopUpTerms) -> BegunTopUp:
    """Record a PENDING top-up and open its checkout.

    A repeated request returns the same top-up and page. If the server stopped before the checkout was stored, the
    repeated request calls the provider again with the same reference, which returns the same checkout.

    Raises: InvalidInput, IdempotencyConflict; BalanceLimitReached: the balance would be too high with the credits;
    PaymentRefused: the provider refuses the payment, and the top-up is FAILED; Unavailable: the provider does not
    answer, and the same request may be sent again.
    """
    check_key(request.key, path="idempotencyKey")
    if problems := find_return_url_problems(request.return_url):
        raise InvalidInput(problems=problems)
    problems = terms.find_problems(request.credits, request.currency)
    # A refused request writes nothing, not even an account. A repetition of an accepted request is accepted even if the
    # terms have changed since. No terms accept more than MAX_CREDITS, and such an amount cannot be hashed.
    if problems and (abs(request.credits) > MAX_CREDITS or await accounts.find_account_id(request.owner_id) is None):
        raise InvalidInput(problems=problems)
    account_id = await accounts.get_or_create_account(request.owner_id)
    request_hash = request.request_hash()

    async def decide(posting: Posting) -> BegunTopUp:
        account = posting.accounts[account_id]
        if (first := await idempotency.find_result(posting, account, request.key, request_hash)) is not None:
            top_up = await rows.get_top_up(posting.connection, account_id, first["topUp"])
            return BegunTopUp(top_up, account.balance(), replayed=True)
        if problems:
            raise InvalidInput(problems=problems)
        if account.posted + request.credits + terms.bonus_credits(request.credits) > MAX_CREDITS:
            raise BalanceLimitReached(figure="The balance")
        top_up = terms.new_top_up(
            account_id=account_id,
            id=uuid4().hex,
            credits=request.credits,
            provider=provider.name,
            live=provider.live,
            return_url=request.return_url,
            actor=request.actor,
            created_at=account.at,
            saves_card=request.save_card,
        )
        rows.insert_top_up(posting.write, top_up)
        after = {"status": top_up.status, "credits": top_up.credits, "amountMinor": top_up.amount_minor}
        posting.record_audit(request.audit, account, subject=f"top-up {top_up.id}", before=None, after=after)
        result = {"topUp": top_up.id}
        idempotency.save_result(
            posting, account, request.key, kind="beginTopUp", request_hash=request_hash, result=result
        )
        return BegunTopUp(top_up, account.balance(), replayed=False)

    begun = await posting.post([account_id], decide)
    return BegunTopUp(await _open_checkout(begun.top_up, provider), begun.balance, begun.replayed)


async def confirm_top_up(
    account_id: int, top_up_id: str, provider: PaymentProvider, *, audit: AuditContext | None = None
) -> ConfirmedTopUp:
    """Query the provider about an unpaid top-up, or one whose taxes have no names yet, and settle the answer.

    Used by return pages, which may load before the webhook. A webhook does not name the taxes.
    Raises: TopUpNotFound: there is no such top-up in this account; Unavailable: the provider does not answer.
    """
    top_up = await queries.find_top_up(account_id, top_up_id)
    if top_up is None:
        raise TopUpNotFound(top_up_id=top_up_id)
    is_unpaid = top_up.status in UNPAID_STATUSES
    is_incomplete = is_unpaid or top_up.has_unnamed_tax
    if is_incomplete and top_up.provider_ref is not None and top_up.provider == provider.name:
        try:
            payment = await provider.retrieve_payment(top_up.provider_ref)
        except Unavailable:
            if is_unpaid:
                raise
            payment = None
        if payment is not None and payment.status is not PaymentStatus.OPEN:
            await settle(payment_query_event(payment), audit=audit)
            top_up = await queries.find_top_up(account_id, top_up_id) or top_up
    return ConfirmedTopUp(top_up, (await ledger_queries.get_balances([account_id]))[account_id])


async def open_billing_portal(
    owner_id: str, provider: PaymentProvider, return_url: str, *, audit: AuditContext | None = None
) -> str:
    """Return the URL of a provider's page on which an owner manages cards and receipts. First writes an audit record.

    Raises: InvalidInput: the return URL is invalid; PaymentRefused; Unavailable: the provider does not answer.
    """
    if problems := find_return_url_problems(return_url):
        raise InvalidInput(problems=problems)
    account_id = await accounts.get_or_create_account(owner_id)

    async def open_portal(customer_ref: str) -> str:
        return await provider.create_portal_session(customer_ref, return_url)

    return await customers.call_with_customer(account_id, provider, open_portal, audit, subject="billing portal")


def refusal_text(refusal: PaymentRefused) -> str:
    """Return the `decline_reason` of a top-up that was refused."""
    return f"{REFUSED_PREFIX}{refusal.reason}:{refusal.provider_code}"[:_MAX_REASON_LENGTH]


def find_refusal(top_up: TopUpRow) -> PaymentRefused | None:
    """Return the refusal of a FAILED top-up, or None if it was not refused."""
    if (
        top_up.status is not TopUpStatus.FAILED
        or top_up.decline_reason is None
        or not is_refusal(top_up.decline_reason)
    ):
        return None
    reason, _, code = top_up.decline_reason.removeprefix(REFUSED_PREFIX).partition(":")
    return PaymentRefused(reason=reason, provider_code=code)


async def close_unpaid(reference: Reference, status: TopUpStatus, decline_reason: str | None) -> None:
    """Set a PENDING top-up to FAILED or EXPIRED. A later payment is still credited."""

    async def decide(posting: Posting) -> None:
        top_up = rows.TOP_UPS.read(posting.rows[0][0])
        if top_up.status is TopUpStatus.PENDING:
            changed = top_up._replace(status=status, decline_reason=decline_reason or top_up.decline_reason)
            rows.update_top_up(posting.write, changed, status_before=top_up.status)

    await posting.post([reference.account_id], decide, reads=[rows.select_top_up(*reference)])


async def _open_checkout(top_up: TopUpRow, provider: PaymentProvider) -> TopUpRow:
    """Return the top-up with its checkout. If the checkout is not known yet, the provider opens it.

    Raises: PaymentRefused: the provider refuses it, now or when the top-up was begun; Unavailable.
    """
    if (refusal := find_refusal(top_up)) is not None:
        raise refusal
    if top_up.payment_url is not None or top_up.status is not TopUpStatus.PENDING or top_up.provider != provider.name:
        return top_up

    async def open_checkout(customer_ref: str | None) -> CheckoutPage:
        return await provider.open_checkout(
            CheckoutRequest(
                reference=top_up.reference,
                description=counted(top_up.credits, "credit"),
                amount_minor=top_up.amount_minor,
                currency=top_up.currency,
                return_url=top_up.return_url,
                customer_ref=customer_ref,
                saves_card=top_up.saves_card,
            )
        )

    try:
        # A customer is needed only if the card is saved. Whether one is sent depends only on the top-up, because
        # repeated requests must be identical.
        if top_up.saves_card:
            checkout = await customers.call_with_customer(top_up.account_id, provider, open_checkout)
        else:
            checkout = await open_checkout(None)
    except PaymentRefused as error:
        reference = Reference(top_up.account_id, top_up.id)
        await close_unpaid(reference, TopUpStatus.FAILED, refusal_text(error))
        raise
    return await rows.record_checkout(top_up, provider_ref=checkout.provider_ref, payment_url=checkout.payment_url)
