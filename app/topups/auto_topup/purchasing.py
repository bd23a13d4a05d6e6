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

from app.audit_log.records import AuditContext
from app.credits import check_key
from app.errors import InvalidInput, Unavailable
from app.ledger import accounts, idempotency, notifications, owner_scope, posting, queries
from app.ledger.notifications import NotificationKind
from app.ledger.owner_scope import OwnerScope
from app.ledger.posting import Posting
from app.ledger.rules import entries
from app.ledger.rules.account_state import AccountBalance, AccountState
from app.topups import provider_events, rows
from app.topups.auto_topup import rows as auto_rows
from app.topups.auto_topup import rules
from app.topups.auto_topup.rows import AutoTopUpRecord, SavedCardRefs
from app.topups.auto_topup.rules import OFF, AutoTopUpConfig, AutoTopUpState, BalanceLevel, Buy, Skip, SkipReason
from app.topups.provider import PaymentProvider, SavedCardCharge
from app.topups.rules import Payment, PaymentStatus, Reference, TopUpRow, TopUpStatus, TopUpTerms
from app.topups.settlement import settle

ACTOR: Final = "auto-top-up"
UNKNOWN_AFTER_SECONDS: Final = 180.0
"""After this the provider is asked what became of a call without an answer."""
ABANDON_AFTER_SECONDS: Final = 24 * 3_600.0
"""After this a payment that its owner does not confirm is given up."""
_CALL_SECONDS: Final = 60.0
"""A claim that is older is not called for: it is reconciled, perhaps by now."""
_AT_ONCE: Final = 100

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigureRequest:
    """What an owner asks of auto top-up. `key` None: no replay is remembered.

    `owner_ids`: whose account it may be; None: anybody's.
    """

    owner_id: str
    config: AutoTopUpConfig
    consent_version: str | None
    key: str | None = None
    actor: str
    owner_ids: OwnerScope = None
    audit: AuditContext | None = None

    def request_hash(self) -> bytes:
        wishes = {name: getattr(self.config, name) for name in AutoTopUpConfig.__slots__}
        return idempotency.hash_request("setAutoTopUp", wishes | {"consentVersion": self.consent_version})


@dataclass(frozen=True, slots=True)
class ConfigureResult:
    """The account after the call. `replayed`: the same call had done it before."""

    balance: AccountBalance
    replayed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoTopUpView:
    """Auto top-up as people see it. `reason` None: it would buy now, or waits for the balance to fall."""

    config: AutoTopUpConfig
    consent_version: str | None
    consent_at: datetime | None
    state: AutoTopUpState
    reason: SkipReason | None
    next_eligible_at: datetime | None
    action_url: str | None
    spent_this_month: int


@dataclass(frozen=True, slots=True)
class _Intent:
    top_up: TopUpRow
    card: SavedCardRefs


async def configure(request: ConfigureRequest, terms: TopUpTerms) -> ConfigureResult:
    """Switch on with these wishes, or off: off needs nothing else and cannot be refused.

    Raises, when switching on: InvalidInput, IdempotencyConflict; and always: Forbidden: it is another's account.
    """
    owner_scope.check_owner(request.owner_id, owner_ids=request.owner_ids)
    if not request.config.enabled:
        return await _switch_off(request)
    if problems := rules.find_problems(request.config, terms, request.consent_version):
        raise InvalidInput(problems=problems)
    if request.key is not None:
        check_key(request.key, path="idempotencyKey")
    account_id = await accounts.get_or_create_account(request.owner_id)
    print_ = request.request_hash()

    async def decide(posting: Posting) -> ConfigureResult:
        book = posting.accounts[account_id]
        owner_scope.check_owner(book.owner_id, owner_ids=request.owner_ids)
        if request.key is not None:
            if await idempotency.find_result(posting, book, request.key, print_) is not None:
                return ConfigureResult(book.balance(), replayed=True)
            result = {"consentVersion": request.consent_version, "actor": request.actor}
            idempotency.save_result(posting, book, request.key, kind="setAutoTopUp", request_hash=print_, result=result)
        auto_rows.enable(posting.write, book, request.config, request.consent_version or "", request.actor)
        notifications.resolve(book, posting.write, NotificationKind.AUTO_TOP_UP_BLOCKED)
        entries.bump_version(book)
        _leave(posting, book, request)
        return ConfigureResult(book.balance(), replayed=False)

    return await posting.post([account_id], decide, reads=[auto_rows.select_config(account_id)])


async def _switch_off(request: ConfigureRequest) -> ConfigureResult:
    account_id = await accounts.find_account_id(request.owner_id)
    if account_id is None:
        return ConfigureResult(await queries.empty_balance(request.owner_id), replayed=False)

    async def decide(posting: Posting) -> ConfigureResult:
        book = posting.accounts[account_id]
        owner_scope.check_owner(book.owner_id, owner_ids=request.owner_ids)
        auto_rows.disable(posting.write, book)
        notifications.resolve(book, posting.write, NotificationKind.AUTO_TOP_UP_BLOCKED)
        entries.bump_version(book)
        _leave(posting, book, request)
        return ConfigureResult(book.balance(), replayed=False)

    return await posting.post([account_id], decide, reads=[auto_rows.select_config(account_id)])


def _leave(posting: Posting, book: AccountState, request: ConfigureRequest) -> None:
    before = dict(zip(AutoTopUpConfig.__slots__, posting.rows[0][0], strict=True)) if posting.rows[0] else None
    after = (
        {name: getattr(request.config, name) for name in AutoTopUpConfig.__slots__} if request.config.enabled else None
    )
    posting.record_audit(request.audit, book, subject="auto top-up", before=before, after=after or {"enabled": False})


async def buy_if_needed(account_id: int, provider: PaymentProvider, terms: TopUpTerms) -> Buy | Skip:
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


async def reconcile_purchases(provider: PaymentProvider, terms: TopUpTerms) -> int:
    """Ask what became of intents without an answer, and give up those that nobody confirms. Returns: how many."""
    references = await auto_rows.find_unsettled(
        provider.name, unknown_seconds=UNKNOWN_AFTER_SECONDS, open_seconds=ABANDON_AFTER_SECONDS, limit=_AT_ONCE
    )
    for reference in references:
        try:
            await _reconcile(reference, provider)
            await _claim(reference.account_id, provider, terms, looks_only=True)
        except Unavailable as refusal:
            log.warning("what became of automatic top-up %s is still unknown: %s", reference, refusal)
    return len(references)


async def find_views(account_ids: list[int], provider: str, terms: TopUpTerms) -> dict[int, AutoTopUpView]:
    """Auto top-up of accounts as it stands now; those where it was never switched on are left out."""
    found = await auto_rows.find_records(account_ids, provider)
    return {account_id: _view(standing, terms, datetime.now(UTC)) for account_id, standing in found.items()}


NEVER_CONFIGURED: Final = AutoTopUpView(
    config=OFF, consent_version=None, consent_at=None, state=AutoTopUpState.OFF, reason=SkipReason.DISABLED, next_eligible_at=None,
    action_url=None, spent_this_month=0,
)  # fmt: skip
"""Where it was never switched on."""


def _view(standing: AutoTopUpRecord, terms: TopUpTerms, now: datetime) -> AutoTopUpView:
    decision = rules.decide(standing.config, standing.history, standing.balance, terms, now)
    skip = decision if isinstance(decision, Skip) and decision.reason is not SkipReason.ABOVE_THRESHOLD else None
    open_ones = [one for one in standing.history.attempts if one.status is TopUpStatus.PENDING]
    return AutoTopUpView(
        config=standing.config,
        consent_version=standing.consent_version,
        consent_at=standing.consent_at,
        state=rules.derive_state(decision),
        reason=skip.reason if skip else None,
        next_eligible_at=skip.next_eligible_at if skip else None,
        action_url=open_ones[0].action_url if open_ones else None,
        spent_this_month=rules.sum_spent_this_month(standing.history.attempts, now),
    )


async def _claim(
    account_id: int, provider: PaymentProvider, terms: TopUpTerms, *, looks_only: bool = False
) -> _Intent | Skip:
    """Decide under the lock, write down what was found, and the intent where something is to be bought.

    `looks_only`: nothing is bought, whatever is found.
    """

    async def decide(posting: Posting) -> _Intent | Skip:
        book = posting.accounts.get(account_id)
        if book is None or not posting.rows[0]:
            return Skip(SkipReason.DISABLED)
        standing = auto_rows.record_from_row(posting.rows[0][0])
        level = BalanceLevel(available=book.available, owed=book.owed, frozen=book.frozen)
        found = rules.decide(standing.config, standing.history, level, terms, book.at)
        if isinstance(found, Buy) and standing.card is not None and not looks_only:
            top_up = _top_up(book, found.credits, provider, terms)
            rows.insert_top_up(posting.write, top_up)
            _note(posting, book, standing, Skip(SkipReason.OPEN_INTENT))
            return _Intent(top_up, standing.card)
        if standing.config.enabled:
            _note(posting, book, standing, found if isinstance(found, Skip) else Skip(SkipReason.ABOVE_THRESHOLD))
        return found if isinstance(found, Skip) else Skip(SkipReason.NO_CARD)

    return await posting.post([account_id], decide, reads=[auto_rows.select_record(account_id, provider.name)])


def _note(posting: Posting, book: AccountState, standing: AutoTopUpRecord, found: Skip) -> None:
    """Write what was found; what has changed is told: by a new version, and where somebody has to act by a notice."""
    reason = None if found.reason is SkipReason.ABOVE_THRESHOLD else found.reason
    auto_rows.record_check(
        posting.write,
        book,
        declines=rules.count_declines(standing.history),
        reason=reason,
        next_at=found.next_eligible_at,
    )
    if reason is standing.reason and found.next_eligible_at == standing.next_eligible_at:
        return
    entries.bump_version(book)
    if reason is standing.reason:
        return
    if standing.reason is not None and rules.describe_block(standing.reason):
        notifications.resolve(book, posting.write, NotificationKind.AUTO_TOP_UP_BLOCKED)
    if reason is not None and (message := rules.describe_block(reason)):
        notifications.notify(book, posting.write, NotificationKind.AUTO_TOP_UP_BLOCKED, message, subject=reason)


def _top_up(book: AccountState, credits: int, provider: PaymentProvider, terms: TopUpTerms) -> TopUpRow:
    bonus_credits = terms.bonus_credits(credits)
    return TopUpRow(
        account_id=book.account_id,
        id=uuid4().hex,
        credits=credits,
        amount_minor=terms.amount_minor(credits),
        currency=terms.currency,
        status=TopUpStatus.PENDING,
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
        payment = await provider.charge_saved_card(
            SavedCardCharge(
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
    if payment.status in {PaymentStatus.OPEN, PaymentStatus.ACTION_REQUIRED}:
        await auto_rows.record_answer(reference, provider_ref=payment.provider_ref, action_url=payment.action_url)
        return
    await settle(provider_events.payment_query_event(payment))


async def _reconcile(reference: Reference, provider: PaymentProvider) -> None:
    """Raises: Unavailable."""
    top_up = await rows.find(*reference)
    if top_up is None or top_up.status is not TopUpStatus.PENDING:
        return
    if top_up.provider_ref is None:
        payment = await provider.find_payment(top_up.reference, since=top_up.created_at)
        becomes = TopUpStatus.FAILED
    else:
        payment = await provider.retrieve_payment(top_up.provider_ref)
        becomes = TopUpStatus.EXPIRED
    if payment is not None:
        await _settle(reference, payment)
        if becomes is TopUpStatus.FAILED or payment.status is not PaymentStatus.ACTION_REQUIRED:
            return
    await _give_up(reference, becomes)


async def _give_up(reference: Reference, becomes: TopUpStatus) -> None:
    """No money moved: FAILED, because the call never arrived, or EXPIRED. A payment that comes yet is credited."""

    async def decide(posting: Posting) -> None:
        top_up = rows.from_row(posting.rows[0][0])
        if top_up.status is TopUpStatus.PENDING:
            why = rules.NOT_CHARGED if becomes is TopUpStatus.FAILED else top_up.decline_reason
            rows.update_top_up(
                posting.write, top_up._replace(status=becomes, decline_reason=why), status_before=top_up.status
            )

    await posting.post([reference.account_id], decide, reads=[rows.select_top_up(*reference)])
