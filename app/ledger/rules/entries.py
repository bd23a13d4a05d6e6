"""Steps that all operations use: append an entry, add and expire grants, raise the version."""

from datetime import datetime

from app.credits import MAX_CREDITS
from app.errors import BalanceLimitReached
from app.ledger.rules.account_state import (
    CAUSED_BY_TIME,
    AccountState,
    Cause,
    Draws,
    EntryKind,
    GrantSource,
    GrantState,
    LedgerEntry,
)
from app.ledger.rules.hash_chain import sign_entry


def append_entry(
    account: AccountState,
    kind: EntryKind,
    credits: int,
    draws: Draws,
    cause: Cause,
    *,
    owed: int = 0,
    at: datetime | None = None,
) -> LedgerEntry:
    """Append one entry. Only this function changes `posted`, `owed`, `seq` and the hash chain.

    `credits` and `owed` are the signed changes. `at` is the time of the cause, by default `account.at`. The time of an
    entry is never earlier than that of the previous entry.
    Raises: BalanceLimitReached: the balance or the debt would exceed 2^53 - 1.
    """
    balance_after = account.posted + credits
    if balance_after > MAX_CREDITS:
        raise BalanceLimitReached(figure="The balance")
    if account.owed + owed > MAX_CREDITS:
        raise BalanceLimitReached(figure="The debt")
    when = at or account.at
    unsigned = LedgerEntry(
        account_id=account.account_id,
        seq=account.seq + 1,
        version=account.version + 1,
        kind=kind.value,
        credits=credits,
        owed=owed,
        balance_after=balance_after,
        at=when if account.last_entry_at is None or when >= account.last_entry_at else account.last_entry_at,
        actor=cause.actor,
        reason=cause.reason,
        task_id=cause.task_id,
        block_run_id=cause.block_run_id,
        top_up_id=cause.top_up_id,
        request_id=cause.request_id,
        draws=draws,
        hold_number=cause.hold_number,
        mac=b"",
    )
    key = account.signing_key
    mac = sign_entry(unsigned, previous_mac=account.last_mac, key=key.entries)
    entry = LedgerEntry(*unsigned[:-2], mac=mac, key_id=key.id)  # _replace takes three times as long
    account.seq = entry.seq
    account.version = entry.version
    account.posted = balance_after
    account.owed += owed
    account.last_mac = entry.mac
    account.last_entry_at = entry.at
    account.new_entries.append(entry)
    return entry


def bump_version(account: AccountState) -> None:
    """Raise the version without an entry, because the held credits or the tasks of the account have changed."""
    account.version += 1


def add_new_grant(
    account: AccountState,
    kind: EntryKind,
    credits: int,
    cause: Cause,
    *,
    source: GrantSource,
    priority: int = 0,
    starts_at: datetime | None = None,
    expires_at: datetime | None = None,
    pays_debt: bool = True,
) -> tuple[GrantState, LedgerEntry | None]:
    """Add a grant, with an entry of `kind`. A grant that starts later gets its entry when it starts.

    Raises: BalanceLimitReached.
    """
    number = account.grant_count + 1
    is_started = starts_at is None or starts_at <= account.at
    entry = append_entry(account, kind, credits, ((number, credits),), cause) if is_started else None
    grant = GrantState(
        account_id=account.account_id,
        number=number,
        source=source,
        credits=credits,
        remaining=credits if is_started else 0,
        claimed=0,
        priority=priority,
        starts_at=starts_at,
        expires_at=expires_at,
        is_started=is_started,
        is_open=True,
        actor=cause.actor,
        reason=cause.reason,
        top_up_id=cause.top_up_id,
        pays_debt=pays_debt,
        created_at=account.at,
    )
    account.grant_count = number
    account.grants[number] = grant
    account.new_grants.add(number)
    account.burn_order = None
    return grant, entry


def has_expired(grant: GrantState, at: datetime) -> bool:
    return grant.expires_at is not None and grant.expires_at <= at


def expire_grant(account: AccountState, grant: GrantState, at: datetime) -> list[LedgerEntry]:
    """Remove the unclaimed part of `grant`. The grant stays open until the claims on the other part are released."""
    entries: list[LedgerEntry] = []
    if credits := grant.remaining - grant.claimed:
        draws = ((grant.number, credits),)
        entries.append(append_entry(account, EntryKind.EXPIRY, -credits, draws, CAUSED_BY_TIME, at=at))
        grant.remaining -= credits
    grant.is_open = grant.remaining > 0
    account.changed_grants.add(grant.number)
    account.burn_order = None
    return entries
