"""The account's own threshold: below it the balance shows as LOW, and a notice says so once at each crossing."""

from dataclasses import dataclass

from app.audit_log.records import AuditContext
from app.credits import check_amount, check_key
from app.ledger import accounts, idempotency, notifications, owner_scope, posting
from app.ledger.notifications import NotificationKind
from app.ledger.owner_scope import OwnerScope
from app.ledger.posting import Posting
from app.ledger.rules import entries
from app.ledger.rules.account_state import AccountBalance


@dataclass(frozen=True, slots=True, kw_only=True)
class LowBalanceResult:
    """The account after the call; of a replay, as it stands today."""

    balance: AccountBalance
    replayed: bool


async def set_low_balance_threshold(
    owner_id: str,
    credits: int,
    *,
    key: str,
    actor: str,
    owner_ids: OwnerScope = None,
    audit: AuditContext | None = None,
) -> LowBalanceResult:
    """Choose below how many available credits the balance is low (0: never), making the account if need be.

    Nobody is told of a balance that the new threshold makes low: setting a threshold is no crossing. A notice that it
    contradicts is cleared. `owner_ids`: whose account it may be; None: anybody's.
    Raises: InvalidInput, IdempotencyConflict; Forbidden: it is another's, and none was made.
    """
    check_key(key, path="idempotencyKey")
    check_amount(credits, minimum=0)
    owner_scope.check_owner(owner_id, owner_ids=owner_ids)
    account_id = await accounts.get_or_create_account(owner_id)
    print_ = idempotency.hash_request("setLowBalanceThreshold", {"credits": credits})

    async def decide(posting: Posting) -> LowBalanceResult:
        book = posting.accounts[account_id]
        owner_scope.check_owner(book.owner_id, owner_ids=owner_ids)
        if await idempotency.find_result(posting, book, key, print_) is not None:
            return LowBalanceResult(balance=book.balance(), replayed=True)
        before = {"lowBalanceThreshold": book.low_balance_threshold}
        book.low_balance_threshold = credits
        entries.bump_version(book)  # what subscribers see as the balance's status depends on it
        if book.available >= credits:
            notifications.resolve(book, posting.write, NotificationKind.LOW_BALANCE)
        result = {"lowBalanceThreshold": credits, "actor": actor}
        idempotency.save_result(posting, book, key, kind="setLowBalanceThreshold", request_hash=print_, result=result)
        posting.record_audit(audit, book, subject="threshold", before=before, after={"lowBalanceThreshold": credits})
        return LowBalanceResult(balance=book.balance(), replayed=False)

    return await posting.post([account_id], decide)
