"""Enables, disables and shows auto top-up. Only the account's owner can enable it, with consent."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Final

from app.audit_log.records import AuditContext
from app.credits import check_key
from app.errors import InvalidInput
from app.ledger import accounts, idempotency, notifications, owner_scope, posting
from app.ledger import queries as ledger_queries
from app.ledger.notifications import NotificationKind
from app.ledger.owner_scope import OwnerScope
from app.ledger.posting import Posting
from app.ledger.rules import entries
from app.ledger.rules.account_state import AccountBalance, AccountState
from app.topups.auto_topup import rows, rules
from app.topups.auto_topup.rows import AutoTopUpRecord
from app.topups.auto_topup.rules import OFF, AutoTopUpConfig, AutoTopUpState, Skip, SkipReason
from app.topups.rules import TopUpStatus, TopUpTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigureRequest:
    """A request to enable or disable auto top-up. If `key` is None, repeated requests are not recognized.

    If `owner_ids` is given, the caller can change only accounts of these owners.
    """

    owner_id: str
    config: AutoTopUpConfig
    consent_version: str | None
    key: str | None = None
    actor: str
    owner_ids: OwnerScope = None
    audit: AuditContext | None = None

    def request_hash(self) -> bytes:
        content = asdict(self.config) | {"consentVersion": self.consent_version}
        return idempotency.hash_request("setAutoTopUp", content)


@dataclass(frozen=True, slots=True)
class ConfigureResult:
    """The account's balance after the call. `replayed` is True if an earlier call made the change."""

    balance: AccountBalance
    replayed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoTopUpView:
    """Auto top-up as users see it.

    `reason`: why nothing can be bought now; None if a purchase can begin when the balance falls below the threshold.
    `is_under_way`: a purchase is in progress, or begins now, without an action of the owner.
    """

    config: AutoTopUpConfig
    consent_version: str | None
    consent_at: datetime | None
    state: AutoTopUpState
    reason: SkipReason | None
    next_eligible_at: datetime | None
    action_url: str | None
    is_under_way: bool
    spent_this_month: int


NEVER_CONFIGURED: Final = AutoTopUpView(
    config=OFF,
    consent_version=None,
    consent_at=None,
    state=AutoTopUpState.OFF,
    reason=SkipReason.DISABLED,
    next_eligible_at=None,
    action_url=None,
    is_under_way=False,
    spent_this_month=0,
)


async def configure(request: ConfigureRequest, terms: TopUpTerms) -> ConfigureResult:
    """Enable auto top-up with a configuration, or disable it. Disabling requires only the owner.

    Raises: Forbidden: the account belongs to another owner; when enabling also InvalidInput, IdempotencyConflict.
    """
    owner_scope.check_owner(request.owner_id, owner_ids=request.owner_ids)
    if request.key is not None:
        check_key(request.key, path="idempotencyKey")
    if not request.config.enabled:
        return await _disable(request)
    if problems := rules.find_problems(request.config, terms, request.consent_version):
        raise InvalidInput(problems=problems)
    account_id = await accounts.get_or_create_account(request.owner_id)
    request_hash = request.request_hash()

    async def decide(posting: Posting) -> ConfigureResult:
        account = posting.accounts[account_id]
        owner_scope.check_owner(account.owner_id, owner_ids=request.owner_ids)
        if request.key is not None:
            if await idempotency.find_result(posting, account, request.key, request_hash) is not None:
                return ConfigureResult(account.balance(), replayed=True)
            result = {"consentVersion": request.consent_version, "actor": request.actor}
            idempotency.save_result(
                posting, account, request.key, kind="setAutoTopUp", request_hash=request_hash, result=result
            )
        rows.enable(posting.write, account, request.config, request.consent_version or "", request.actor)
        return _finish(posting, account, request)

    return await posting.post([account_id], decide, reads=[rows.select_config(account_id)])


async def find_views(account_ids: list[int], provider: str, terms: TopUpTerms) -> dict[int, AutoTopUpView]:
    """Return the current auto top-up of each account in which it was ever enabled."""
    now = datetime.now(UTC)
    found = await rows.find_records(account_ids, provider)
    return {account_id: _build_view(record, terms, now) for account_id, record in found.items()}


async def _disable(request: ConfigureRequest) -> ConfigureResult:
    account_id = await accounts.find_account_id(request.owner_id)
    if account_id is None:
        return ConfigureResult(await ledger_queries.empty_balance(request.owner_id), replayed=False)

    async def decide(posting: Posting) -> ConfigureResult:
        account = posting.accounts[account_id]
        owner_scope.check_owner(account.owner_id, owner_ids=request.owner_ids)
        rows.disable(posting.write, account)
        return _finish(posting, account, request)

    return await posting.post([account_id], decide, reads=[rows.select_config(account_id)])


def _finish(posting: Posting, account: AccountState, request: ConfigureRequest) -> ConfigureResult:
    notifications.resolve(account, posting.write, NotificationKind.AUTO_TOP_UP_BLOCKED)
    entries.bump_version(account)
    [stored] = posting.rows
    after = asdict(request.config) if request.config.enabled else {"enabled": False}
    posting.record_audit(
        request.audit, account, subject="auto top-up", before=stored[0] if stored else None, after=after
    )
    return ConfigureResult(account.balance(), replayed=False)


def _build_view(record: AutoTopUpRecord, terms: TopUpTerms, now: datetime) -> AutoTopUpView:
    decision = rules.decide(record.config, record.history, record.balance, terms, now)
    skip = decision if isinstance(decision, Skip) and decision.reason is not SkipReason.ABOVE_THRESHOLD else None
    pending = [attempt for attempt in record.history.attempts if attempt.status is TopUpStatus.PENDING]
    return AutoTopUpView(
        config=record.config,
        consent_version=record.consent_version,
        consent_at=record.consent_at,
        state=rules.derive_state(decision),
        reason=skip.reason if skip else None,
        next_eligible_at=skip.next_eligible_at if skip else None,
        action_url=pending[0].action_url if pending else None,
        is_under_way=isinstance(decision, rules.Buy) or decision.reason is SkipReason.OPEN_INTENT,
        spent_this_month=rules.sum_spent_this_month(record.history.attempts, now),
    )
