"""Buying credits: `begin` a top-up, `confirm` it on the return page. What its provider tells of it: `settling`.

The provider is called before or after a transaction, never within one.
"""

from dataclasses import dataclass
from uuid import uuid4

from app.audit_log.records import AuditContext
from app.credits import MAX_CREDITS, check_key
from app.errors import BalanceLimitReached, InvalidInput, TopUpNotFound
from app.ledger import accounts, idempotency, posting, queries
from app.ledger.posting import Posting
from app.ledger.rules.account_state import AccountBalance
from app.topups import customers, rows
from app.topups.provider import CheckoutRequest, PaymentProvider
from app.topups.provider_events import payment_query_event
from app.topups.rules import UNPAID_STATUSES, PaymentStatus, TopUpRow, TopUpStatus, TopUpTerms, find_return_url_problems
from app.topups.settlement import settle


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUpRequest:
    """What a buyer asks for. `currency` None: the one in which credits are sold."""

    owner_id: str
    credits: int
    currency: str | None = None
    return_url: str | None = None
    save_card: bool = False
    """Whether the buyer consents to later payments with this card without being there."""
    key: str
    actor: str
    audit: AuditContext | None = None

    def request_hash(self) -> bytes:
        asked = {"credits": self.credits, "currency": self.currency, "returnUrl": self.return_url}
        return idempotency.hash_request("beginTopUp", asked | ({"saveCard": True} if self.save_card else {}))


@dataclass(frozen=True, slots=True)
class BegunTopUp:
    """A top-up, and where to pay for it (`top_up.payment_url`). `replayed`: the same call had begun it before."""

    top_up: TopUpRow
    balance: AccountBalance
    replayed: bool


@dataclass(frozen=True, slots=True)
class ConfirmedTopUp:
    """A top-up and the balance, once its provider was asked."""

    top_up: TopUpRow
    balance: AccountBalance


async def begin_top_up(request: TopUpRequest, provider: PaymentProvider, terms: TopUpTerms) -> BegunTopUp:
    """Record a PENDING top-up, and get the page on which it is paid.

    The same call again gives the same top-up and page, also after a crash between our row and the provider's answer:
    the provider is then called anew, with the same reference.

    Raises: InvalidInput, IdempotencyConflict; BalanceLimitReached: the credits would not fit; Unavailable: the provider
    does not answer, and the same call may be sent again.
    """
    check_key(request.key, path="idempotencyKey")
    if problems := find_return_url_problems(request.return_url):
        raise InvalidInput(problems=problems)
    refused = terms.find_problems(request.credits, request.currency)
    # A refusal writes nothing, no account either. What was accepted once is replayed, even if the terms have changed;
    # no terms ever accepted an amount past the bound, and it has no fingerprint.
    if refused and (abs(request.credits) > MAX_CREDITS or await accounts.find_account_id(request.owner_id) is None):
        raise InvalidInput(problems=refused)
    account_id = await accounts.get_or_create_account(request.owner_id)
    print_ = request.request_hash()

    async def decide(posting: Posting) -> BegunTopUp:
        book = posting.accounts[account_id]
        if (first := await idempotency.find_result(posting, book, request.key, print_)) is not None:
            top_up = await rows.get(posting.connection, account_id, first["topUp"])
            return BegunTopUp(top_up, book.balance(), replayed=True)
        if refused:
            raise InvalidInput(problems=refused)
        bonus_credits = terms.bonus_credits(request.credits)
        if book.posted + request.credits + bonus_credits > MAX_CREDITS:
            raise BalanceLimitReached(figure="The balance")
        top_up = TopUpRow(
            account_id=account_id,
            id=uuid4().hex,
            credits=request.credits,
            amount_minor=terms.amount_minor(request.credits),
            currency=terms.currency,
            status=TopUpStatus.PENDING,
            provider=provider.name,
            provider_ref=None,
            payment_url=None,
            return_url=request.return_url,
            actor=request.actor,
            created_at=book.at,
            paid_at=None,
            bonus_credits=bonus_credits,
            bonus_days=terms.bonus_days if bonus_credits else None,
            live=provider.live,
            saves_card=request.save_card,
        )
        rows.insert_top_up(posting.write, top_up)
        after = {"status": top_up.status, "credits": top_up.credits, "amountMinor": top_up.amount_minor}
        posting.record_audit(request.audit, book, subject=f"top-up {top_up.id}", before=None, after=after)
        idempotency.save_result(
            posting, book, request.key, kind="beginTopUp", request_hash=print_, result={"topUp": top_up.id}
        )
        return BegunTopUp(top_up, book.balance(), replayed=False)

    begun = await posting.post([account_id], decide)
    return BegunTopUp(await _opened(begun.top_up, provider), begun.balance, begun.replayed)


async def confirm_top_up(
    account_id: int, top_up_id: str, provider: PaymentProvider, *, audit: AuditContext | None = None
) -> ConfirmedTopUp:
    """Ask the provider about a top-up and settle what it says: what the return page does, should it be there before the
    webhook. A top-up that is settled already is only read.

    Raises: TopUpNotFound: there is no such top-up in this account; Unavailable: the provider does not answer.
    """
    top_up = await rows.find(account_id, top_up_id)
    if top_up is None:
        raise TopUpNotFound(top_up_id=top_up_id)
    if top_up.status in UNPAID_STATUSES and top_up.provider_ref is not None and top_up.provider == provider.name:
        payment = await provider.retrieve_payment(top_up.provider_ref)
        if payment is not None and payment.status is not PaymentStatus.OPEN:
            await settle(payment_query_event(payment), audit=audit)
            top_up = await rows.find(account_id, top_up_id) or top_up
    return ConfirmedTopUp(top_up, (await queries.get_balances([account_id]))[account_id])


async def open_billing_portal(
    owner_id: str, provider: PaymentProvider, return_url: str, *, audit: AuditContext | None = None
) -> str:
    """Where an account's owner looks after cards and receipts, on a page of the provider's; none without its record.

    Raises: InvalidInput: the return address; Unavailable: the provider does not answer.
    """
    if problems := find_return_url_problems(return_url):
        raise InvalidInput(problems=problems)
    account_id = await accounts.get_or_create_account(owner_id)
    customer_ref = await customers.ensure_customer(account_id, provider, audit, subject="billing portal")
    return await provider.create_portal_session(customer_ref, return_url)


async def _opened(top_up: TopUpRow, provider: PaymentProvider) -> TopUpRow:
    """The top-up with its payment page; the provider is called only where the page is not known yet."""
    if top_up.payment_url is not None or top_up.status is not TopUpStatus.PENDING or top_up.provider != provider.name:
        return top_up
    # A customer only where the card is kept: the call must be the same whenever it is sent again.
    customer_ref = await customers.ensure_customer(top_up.account_id, provider) if top_up.saves_card else None
    checkout = await provider.open_checkout(
        CheckoutRequest(
            reference=top_up.reference,
            description=f"{top_up.credits:,} credits",
            amount_minor=top_up.amount_minor,
            currency=top_up.currency,
            return_url=top_up.return_url,
            customer_ref=customer_ref,
            saves_card=top_up.saves_card,
        )
    )
    return await rows.record_checkout(top_up, provider_ref=checkout.provider_ref, payment_url=checkout.payment_url)
