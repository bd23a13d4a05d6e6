"""Granting credits, and taking back what is unspent: with a reason and a key, and never touching a card."""

from dataclasses import dataclass
from datetime import datetime

from app.audit_log.records import AuditContext
from app.credits import check_amount, check_key
from app.errors import GrantNotFound, InvalidInput, Problem
from app.ledger import accounts, idempotency, posting, queries
from app.ledger.posting import Posting
from app.ledger.rules import balance_changes
from app.ledger.rules.account_state import AccountBalance, AccountState, Cause, GrantSource, GrantState, LedgerEntry

MAX_PRIORITY = 1_000
MAX_REASON_LENGTH = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantResult:
    """A grant after the call. `entry` is None for one that starts later, and where nothing was left to revoke."""

    owner_id: str
    grant: GrantState
    entry: LedgerEntry | None
    balance: AccountBalance
    replayed: bool
    revoked_credits: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantRequest:
    """A lot of credits to add. `priority`: lower burns first, within ±1,000."""

    owner_id: str
    credits: int
    source: GrantSource
    priority: int = 0
    starts_at: datetime | None = None
    expires_at: datetime | None = None
    pays_debt: bool | None = None
    """Whether debt may be paid of it; None: unless it is promotional."""
    reason: str
    key: str
    actor: str
    request_id: str | None = None
    audit: AuditContext | None = None

    def check(self) -> None:
        """Raises: InvalidInput, naming every problem."""
        check_key(self.key, path="idempotencyKey")
        check_amount(self.credits)
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
            # It came later: what was asked for without it keeps its fingerprint.
            | ({} if self.pays_debt is None else {"paysDebt": self.pays_debt}),
        )


def reason_problems(reason: str) -> list[Problem]:
    """What is wrong with a reason: it must say something, in 1,000 characters."""
    if reason.strip() and len(reason) <= MAX_REASON_LENGTH and "\x00" not in reason:
        return []
    return [Problem("reason", f"must say why, in 1 to {MAX_REASON_LENGTH:,} characters")]


async def grant_credits(request: GrantRequest) -> GrantResult:
    """Add a lot of credits to an owner's account, making the account if this is its first write.

    Raises: InvalidInput, IdempotencyConflict, BalanceLimitReached.
    """
    request.check()
    account_id = await accounts.get_or_create_account(request.owner_id)
    print_ = request.request_hash()

    async def decide(posting: Posting) -> GrantResult:
        book = posting.accounts[account_id]
        if (first := await idempotency.find_result(posting, book, request.key, print_)) is not None:
            return await _replay(posting, book, first)
        if request.expires_at is not None and request.expires_at <= book.at:
            raise InvalidInput.at("expiresAt", f"must lie ahead; it is now {book.at.isoformat()}")
        before = book.balance().audit_fields()
        lot, entry = balance_changes.add_grant(
            book,
            request.credits,
            Cause(actor=request.actor, reason=request.reason, request_id=request.request_id),
            source=request.source,
            priority=request.priority,
            starts_at=request.starts_at,
            expires_at=request.expires_at,
            pays_debt=request.pays_debt,
        )
        result = {"grant": lot.number, "seq": entry.line.seq if entry else None}
        idempotency.save_result(posting, book, request.key, kind="grantCredits", request_hash=print_, result=result)
        after = book.balance().audit_fields() | {"credits": request.credits, "source": request.source}
        posting.record_audit(
            request.audit, book, subject=f"grant {lot.number}", reason=request.reason, before=before, after=after
        )
        return GrantResult(owner_id=book.owner_id, grant=lot, entry=entry, balance=book.balance(), replayed=False)

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
    """Take back the unspent, unclaimed part of a grant; one that has not started never will.

    Raises: InvalidInput, GrantNotFound, IdempotencyConflict.
    """
    check_key(key, path="idempotencyKey")
    if problems := reason_problems(reason):
        raise InvalidInput(problems=problems)
    print_ = idempotency.hash_request("revokeGrant", {"grant": number, "reason": reason})

    async def decide(posting: Posting) -> GrantResult:
        book = posting.accounts.get(account_id)
        if book is None:
            raise GrantNotFound(grant_id=str(number))
        if (first := await idempotency.find_result(posting, book, key, print_)) is not None:
            return await _replay(posting, book, first)
        await posting.load_grants(book, [number])
        lot = book.grants.get(number)
        if lot is None:
            raise GrantNotFound(grant_id=str(number))
        before = book.balance().audit_fields() | {"remaining": lot.remaining}
        credits, entry = balance_changes.revoke_grant(
            book, lot, Cause(actor=actor, reason=reason, request_id=request_id)
        )
        result = {"grant": number, "seq": entry.line.seq if entry else None, "revoked": credits}
        idempotency.save_result(posting, book, key, kind="revokeGrant", request_hash=print_, result=result)
        after = book.balance().audit_fields() | {"remaining": lot.remaining}
        posting.record_audit(audit, book, subject=f"grant {number}", reason=reason, before=before, after=after)
        return GrantResult(
            owner_id=book.owner_id,
            grant=lot,
            entry=entry,
            balance=book.balance(),
            replayed=False,
            revoked_credits=credits,
        )

    return await posting.post([account_id], decide)


async def _replay(posting: Posting, book: AccountState, first: dict[str, object]) -> GrantResult:
    """The first result's grant, as it stands today, and its first entry."""
    number, seq, revoked = first["grant"], first["seq"], first.get("revoked", 0)
    if not isinstance(number, int) or not isinstance(revoked, int):
        raise TypeError("an operation's result is not a grant's")
    await posting.load_grants(book, [number])
    entry = None
    if isinstance(seq, int):
        entry_key = (book.account_id, seq)
        entry = (await queries.get_entries([entry_key], connection=posting.connection))[entry_key]
    return GrantResult(
        owner_id=book.owner_id,
        grant=book.grants[number],
        entry=entry,
        balance=book.balance(),
        replayed=True,
        revoked_credits=revoked,
    )
