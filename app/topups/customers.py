"""Customers at the payment provider. An account gets one when it first saves a card. Only the newest card is stored.

If the provider has deleted a customer, the next call replaces it. A deleted card is removed.
"""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from app.audit_log.records import AuditContext
from app.db import pools
from app.db.set_writes import SetStatement
from app.db.tables import RowSelect
from app.errors import Unavailable
from app.ledger.models import Account
from app.ledger.posting import ExtraRead, Posting, post
from app.topups.models import PaymentCustomer
from app.topups.provider import REPLACED_MARK, CustomerMissing, PaymentProvider
from app.topups.rules import Payment, TopUpRow

T = TypeVar("T")

_SELECT: Final = RowSelect(
    ["c.customer_ref"], "FROM payment_customer AS c WHERE c.account_id = $1::bigint AND c.provider = $2"
)

# If two inserts are concurrent, the first row stays.
_INSERT: Final = SetStatement(
    "new customers",
    """
    INSERT INTO payment_customer (account_id, provider, customer_ref)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[]) ON CONFLICT (account_id, provider) DO NOTHING
    RETURNING 1
    """,
    3,
    checks_row_count=False,
)

# A card is saved only for our own customer, and only if the payment began after the last card was saved. So an older
# card never replaces a newer one.
_SAVE_CARD: Final = SetStatement(
    "saved cards",
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


# The card is removed, because it belonged to the deleted customer. If two processes replace a customer concurrently,
# both get the same new customer.
_REPLACE: Final = """
    UPDATE payment_customer SET customer_ref = $4, card_ref = NULL, card_label = NULL, card_saved_at = NULL
    WHERE account_id = $1 AND provider = $2 AND customer_ref = $3
"""

_FORGET_CARD: Final = """
    UPDATE payment_customer SET card_ref = NULL, card_label = NULL
    WHERE account_id = $1 AND provider = $2 AND card_ref = $3
"""


async def find_customer(account_id: int, provider: str) -> str | None:
    """Return the provider's customer id for an account, or None."""
    customer = await PaymentCustomer.get_or_none(account_id=account_id, provider=provider)
    return customer.customer_ref if customer is not None else None


async def ensure_customer(
    account_id: int, provider: PaymentProvider, audit: AuditContext | None = None, *, subject: str = ""
) -> str:
    """Return the provider's customer id for an account. Creates the customer if there is none.

    If `audit` is given, an audit record about `subject` is written in the transaction that stores a new customer.
    Raises: Unavailable.
    """
    known = await find_customer(account_id, provider.name)
    if known is not None and audit is None:
        return known
    ref = known or await _create_customer(account_id, provider)

    async def decide(posting: Posting) -> str:
        stored = posting.rows[0][0]["customer_ref"] if posting.rows[0] else None
        if stored is None:
            posting.write.add(_INSERT, (account_id, provider.name, ref))
        after = {"provider": provider.name, "customer": stored or ref}
        posting.record_audit(audit, posting.accounts[account_id], subject=subject, before=None, after=after)
        return stored or ref

    return await post([account_id], decide, reads=[ExtraRead(_SELECT, (account_id, provider.name))])


async def call_with_customer(
    account_id: int,
    provider: PaymentProvider,
    call: Callable[[str], Awaitable[T]],
    audit: AuditContext | None = None,
    *,
    subject: str = "",
) -> T:
    """Call the provider with the account's customer. If the provider has deleted the customer, replace it, call again.

    Raises: Unavailable, PaymentRefused.
    """
    customer_ref = await ensure_customer(account_id, provider, audit, subject=subject)
    try:
        return await call(customer_ref)
    except CustomerMissing:
        new_ref = await _create_customer(account_id, provider, replaces=customer_ref)
    await pools.fetch(_REPLACE, account_id, provider.name, customer_ref, new_ref)
    try:
        return await call(new_ref)
    except CustomerMissing as error:
        raise Unavailable(
            "The payment provider does not find the customer that it has just created: try again shortly."
        ) from error


async def forget_card(account_id: int, provider: str, card_ref: str) -> None:
    """Remove a card that was deleted at the provider, unless another one was saved meanwhile."""
    await pools.fetch(_FORGET_CARD, account_id, provider, card_ref)


def save_card(posting: Posting, top_up: TopUpRow, payment: Payment) -> None:
    """Store the card of a payment if the buyer consented to that."""
    if payment.card is None or not top_up.saves_card:
        return
    card = payment.card
    posting.write.add(
        _SAVE_CARD,
        (
            top_up.account_id, top_up.provider, card.customer_ref, card.card_ref, card.label,
            max(posting.accounts[top_up.account_id].at, top_up.created_at), top_up.created_at,
        ),
    )  # fmt: skip


async def _create_customer(account_id: int, provider: PaymentProvider, *, replaces: str | None = None) -> str:
    """Create a customer.

    Its reference differs from the references of other installations that use the same account at the provider, and from
    the reference of the customer that it replaces.
    """
    account = await Account.get(id=account_id)
    digest = hashlib.sha256(f"{account.owner_id} {account.created_at.isoformat()}".encode()).hexdigest()
    mark = "" if replaces is None else f"{REPLACED_MARK}{replaces}"
    return await provider.create_customer(f"{account_id}-{digest[:32]}{mark}")
