"""Auto top-up: an account buys credits by itself, on its owner's word and within its owner's caps.

`configure` is the only way on. `consider` decides under the account's lock from the account's rows and claims the
intent, a PENDING top-up, before the provider is called; a unique index allows one for each account. The intent stays
whatever the call does: where its outcome is unknown, `reconcile` asks the provider by the reference, and nothing is
paid again before that is known.
"""

import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

from app.credits import check_key
from app.errors import InvalidInput, Unavailable
from app.ledger import accounts, lines, notices, operations, posting, sight, statements
from app.ledger.book import Book, Figures
from app.ledger.notices import NoticeKind
from app.ledger.posting import Posting
from app.ledger.sight import Owners
from app.topups import asking, rows
from app.topups.provider import PaymentProvider, SavedCharge
from app.topups.refills import auto_rows, auto_rules
from app.topups.refills.auto_rows import Card, Standing
from app.topups.refills.auto_rules import OFF, Buy, Level, Reason, Skip, State, Wishes
from app.topups.rules import Payment, PaymentState, Reference, Status, Terms, TopUpState
from app.topups.settling import settle
from app.trail.records import Act

ACTOR: Final = "auto-top-up"
UNKNOWN_SECONDS: Final = 180.0
"""After this the provider is asked what became of a call without an answer."""
OPEN_SECONDS: Final = 24 * 3_600.0
"""After this a payment that its owner does not confirm is given up."""
_CALL_SECONDS: Final = 60.0
"""A claim that is older is not called for: it is reconciled, perhaps by now."""
_AT_ONCE: Final = 100

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRequest:
    """What an owner asks of auto top-up. `key` None: no replay is remembered.

    `owner_ids`: whose account it may be; None: anybody's.
    """

    owner_id: str
    wishes: Wishes
    consent_version: str | None
    key: str | None = None
    actor: str
    owner_ids: Owners = None
    act: Act | None = None

    def fingerprint(self) -> bytes:
        wishes = {name: getattr(self.wishes, name) for name in Wishes.__slots__}
        return operations.fingerprint("setAutoTopUp", wishes | {"consentVersion": self.consent_version})


@dataclass(frozen=True, slots=True)
class SetDone:
    """The account after the call. `replayed`: the same call had done it before."""

    balance: Figures
    replayed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Auto top-up as people see it. `reason` None: it would buy now, or waits for the balance to fall."""

    wishes: Wishes
    consent_version: str | None
    consent_at: datetime | None
    state: State
    reason: Reason | None
    next_eligible_at: datetime | None
    action_url: str | None
    spent_this_month: int


@dataclass(frozen=True, slots=True)
class _Intent:
    top_up: TopUpState
    card: Card


async def configure(request: SetRequest, terms: Terms) -> SetDone:
    """Switch on with these wishes, or off: off needs nothing else and cannot be refused.

    Raises, when switching on: InvalidInput, IdempotencyConflict; and always: Forbidden: it is another's account.
    """
    sight.check_own(request.owner_id, owner_ids=request.owner_ids)
    if not request.wishes.enabled:
        return await _switch_off(request)
    if problems := auto_rules.problems(request.wishes, terms, request.consent_version):
        raise InvalidInput(problems)
    if request.key is not None:
        check_key(request.key, path="idempotencyKey")
    account_id = await accounts.ensure(request.owner_id)
    print_ = request.fingerprint()

    async def decide(posting: Posting) -> SetDone:
        book = posting.books[account_id]
        sight.check_own(book.owner_id, owner_ids=request.owner_ids)
        if request.key is not None:
            if await operations.replayed(posting, book, request.key, print_) is not None:
                return SetDone(book.figures(), replayed=True)
            result = {"consentVersion": request.consent_version, "actor": request.actor}
            operations.remember(posting, book, request.key, kind="setAutoTopUp", print_=print_, result=result)
        auto_rows.set_on(posting.write, book, request.wishes, request.consent_version or "", request.actor)
        notices.clear(book, posting.write, NoticeKind.AUTO_TOP_UP_BLOCKED)
        lines.move_on(book)
        _leave(posting, book, request)
        return SetDone(book.figures(), replayed=False)

    return await posting.post([account_id], decide, reads=[auto_rows.read_wishes(account_id)])


async def _switch_off(request: SetRequest) -> SetDone:
    account_id = await accounts.find(request.owner_id)
    if account_id is None:
        return SetDone(await statements.nothing(request.owner_id), replayed=False)

    async def decide(posting: Posting) -> SetDone:
        book = posting.books[account_id]
        sight.check_own(book.owner_id, owner_ids=request.owner_ids)
        auto_rows.set_off(posting.write, book)
        notices.clear(book, posting.write, NoticeKind.AUTO_TOP_UP_BLOCKED)
        lines.move_on(book)
        _leave(posting, book, request)
        return SetDone(book.figures(), replayed=False)

    return await posting.post([account_id], decide, reads=[auto_rows.read_wishes(account_id)])


def _leave(posting: Posting, book: Book, request: SetRequest) -> None:
    before = dict(zip(Wishes.__slots__, posting.rows[0][0], strict=True)) if posting.rows[0] else None
    after = {name: getattr(request.wishes, name) for name in Wishes.__slots__} if request.wishes.enabled else None
    posting.leave(request.act, book, subject="auto top-up", before=before, after=after or {"enabled": False})


async def consider(account_id: int, provider: PaymentProvider, terms: Terms) -> Buy | Skip:
    """Buy credits for an account if its owner's wishes, its balance and its history say so. Never inside a charge.

    However many consider the same account at once, one of them buys. A provider that does not answer is no fault.
    """
    claimed_at = time.monotonic()
    found = await _claim(account_id, provider, terms)
    if isinstance(found, Skip):
        return found
    if time.monotonic() - claimed_at < _CALL_SECONDS:
        await _pay(found, provider)
        await _claim(
            account_id, provider, terms
        )  # to tell what has become of it: within the cooldown nothing is bought
    return Buy(found.top_up.credits)


async def reconcile(provider: PaymentProvider, terms: Terms) -> int:
    """Ask what became of intents without an answer, and give up those that nobody confirms. Returns: how many."""
    references = await auto_rows.unsettled(
        provider.name, unknown_seconds=UNKNOWN_SECONDS, open_seconds=OPEN_SECONDS, limit=_AT_ONCE
    )
    for reference in references:
        try:
            await _reconcile(reference, provider)
            await _claim(reference.account_id, provider, terms, looks_only=True)
        except Unavailable as refusal:
            log.warning("what became of automatic top-up %s is still unknown: %s", reference, refusal)
    return len(references)


async def views(account_ids: list[int], provider: str, terms: Terms) -> dict[int, View]:
    """Auto top-up of accounts as it stands now; those where it was never switched on are left out."""
    found = await auto_rows.find_many(account_ids, provider)
    return {account_id: _view(standing, terms, datetime.now(UTC)) for account_id, standing in found.items()}


NOTHING: Final = View(
    wishes=OFF, consent_version=None, consent_at=None, state=State.OFF, reason=Reason.DISABLED, next_eligible_at=None,
    action_url=None, spent_this_month=0,
)  # fmt: skip
"""Where it was never switched on."""


def _view(standing: Standing, terms: Terms, now: datetime) -> View:
    decision = auto_rules.decide(standing.wishes, standing.history, standing.level, terms, now)
    skip = decision if isinstance(decision, Skip) and decision.reason is not Reason.ABOVE_THRESHOLD else None
    open_ones = [one for one in standing.history.attempts if one.status is Status.PENDING]
    return View(
        wishes=standing.wishes,
        consent_version=standing.consent_version,
        consent_at=standing.consent_at,
        state=auto_rules.state_of(decision),
        reason=skip.reason if skip else None,
        next_eligible_at=skip.next_eligible_at if skip else None,
        action_url=open_ones[0].action_url if open_ones else None,
        spent_this_month=auto_rules.spent_this_month(standing.history.attempts, now),
    )


async def _claim(
    account_id: int, provider: PaymentProvider, terms: Terms, *, looks_only: bool = False
) -> _Intent | Skip:
    """Decide under the lock, write down what was found, and the intent where something is to be bought.

    `looks_only`: nothing is bought, whatever is found.
    """

    async def decide(posting: Posting) -> _Intent | Skip:
        book = posting.books.get(account_id)
        if book is None or not posting.rows[0]:
            return Skip(Reason.DISABLED)
        standing = auto_rows.standing_of(posting.rows[0][0])
        level = Level(available=book.available, owed=book.owed, frozen=book.frozen)
        found = auto_rules.decide(standing.wishes, standing.history, level, terms, book.at)
        if isinstance(found, Buy) and standing.card is not None and not looks_only:
            top_up = _top_up(book, found.credits, provider, terms)
            rows.add(posting.write, top_up)
            _note(posting, book, standing, Skip(Reason.OPEN_INTENT))
            return _Intent(top_up, standing.card)
        if standing.wishes.enabled:
            _note(posting, book, standing, found if isinstance(found, Skip) else Skip(Reason.ABOVE_THRESHOLD))
        return found if isinstance(found, Skip) else Skip(Reason.NO_CARD)

    return await posting.post([account_id], decide, reads=[auto_rows.read(account_id, provider.name)])


def _note(posting: Posting, book: Book, standing: Standing, found: Skip) -> None:
    """Write what was found; what has changed is told: by a new version, and where somebody has to act by a notice."""
    reason = None if found.reason is Reason.ABOVE_THRESHOLD else found.reason
    auto_rows.looked(
        posting.write,
        book,
        declines=auto_rules.declines(standing.history),
        reason=reason,
        next_at=found.next_eligible_at,
    )
    if reason is standing.reason and found.next_eligible_at == standing.next_eligible_at:
        return
    lines.move_on(book)
    if reason is standing.reason:
        return
    if standing.reason is not None and auto_rules.message(standing.reason):
        notices.clear(book, posting.write, NoticeKind.AUTO_TOP_UP_BLOCKED)
    if reason is not None and (message := auto_rules.message(reason)):
        notices.give(book, posting.write, NoticeKind.AUTO_TOP_UP_BLOCKED, message, subject=reason)


def _top_up(book: Book, credits: int, provider: PaymentProvider, terms: Terms) -> TopUpState:
    bonus_credits = terms.bonus_credits(credits)
    return TopUpState(
        account_id=book.account_id,
        id=uuid4().hex,
        credits=credits,
        amount_minor=terms.amount_minor(credits),
        currency=terms.currency,
        status=Status.PENDING,
        provider=provider.name,
        provider_ref=None,
        payment_url=None,
        return_url=None,
        actor=ACTOR,
        created_at=book.at,
        paid_at=None,
        bonus_credits=bonus_credits,
        bonus_days=terms.bonus_days if bonus_credits else None,
        live=provider.live,
        automatic=True,
    )


async def _pay(intent: _Intent, provider: PaymentProvider) -> None:
    """Call the provider, outside any transaction, and settle its answer."""
    top_up = intent.top_up
    try:
        payment = await provider.charge_saved(
            SavedCharge(
                reference=top_up.reference,
                description=f"{top_up.credits:,} credits (automatic)",
                amount_minor=top_up.amount_minor,
                currency=top_up.currency,
                customer_ref=intent.card.customer_ref,
                card_ref=intent.card.card_ref,
            )
        )
    except Unavailable as refusal:
        log.warning("the outcome of automatic top-up %s is unknown, it will be asked for: %s", top_up.reference,
                    refusal)  # fmt: skip
        return
    await _settle(Reference(top_up.account_id, top_up.id), payment)


async def _settle(reference: Reference, payment: Payment) -> None:
    if payment.state in {PaymentState.OPEN, PaymentState.ACTION_REQUIRED}:
        await auto_rows.answered(reference, provider_ref=payment.provider_ref, action_url=payment.action_url)
        return
    await settle(asking.asked(payment))


async def _reconcile(reference: Reference, provider: PaymentProvider) -> None:
    """Raises: Unavailable."""
    top_up = await rows.find(*reference)
    if top_up is None or top_up.status is not Status.PENDING:
        return
    if top_up.provider_ref is None:
        payment = await provider.find(top_up.reference, since=top_up.created_at)
        becomes = Status.FAILED
    else:
        payment = await provider.ask(top_up.provider_ref)
        becomes = Status.EXPIRED
    if payment is not None:
        await _settle(reference, payment)
        if becomes is Status.FAILED or payment.state is not PaymentState.ACTION_REQUIRED:
            return
    await _give_up(reference, becomes)


async def _give_up(reference: Reference, becomes: Status) -> None:
    """No money moved: FAILED, because the call never arrived, or EXPIRED. A payment that comes yet is credited."""

    async def decide(posting: Posting) -> None:
        top_up = rows.from_row(posting.rows[0][0])
        if top_up.status is Status.PENDING:
            why = auto_rules.NOT_CHARGED if becomes is Status.FAILED else top_up.decline_reason
            rows.flip(posting.write, top_up._replace(status=becomes, decline_reason=why), before=top_up.status)

    await posting.post([reference.account_id], decide, reads=[rows.read(*reference)])
