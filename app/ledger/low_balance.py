"""The low-balance threshold of an account. Below it the status of the balance is LOW.

Each time the balance falls below the threshold, a notification is added.
"""

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
    """The account after the call. If the request is a repetition, `balance` is the current one."""

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
    """Set the threshold (0: the balance is never low). Creates the account if it does not exist.

    If the balance is below the new threshold, no notification is added. Otherwise an existing LOW_BALANCE notification
    is resolved.
    Raises: InvalidInput, IdempotencyConflict; Forbidden: the owner is not in `owner_ids`, and no account is created.
    """
    check_key(key, path="idempotencyKey")
    check_amount(credits, minimum=0)
    owner_scope.check_owner(owner_id, owner_ids=owner_ids)
    account_id = await accounts.get_or_create_account(owner_id)
    request_hash = idempotency.hash_request("setLowBalanceThreshold", {"credits": credits})

    async def decide(posting: Posting) -> LowBalanceResult:
        account = posting.accounts[account_id]
        owner_scope.check_owner(account.owner_id, owner_ids=owner_ids)
        if await idempotency.find_result(posting, account, key, request_hash) is not None:
            return LowBalanceResult(balance=account.balance(), replayed=True)
        before = {"lowBalanceThreshold": account.low_balance_threshold}
        account.low_balance_threshold = credits
        entries.bump_version(account)  # because the status of the balance depends on the threshold
        if account.available >= credits:
            notifications.resolve(account, posting.write, NotificationKind.LOW_BALANCE)
        result = {"lowBalanceThreshold": credits, "actor": actor}
        idempotency.save_result(
            posting, account, key, kind="setLowBalanceThreshold", request_hash=request_hash, result=result
        )
        after = {"lowBalanceThreshold": credits}
        posting.record_audit(audit, account, subject="threshold", before=before, after=after)
        return LowBalanceResult(balance=account.balance(), replayed=False)

    return await posting.post([account_id], decide)
