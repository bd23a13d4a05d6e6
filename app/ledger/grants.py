"""Grants credits and revokes grants. Both need a reason and an idempotency key, but no payment."""

from dataclasses import dataclass
from datetime import datetime

from app.audit_log.records import AuditContext
from app.credits import check_amount, check_key, is_storable
from app.errors import GrantNotFound, InvalidInput, Problem
from app.instants import check_instant
from app.ledger import accounts, idempotency, posting, queries
from app.ledger.posting import Posting
from app.ledger.rules import balance_changes
from app.ledger.rules.account_state import AccountBalance, AccountState, Cause, GrantSource, GrantState, LedgerEntry

MAX_PRIORITY = 1_000
MAX_REASON_LENGTH = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantResult:
    """The result of granting or revoking.

    `entry` is None if the grant starts later, or if there were no credits left to revoke.
    """

    owner_id: str
    grant: GrantState
    entry: LedgerEntry | None
    balance: AccountBalance
    replayed: bool
    revoked_credits: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantRequest:
    """A request to grant credits.

    Grants with the lowest `priority` (-1,000 to 1,000) are spent first. `pays_debt` says whether debt may be paid from
    the grant; if it is None, debt may be paid unless the grant is promotional.
    """

    owner_id: str
    credits: int
    source: GrantSource
    priority: int = 0
    starts_at: datetime | None = None
    expires_at: datetime | None = None
    pays_debt: bool | None = None
    reason: str
    key: str
    actor: str
    request_id: str | None = None
    audit: AuditContext | None = None

    def check(self) -> None:
        """Raises: InvalidInput: lists every problem."""
        check_key(self.key, path="idempotencyKey")
        check_amount(self.credits)
        for path, instant in (("startsAt", self.starts_at), ("expiresAt", self.expires_at)):
            if instant is not None:
                check_instant(instant, path=path)
        problems = []
        if abs(self.priority) > MAX_PRIORITY:
            problems.append(Problem("priority", f"must lie between -{MAX_PRIORITY:,} and {MAX_PRIORITY:,}"))
        problems += reason_problems(self.reason)
        if self.starts_at and self.expires_at and self.expires_at <= self.starts_at:
            problems.append(Problem("expiresAt", "must come after startsAt"))
        if problems:
            raise InvalidInput(problems=problems)

    def request_hash(self) -> bytes:
        return idempotency.hash_request(
            "grantCredits",
            {
                "credits": self.credits,
                "source": self.source.value,
                "priority": self.priority,
                "startsAt": self.starts_at,
                "expiresAt": self.expires_at,
                "reason": self.reason,
            }
            # This field was added later. Without it the hash is the same as before, so stored hashes still match.
            | ({} if self.pays_debt is None else {"paysDebt": self.pays_debt}),
        )


def reason_problems(reason: str) -> list[Problem]:
    """Return the problems of a reason. It must have 1 to 1,000 characters, and not only spaces."""
    if reason.strip() and len(reason) <= MAX_REASON_LENGTH and is_storable(reason):
        return []
    return [Problem("reason", f"must say why, in 1 to {MAX_REASON_LENGTH:,} characters")]


async def grant_credits(request: GrantRequest) -> GrantResult:
    """Add a grant to an owner's account. Creates the account if it does not exist.

    Raises: InvalidInput, IdempotencyConflict, BalanceLimitReached.
    """
    request.check()
    account_id = await accounts.get_or_create_account(request.owner_id)
    request_hash = request.request_hash()

    async def decide(posting: Posting) -> GrantResult:
        account = posting.accounts[account_id]
        if (first := await idempotency.find_result(posting, account, request.key, request_hash)) is not None:
            return await _replay(posting, account, first)
        if request.expires_at is not None and request.expires_at <= account.at:
            raise InvalidInput.at("expiresAt", f"must be in the future; it is now {account.at.isoformat()}")
        before = account.balance().audit_fields()
        grant, entry = balance_changes.add_grant(
            account,
            request.credits,
            Cause(actor=request.actor, reason=request.reason, request_id=request.request_id),
            source=request.source,
            priority=request.priority,
            starts_at=request.starts_at,
            expires_at=request.expires_at,
            pays_debt=request.pays_debt,
        )
        idempotency.save_result(
            posting,
            account,
            request.key,
            kind="grantCredits",
            request_hash=request_hash,
            result={"grant": grant.number, "seq": entry.seq if entry else None},
        )
        posting.record_audit(
            request.audit,
            account,
            subject=f"grant {grant.number}",
            reason=request.reason,
            before=before,
            after=account.balance().audit_fields() | {"credits": request.credits, "source": request.source},
        )
        return GrantResult(
            owner_id=account.owner_id, grant=grant, entry=entry, balance=account.balance(), replayed=False
        )

    return await posting.post([account_id], decide)


async def revoke_grant(
    account_id: int,
    number: int,
    *,
    reason: str,
    key: str,
    actor: str,
    request_id: str | None = None,
    audit: AuditContext | None = None,
) -> GrantResult:
    """Remove the credits of a grant that are neither spent, claimed nor frozen.

    If the grant has not started, it is closed and never starts.
    Raises: InvalidInput, GrantNotFound, IdempotencyConflict.
    """
    check_key(key, path="idempotencyKey")
    if problems := reason_problems(reason):
        raise InvalidInput(problems=problems)
    request_hash = idempotency.hash_request("revokeGrant", {"grant": number, "reason": reason})

    async def decide(posting: Posting) -> GrantResult:
        account = posting.accounts.get(account_id)
        if account is None:
            raise GrantNotFound(grant_id=str(number))
        if (first := await idempotency.find_result(posting, account, key, request_hash)) is not None:
            return await _replay(posting, account, first)
        await posting.load_grants(account, [number])
        grant = account.grants.get(number)
        if grant is None:
            raise GrantNotFound(grant_id=str(number))
        before = account.balance().audit_fields() | {"remaining": grant.remaining}
        cause = Cause(actor=actor, reason=reason, request_id=request_id)
        credits, entry = balance_changes.revoke_grant(account, grant, cause)
        idempotency.save_result(
            posting,
            account,
            key,
            kind="revokeGrant",
            request_hash=request_hash,
            result={"grant": number, "seq": entry.seq if entry else None, "revoked": credits},
        )
        posting.record_audit(
            audit,
            account,
            subject=f"grant {number}",
            reason=reason,
            before=before,
            after=account.balance().audit_fields() | {"remaining": grant.remaining},
        )
        return GrantResult(
            owner_id=account.owner_id,
            grant=grant,
            entry=entry,
            balance=account.balance(),
            replayed=False,
            revoked_credits=credits,
        )

    return await posting.post([account_id], decide)


async def _replay(posting: Posting, account: AccountState, first: dict[str, object]) -> GrantResult:
    """Return the result of the first call, but with the current balance and grant."""
    number, seq, revoked = first["grant"], first["seq"], first.get("revoked", 0)
    if not isinstance(number, int) or not isinstance(revoked, int):
        raise TypeError("the result of the operation is not that of a grant")
    await posting.load_grants(account, [number])
    entry = None
    if isinstance(seq, int):
        entry_key = (account.account_id, seq)
        entry = (await queries.get_entries([entry_key], connection=posting.connection))[entry_key]
    return GrantResult(
        owner_id=account.owner_id,
        grant=account.grants[number],
        entry=entry,
        balance=account.balance(),
        replayed=True,
        revoked_credits=revoked,
    )
