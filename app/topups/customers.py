"""Accounts at a provider: made at the first purchase that keeps a card, with the card that was kept last."""

import hashlib
from datetime import datetime
from typing import Final

from app.audit_log.records import AuditContext
from app.db import pools
from app.db.pools import Connection
from app.db.set_writes import SetStatement
from app.ledger.posting import Posting, post
from app.topups.provider import PaymentProvider
from app.topups.rules import Payment, TopUpRow

_FIND: Final = "SELECT customer_ref FROM payment_customer WHERE account_id = $1 AND provider = $2"

# Of two at once the first stays.
_NEW: Final = SetStatement(
    "new customers",
    """
    INSERT INTO payment_customer (account_id, provider, customer_ref)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[]) ON CONFLICT (account_id, provider) DO NOTHING
    RETURNING 1
    """,
    3,
    checks_row_count=False,
)

_ACCOUNT: Final = "SELECT owner_id, created_at FROM account WHERE id = $1"

# Only the customer that is ours; and a purchase that was begun before the last card was kept brings no older one back.
_CARDS: Final = SetStatement(
    "kept cards",
    """
    UPDATE payment_customer AS c SET card_ref = v.card_ref, card_label = v.card_label, card_saved_at = v.saved_at
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::timestamptz[])
        AS v(account_id, provider, customer_ref, card_ref, card_label, saved_at, begun_at)
    WHERE c.account_id = v.account_id AND c.provider = v.provider AND c.customer_ref = v.customer_ref
      AND (c.card_saved_at IS NULL OR c.card_saved_at < v.begun_at)
    RETURNING 1
    """,
    7,
    checks_row_count=False,
)


async def find_customer(account_id: int, provider: str, *, using: Connection | None = None) -> str | None:
    """The provider's customer for an account, or None."""
    if using is None:
        records = await pools.fetch(_FIND, account_id, provider)
    else:
        _, records = await using.execute_query(_FIND, [account_id, provider])
    return records[0]["customer_ref"] if records else None


async def ensure_customer(
    account_id: int, provider: PaymentProvider, audit: AuditContext | None = None, *, subject: str = ""
) -> str:
    """The provider's customer for an account, made where there is none; `act` leaves a record, in the transaction that
    writes a new one down.

    Raises: Unavailable.
    """
    known = await find_customer(account_id, provider.name)
    if known is not None and audit is None:
        return known
    ref = known or await _made(account_id, provider)

    async def keep(posting: Posting) -> str:
        kept = await find_customer(account_id, provider.name, using=posting.connection)
        if kept is None:
            posting.write.add(_NEW, (account_id, provider.name, ref))
        after = {"provider": provider.name, "customer": kept or ref}
        posting.record_audit(audit, posting.accounts[account_id], subject=subject, before=None, after=after)
        return kept or ref

    return await post([account_id], keep)


def save_card(posting: Posting, top_up: TopUpRow, payment: Payment) -> None:
    """Keep the card of a payment whose buyer consented to that; a card of any other is not kept."""
    if payment.card is None or not top_up.saves_card:
        return
    card = payment.card
    posting.write.add(
        _CARDS,
        (top_up.account_id, top_up.provider, card.customer_ref, card.card_ref, card.label, posting.at,
         top_up.created_at),
    )  # fmt: skip


async def _made(account_id: int, provider: PaymentProvider) -> str:
    """A customer of the provider's: the same one if two ask at once, by its reference."""
    [account] = await pools.fetch(_ACCOUNT, account_id)
    return await provider.create_customer(_reference(account_id, account["owner_id"], account["created_at"]))


def _reference(account_id: int, owner_id: str, created_at: datetime) -> str:
    """What names this account at the provider, and no account of another installation that sells there too."""
    print_ = hashlib.sha256(f"{owner_id} {created_at.isoformat()}".encode()).hexdigest()
    return f"{account_id}-{print_[:32]}"
