"""SQL of the table `auto_top_up`, and reads that find accounts and purchases to check."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from app.db import pools
from app.db.set_writes import SetStatement, SetWrite
from app.db.tables import RowSelect, Table
from app.ledger.posting import ExtraRead
from app.ledger.rules.account_state import AccountState
from app.topups import models
from app.topups.auto_topup.rules import Attempt, AttemptHistory, AutoTopUpConfig, BalanceLevel, SkipReason
from app.topups.rules import Reference, TopUpStatus

CONFIGS: Final = Table(models.AutoTopUp, AutoTopUpConfig, key=("account_id",))
"""The columns of `auto_top_up` that the owner configures."""

_ATTEMPT: Final = "id, created_at, credits, status, decline_reason, payment_url"

# Selects this month's attempts, which the caps count (at most 100 a month), and the newest attempts of any status.
_ATTEMPTS: Final = RowSelect(
    ["t.created_at", "t.credits", "t.status", "t.decline_reason", "t.payment_url"],
    f"""
    FROM (
        (SELECT {_ATTEMPT} FROM top_up AS m WHERE m.account_id = u.account_id AND m.automatic AND m.status <> 'FAILED'
            AND m.created_at >= date_trunc('month', clock_timestamp(), 'UTC') ORDER BY m.created_at DESC LIMIT 400)
        UNION
        (SELECT {_ATTEMPT} FROM top_up AS n WHERE n.account_id = u.account_id AND n.automatic
            ORDER BY n.created_at DESC LIMIT 64)
    ) AS t ORDER BY t.created_at DESC
    """,  # noqa: S608  our own constant
)

_RECORD: Final = RowSelect(
    [
        "u.account_id",
        *CONFIGS.column_list("u"),
        "u.consent_version",
        "u.consent_at",
        "u.blocked_reason",
        "u.next_eligible_at",
        "c.customer_ref",
        "c.card_ref",
        "c.card_saved_at",
        "(SELECT max(h.paid_at) FROM top_up AS h WHERE h.account_id = u.account_id AND NOT h.automatic) AS paid_at",
        f"ARRAY({_ATTEMPTS.sql}) AS attempts",
        "greatest(a.posted - a.held - a.frozen, 0) AS available",
        "a.owed",
        "a.frozen",
    ],
    """
    FROM auto_top_up AS u JOIN account AS a ON a.id = u.account_id
    LEFT JOIN payment_customer AS c ON c.account_id = u.account_id AND c.provider = $2::text
    WHERE u.account_id = ANY($1::bigint[])
    """,
)

# The record is in an array, because asyncpg decodes records inside records only within an array of records.
_RECORDS: Final = f"SELECT ARRAY({_RECORD.sql}) AS records"

_SELECT_CONFIG: Final = RowSelect(CONFIGS.column_list("u"), "FROM auto_top_up AS u WHERE u.account_id = $1::bigint")

_OVERWRITTEN: Final = (*CONFIGS.column_names, "consent_version", "consent_at", "consent_actor", "changed_at")
_ENABLE: Final = CONFIGS.insert(
    "account_id", "consent_version", "consent_at", "consent_actor", "declines", "changed_at",
    on_conflict=(
        f"ON CONFLICT (account_id) DO UPDATE SET {', '.join(f'{name} = EXCLUDED.{name}' for name in _OVERWRITTEN)},"
        " blocked_reason = NULL, next_eligible_at = NULL, checked_at = NULL"
    ),
)  # fmt: skip

# Disabling keeps the configuration and the consent.
_DISABLE: Final = SetStatement(
    "disable auto_top_up",
    """
    UPDATE auto_top_up AS u SET enabled = false, blocked_reason = NULL, next_eligible_at = NULL, changed_at = v.at
    FROM unnest($1::bigint[], $2::timestamptz[]) AS v(account_id, at) WHERE u.account_id = v.account_id AND u.enabled
    RETURNING 1
    """,
    2,
    checks_row_count=False,
)

_RECORD_CHECK: Final = SetStatement(
    "check of auto_top_up",
    """
    UPDATE auto_top_up AS u SET declines = v.declines, blocked_reason = v.reason, next_eligible_at = v.next_at,
        checked_at = v.at
    FROM unnest($1::bigint[], $2::int[], $3::text[], $4::timestamptz[], $5::timestamptz[])
        AS v(account_id, declines, reason, next_at, at)
    WHERE u.account_id = v.account_id
    RETURNING 1
    """,
    5,
)

# Of the changed accounts, selects those that are below the threshold. Accounts with a skip reason are selected instead
# if their last check was more than five seconds ago, or a card was saved since.
_CHANGED: Final = """
    SELECT u.account_id FROM unnest($1::bigint[]) AS k(id)
    JOIN auto_top_up AS u ON u.account_id = k.id AND u.enabled
    JOIN account AS a ON a.id = u.account_id
    WHERE (u.blocked_reason IS NULL AND greatest(a.posted - a.held - a.frozen, 0) < u.threshold)
       OR (u.blocked_reason IS NOT NULL
           AND (u.checked_at < clock_timestamp() - interval '5 seconds'
                OR EXISTS (SELECT FROM payment_customer AS c
                           WHERE c.account_id = u.account_id AND c.card_saved_at >= u.checked_at)))
"""

# Selects accounts that must be checked although no change was announced: those below the threshold without a skip
# reason, those whose wait has ended, and periodically all others with a skip reason.
_DUE: Final = """
    SELECT u.account_id FROM auto_top_up AS u JOIN account AS a ON a.id = u.account_id
    WHERE u.enabled
      AND ((u.blocked_reason IS NULL AND greatest(a.posted - a.held - a.frozen, 0) < u.threshold)
           OR (u.blocked_reason IS NOT NULL
               AND (u.checked_at IS NULL OR u.next_eligible_at <= clock_timestamp()
                    OR u.checked_at < clock_timestamp() - make_interval(secs => $1))))
    ORDER BY u.checked_at NULLS FIRST LIMIT $2
"""

# Selects purchases with an unknown outcome, and purchases that the owner has not confirmed in time.
_UNSETTLED: Final = """
    SELECT t.account_id, t.id FROM top_up AS t
    WHERE t.status = 'PENDING' AND t.automatic AND t.provider = $1 AND t.account_id <> ALL($5::bigint[])
      AND t.created_at < clock_timestamp()
          - make_interval(secs => CASE WHEN t.provider_ref IS NULL THEN $2::float ELSE $3::float END)
    ORDER BY t.created_at LIMIT $4
"""


class SavedCardRefs(NamedTuple):
    """The provider's ids of a saved card."""

    customer_ref: str
    card_ref: str


class AutoTopUpRecord(NamedTuple):
    """Auto top-up of an account: configuration, result of the last check, and all data for the next check."""

    account_id: int
    config: AutoTopUpConfig
    consent_version: str | None
    consent_at: datetime | None
    reason: SkipReason | None
    next_eligible_at: datetime | None
    card: SavedCardRefs | None
    history: AttemptHistory
    balance: BalanceLevel


def select_record(account_id: int, provider: str) -> ExtraRead:
    """Return a read of an account's record, for `record_from_row`. It has no row if auto top-up was never enabled."""
    return ExtraRead(_RECORD, ([account_id], provider))


async def find_records(account_ids: Iterable[int], provider: str) -> dict[int, AutoTopUpRecord]:
    """Return the records of those accounts in which auto top-up was ever enabled."""
    [found] = await pools.fetch(_RECORDS, list(account_ids), provider)
    return {row["account_id"]: record_from_row(row) for row in _RECORD.read(found["records"])}


def record_from_row(row: Mapping[str, Any]) -> AutoTopUpRecord:
    """Convert the row of `select_record`."""
    card = SavedCardRefs(row["customer_ref"], row["card_ref"]) if row["card_ref"] is not None else None
    return AutoTopUpRecord(
        account_id=row["account_id"],
        config=CONFIGS.read(row),
        consent_version=row["consent_version"],
        consent_at=row["consent_at"],
        reason=SkipReason(row["blocked_reason"]) if row["blocked_reason"] is not None else None,
        next_eligible_at=row["next_eligible_at"],
        card=card,
        history=AttemptHistory(
            attempts=tuple(
                Attempt(
                    begun_at=attempt["created_at"],
                    credits=attempt["credits"],
                    status=TopUpStatus(attempt["status"]),
                    decline_reason=attempt["decline_reason"],
                    action_url=attempt["payment_url"],
                )
                for attempt in _ATTEMPTS.read(row["attempts"])
            ),
            has_card=card is not None,
            declines_reset_at=max(filter(None, (row["card_saved_at"], row["paid_at"])), default=None),
        ),
        balance=BalanceLevel(available=row["available"], owed=row["owed"], frozen=row["frozen"]),
    )


def select_config(account_id: int) -> ExtraRead:
    """Return a read of an account's configuration. It has no row if auto top-up was never enabled."""
    return ExtraRead(_SELECT_CONFIG, (account_id,))


def enable(write: SetWrite, account: AccountState, config: AutoTopUpConfig, consent_version: str, actor: str) -> None:
    """Write the configuration, and the version of the text to which the owner consented."""
    write.add_row(
        _ENABLE,
        config,
        account_id=account.account_id,
        consent_version=consent_version,
        consent_at=account.at,
        consent_actor=actor,
        declines=0,
        changed_at=account.at,
    )


def disable(write: SetWrite, account: AccountState) -> None:
    """Disable auto top-up, if it is enabled."""
    write.add(_DISABLE, (account.account_id, account.at))


def record_check(
    write: SetWrite, account: AccountState, *, declines: int, reason: SkipReason | None, next_at: datetime | None
) -> None:
    """Write the result of a check."""
    write.add(_RECORD_CHECK, (account.account_id, declines, reason, next_at, account.at))


async def find_enabled() -> set[int]:
    """Return the accounts in which auto top-up is enabled."""
    found = models.AutoTopUp.filter(enabled=True).limit(100_000)
    return {row["account_id"] for row in await found.values("account_id")}


async def find_changed(account_ids: Iterable[int]) -> list[int]:
    """Return those of the changed accounts that must be checked now."""
    return [record["account_id"] for record in await pools.fetch(_CHANGED, list(account_ids))]


async def find_due(*, interval_seconds: float, limit: int) -> list[int]:
    """Return accounts to check although no change was announced. Those that were checked longest ago come first."""
    return [record["account_id"] for record in await pools.fetch(_DUE, interval_seconds, limit)]


async def find_unsettled(
    provider: str, *, unknown_seconds: float, open_seconds: float, limit: int, except_accounts: Sequence[int] = ()
) -> list[Reference]:
    """Return automatic top-ups that have been PENDING for too long, oldest first. An account has at most one."""
    excepted = list(except_accounts)
    records = await pools.fetch(_UNSETTLED, provider, unknown_seconds, open_seconds, limit, excepted)
    return [Reference(record["account_id"], record["id"]) for record in records]
