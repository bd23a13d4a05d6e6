"""Buys credits automatically, one purchase at a time.

`buy_if_needed` decides under the account's lock and inserts a PENDING top-up before the provider is called. A unique
index allows one such top-up for each account. If the outcome of the call is unknown, the top-up stays PENDING, and
nothing else is bought. `reconcile_purchases` then queries the provider by the reference.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from app.db.isolated_sweeps import IsolatedSweep
from app.errors import Unavailable
from app.ledger import notifications, posting
from app.ledger.account_events import AutoTopUpBlocked, record_event
from app.ledger.notifications import NotificationKind
from app.ledger.posting import Posting
from app.ledger.rules import entries
from app.ledger.rules.account_state import AccountState
from app.topups import customers, purchases, queries
from app.topups import rows as top_up_rows
from app.topups.auto_topup import rows, rules
from app.topups.auto_topup.rows import AutoTopUpRecord, SavedCardRefs
from app.topups.auto_topup.rules import BalanceLevel, Buy, Skip, SkipReason
from app.topups.errors import PaymentRefused
from app.topups.provider import CardMissing, CustomerMissing, PaymentProvider, SavedCardCharge
from app.topups.provider_events import payment_query_event
from app.topups.rules import Payment, PaymentStatus, Reference, TopUpRow, TopUpStatus, TopUpTerms
from app.topups.settlement import settle
from app.wording import counted

ACTOR: Final = "auto-top-up"
SWEEP_NAME: Final = "automatic top-ups of account"
"""What the log calls a purchase that could not be reconciled."""
UNKNOWN_AFTER_SECONDS: Final = 180.0
"""If a call has no answer, the provider is queried after this time."""
ABANDON_AFTER_SECONDS: Final = 24 * 3_600.0
"""A payment that its owner does not confirm is given up after this time."""
_CALL_SECONDS: Final = 60.0
"""If inserting the top-up took longer, the provider is not called. Reconciliation then queries it."""
_BATCH_SIZE: Final = 100

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Claim:
    top_up: TopUpRow
    card: SavedCardRefs


async def buy_if_needed(account_id: int, provider: PaymentProvider, terms: TopUpTerms) -> Buy | Skip:
    """Buy credits for an account if configuration, balance and earlier attempts require it.

    Never called inside a charge. Of concurrent calls for the same account only one buys. If the provider does not
    answer, nothing is raised.
    """
    started_at = time.monotonic()
    claim = await _claim(account_id, provider, terms)
    if isinstance(claim, Skip):
        return claim
    if time.monotonic() - started_at < _CALL_SECONDS:
        await _charge_card(claim, provider)
        # This check records the result of the purchase. It buys nothing, because of the cooldown.
        await _claim(account_id, provider, terms)
    return Buy(claim.top_up.credits)


async def reconcile_purchases(
    provider: PaymentProvider, terms: TopUpTerms, isolated: IsolatedSweep | None = None
) -> int:
    """Query purchases with an unknown outcome, and give up those that were not confirmed.

    `isolated` contains the accounts whose purchases failed in earlier calls. Returns: the number of purchases.
    """
    isolated = isolated or IsolatedSweep(SWEEP_NAME)
    references = await rows.find_unsettled(
        provider.name,
        unknown_seconds=UNKNOWN_AFTER_SECONDS,
        open_seconds=ABANDON_AFTER_SECONDS,
        limit=_BATCH_SIZE,
        except_accounts=isolated.items_set_aside(),
    )
    for reference in references:

        async def reconcile(account_ids: Sequence[int], reference: Reference = reference) -> int:
            try:
                await _reconcile(reference, provider)
                await _claim(reference.account_id, provider, terms, may_buy=False)
            except Unavailable as error:
                log.warning("the outcome of automatic top-up %s is still unknown: %s", reference, error)
            return len(account_ids)

        await isolated.run([reference.account_id], reconcile)
    return len(references)


async def _claim(
    account_id: int, provider: PaymentProvider, terms: TopUpTerms, *, may_buy: bool = True
) -> _Claim | Skip:
    """Decide under the lock, record the result, and insert a PENDING top-up if credits are to be bought."""

    async def decide(posting: Posting) -> _Claim | Skip:
        account = posting.accounts.get(account_id)
        if account is None or not posting.rows[0]:
            return Skip(SkipReason.DISABLED)
        record = rows.record_from_row(posting.rows[0][0])
        balance = BalanceLevel(available=account.available, owed=account.owed, frozen=account.frozen)
        at = rules.time_of_attempt(record.history, account.at)
        decision = rules.decide(record.config, record.history, balance, terms, at)
        if isinstance(decision, Buy) and record.card is not None and may_buy:
            top_up = terms.new_top_up(
                account_id=account_id,
                id=uuid4().hex,
                credits=decision.credits,
                provider=provider.name,
                live=provider.live,
                actor=ACTOR,
                created_at=at,
                automatic=True,
            )
            top_up_rows.insert_top_up(posting.write, top_up)
            _record_check(posting, account, record, Skip(SkipReason.OPEN_INTENT))
            return _Claim(top_up, record.card)
        if record.config.enabled:
            skip = decision if isinstance(decision, Skip) else Skip(SkipReason.ABOVE_THRESHOLD)
            _record_check(posting, account, record, skip)
        return decision if isinstance(decision, Skip) else Skip(SkipReason.NO_CARD)

    return await posting.post([account_id], decide, reads=[rows.select_record(account_id, provider.name)])


def _record_check(posting: Posting, account: AccountState, record: AutoTopUpRecord, skip: Skip) -> None:
    """Write the result of a check.

    A changed result raises the version, and notifies the owner if the owner must act.
    """
    reason = None if skip.reason is SkipReason.ABOVE_THRESHOLD else skip.reason
    rows.record_check(
        posting.write,
        account,
        declines=rules.count_declines(record.history),
        reason=reason,
        next_at=skip.next_eligible_at,
    )
    if reason is record.reason and skip.next_eligible_at == record.next_eligible_at:
        return
    entries.bump_version(account)
    if reason is record.reason:
        return
    if record.reason is not None and rules.describe_block(record.reason):
        notifications.resolve(account, posting.write, NotificationKind.AUTO_TOP_UP_BLOCKED)
    if reason is not None and (message := rules.describe_block(reason)):
        notifications.notify(account, posting.write, NotificationKind.AUTO_TOP_UP_BLOCKED, message, subject=reason)
        record_event(account, AutoTopUpBlocked(reason=message))


async def _charge_card(claim: _Claim, provider: PaymentProvider) -> None:
    """Call the provider outside any transaction, and settle its answer.

    If the provider refuses to begin the purchase, the top-up becomes FAILED, but does not count as declined. A card
    that the provider has deleted is removed, so that its owner is asked for another one.
    """
    top_up = claim.top_up
    reference = Reference(top_up.account_id, top_up.id)
    try:
        payment = await provider.charge_saved_card(
            SavedCardCharge(
                reference=top_up.reference,
                description=f"{counted(top_up.credits, 'credit')} (automatic)",
                amount_minor=top_up.amount_minor,
                currency=top_up.currency,
                customer_ref=claim.card.customer_ref,
                card_ref=claim.card.card_ref,
            )
        )
    except Unavailable as error:
        log.warning("the outcome of automatic top-up %s is unknown and will be queried: %s", top_up.reference, error)
        return
    except (CardMissing, CustomerMissing):
        log.warning("automatic top-up %s: the provider has deleted the card or its customer", top_up.reference)
        await customers.forget_card(top_up.account_id, provider.name, claim.card.card_ref)
        await purchases.close_unpaid(reference, TopUpStatus.FAILED, rules.CARD_DELETED)
        return
    except PaymentRefused as refusal:
        log.error("automatic top-up %s is refused: %s", top_up.reference, refusal)
        await purchases.close_unpaid(reference, TopUpStatus.FAILED, purchases.refusal_text(refusal))
        return
    await _settle(top_up, payment)


async def _settle(top_up: TopUpRow, payment: Payment) -> None:
    if payment.status in {PaymentStatus.OPEN, PaymentStatus.ACTION_REQUIRED}:
        await top_up_rows.record_checkout(top_up, provider_ref=payment.provider_ref, payment_url=payment.action_url)
        return
    await settle(payment_query_event(payment))


async def _reconcile(reference: Reference, provider: PaymentProvider) -> None:
    """Query the provider about one purchase, and settle the answer or give up the purchase. Raises: Unavailable."""
    top_up = await queries.find_top_up(*reference)
    if top_up is None or top_up.status is not TopUpStatus.PENDING:
        return
    if top_up.provider_ref is None:
        payment = await provider.find_payment(top_up.reference, since=top_up.created_at)
        final_status = TopUpStatus.FAILED
    else:
        payment = await provider.retrieve_payment(top_up.provider_ref)
        final_status = TopUpStatus.EXPIRED
    if payment is not None:
        await _settle(top_up, payment)
        if final_status is TopUpStatus.FAILED or payment.status is not PaymentStatus.ACTION_REQUIRED:
            return
    reason = rules.NOT_CHARGED if final_status is TopUpStatus.FAILED else None
    await purchases.close_unpaid(reference, final_status, reason)
