"""The rows of auto top-up: what rides in a posting's read and write, and whom the sweep looks at."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final, NamedTuple

from app.db import pools
from app.db.set_writes import SetStatement, SetWrite
from app.ledger.posting import ExtraRead
from app.ledger.rules.account_state import AccountState
from app.topups.auto_topup.rules import Attempt, AttemptHistory, AutoTopUpConfig, BalanceLevel, SkipReason
from app.topups.rules import Reference, TopUpStatus

_WISHES: Final = (
    "u.enabled, u.threshold, u.amount, u.target, u.max_per_day, u.max_per_month, u.max_count_per_day,"
    " u.max_count_per_month"
)

# This month's attempts (the caps of counts bound them), and the newest whatever became of them.
_ATTEMPT: Final = "id, created_at, credits, status, decline_reason, payment_url"
_ATTEMPTS: Final = f"""
    ARRAY(
        SELECT ROW(t.created_at, t.credits, t.status, t.decline_reason, t.payment_url) FROM (
            (SELECT {_ATTEMPT} FROM top_up AS m WHERE m.account_id = u.account_id AND m.automatic
                AND m.status <> 'FAILED' AND m.created_at >= date_trunc('month', clock_timestamp(), 'UTC')
                ORDER BY m.created_at DESC LIMIT 400)
            UNION
            (SELECT {_ATTEMPT} FROM top_up AS n WHERE n.account_id = u.account_id AND n.automatic
                ORDER BY n.created_at DESC LIMIT 64)
        ) AS t ORDER BY t.created_at DESC
    )
"""  # noqa: S608  our own constant

_BY_HAND: Final = """
    (SELECT max(h.paid_at) FROM top_up AS h WHERE h.account_id = u.account_id AND NOT h.automatic)
"""

_STANDING: Final = f"""
    SELECT ROW(u.account_id, {_WISHES}, u.consent_version, u.consent_at, u.blocked_reason, u.next_eligible_at,
               c.customer_ref, c.card_ref, c.card_saved_at, {_BY_HAND}, {_ATTEMPTS},
               greatest(a.posted - a.held - a.frozen, 0), a.owed, a.frozen)
    FROM auto_top_up AS u JOIN account AS a ON a.id = u.account_id
    LEFT JOIN payment_customer AS c ON c.account_id = u.account_id AND c.provider = $2::text
    WHERE u.account_id = ANY($1::bigint[])
"""  # noqa: S608  our own constants

# As one array: asyncpg decodes records within records only where it has met an array of them outside.
_STANDINGS: Final = f"SELECT ARRAY({_STANDING}) AS standings"

_SET: Final = SetStatement(
    "auto top-ups",
    """
    INSERT INTO auto_top_up (account_id, enabled, threshold, amount, target, max_per_day, max_per_month,
                             max_count_per_day, max_count_per_month, consent_version, consent_at, consent_actor,
                             declines, changed_at)
    SELECT v.*, 0, v.consent_at
    FROM unnest($1::bigint[], $2::bool[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
                $8::int[], $9::int[], $10::text[], $11::timestamptz[], $12::text[])
        AS v(account_id, enabled, threshold, amount, target, max_per_day, max_per_month, max_count_per_day,
             max_count_per_month, consent_version, consent_at, consent_actor)
    ON CONFLICT (account_id) DO UPDATE SET (enabled, threshold, amount, target, max_per_day, max_per_month,
            max_count_per_day, max_count_per_month, consent_version, consent_at, consent_actor, changed_at,
            blocked_reason, next_eligible_at, checked_at)
        = (EXCLUDED.enabled, EXCLUDED.threshold, EXCLUDED.amount, EXCLUDED.target, EXCLUDED.max_per_day,
           EXCLUDED.max_per_month, EXCLUDED.max_count_per_day, EXCLUDED.max_count_per_month, EXCLUDED.consent_version,
           EXCLUDED.consent_at, EXCLUDED.consent_actor, EXCLUDED.changed_at, NULL, NULL, NULL)
    RETURNING 1
    """,
    12,
)

# The wishes and the consent stay to be read; nothing follows from them any more.
_OFF: Final = SetStatement(
    "auto top-ups switched off",
    """
    UPDATE auto_top_up AS u SET enabled = false, blocked_reason = NULL, next_eligible_at = NULL, changed_at = v.at
    FROM unnest($1::bigint[], $2::timestamptz[]) AS v(account_id, at) WHERE u.account_id = v.account_id AND u.enabled
    RETURNING 1
    """,
    2,
    checks_row_count=False,
)

_LOOKED: Final = SetStatement(
    "auto top-ups looked at",
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

_ENABLED: Final = "SELECT account_id FROM auto_top_up WHERE enabled LIMIT 100000"

# Of accounts that have changed: those that are too low, at once; those that were held back, at most every five seconds.
_CHANGED: Final = """
    SELECT u.account_id FROM unnest($1::bigint[]) AS k(id)
    JOIN auto_top_up AS u ON u.account_id = k.id AND u.enabled
    JOIN account AS a ON a.id = u.account_id
    WHERE (u.blocked_reason IS NULL AND greatest(a.posted - a.held - a.frozen, 0) < u.threshold)
       OR (u.blocked_reason IS NOT NULL AND u.checked_at < clock_timestamp() - interval '5 seconds')
"""

# What no change told of: waits that have ended, and from time to time everybody who is too low or was held back.
_DUE: Final = """
    SELECT u.account_id FROM auto_top_up AS u JOIN account AS a ON a.id = u.account_id
    WHERE u.enabled AND (u.blocked_reason IS NOT NULL OR greatest(a.posted - a.held - a.frozen, 0) < u.threshold)
      AND (u.checked_at IS NULL OR u.next_eligible_at <= clock_timestamp()
           OR u.checked_at < clock_timestamp() - make_interval(secs => $1))
    ORDER BY u.checked_at NULLS FIRST LIMIT $2
"""

# Intents whose call had no known outcome, and those that their owners have not confirmed in time.
_UNSETTLED: Final = """
    SELECT t.account_id, t.id FROM top_up AS t
    WHERE t.status = 'PENDING' AND t.automatic AND t.provider = $1
      AND t.created_at < clock_timestamp()
          - make_interval(secs => CASE WHEN t.provider_ref IS NULL THEN $2::float ELSE $3::float END)
    ORDER BY t.created_at LIMIT $4
"""

_ANSWERED: Final = """
    UPDATE top_up SET provider_ref = coalesce(provider_ref, $3), payment_url = coalesce(payment_url, $4)
    WHERE account_id = $1 AND id = $2
"""


class SavedCardRefs(NamedTuple):
    """A saved card, by the provider's names."""

    customer_ref: str
    card_ref: str


class AutoTopUpRecord(NamedTuple):
    """Auto top-up of an account as it is recorded; `reason` and `next_eligible_at` as it was last looked at."""

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
    """A read of an account's standing: one row, or none where it was never switched on."""
    return ExtraRead(_STANDING, ([account_id], provider))


async def find_records(account_ids: Iterable[int], provider: str) -> dict[int, AutoTopUpRecord]:
    """The standings of those accounts that have one."""
    [record] = await pools.fetch(_STANDINGS, list(account_ids), provider)
    return {standing.account_id: standing for standing in map(record_from_row, record["standings"])}


def record_from_row(row: Any) -> AutoTopUpRecord:
    """A standing from its row."""
    account_id, *wishes = row[:9]
    (version, consent_at, reason, next_at, customer_ref, card_ref, saved_at, by_hand, attempts, *figures) = row[9:]
    names = ("enabled", "threshold", "amount", "target", "max_per_day", "max_per_month", "max_count_per_day",
             "max_count_per_month")  # fmt: skip
    return AutoTopUpRecord(
        account_id=account_id,
        config=AutoTopUpConfig(**dict(zip(names, wishes, strict=True))),
        consent_version=version,
        consent_at=consent_at,
        reason=SkipReason(reason) if reason is not None else None,
        next_eligible_at=next_at,
        card=SavedCardRefs(customer_ref, card_ref) if card_ref is not None else None,
        history=AttemptHistory(
            attempts=tuple(Attempt(at, credits, TopUpStatus(status), *rest) for at, credits, status, *rest in attempts),
            has_card=card_ref is not None,
            declines_reset_at=max((at for at in (saved_at, by_hand) if at is not None), default=None),
        ),
        balance=BalanceLevel(available=figures[0], owed=figures[1], frozen=figures[2]),
    )


def select_config(account_id: int) -> ExtraRead:
    """A read of what an account's owner wishes now; no row where it was never switched on."""
    return ExtraRead(
        f"SELECT ROW({_WISHES}) FROM auto_top_up AS u WHERE u.account_id = $1::bigint",  # noqa: S608  our own constant
        (account_id,),
    )


def enable(write: SetWrite, book: AccountState, wishes: AutoTopUpConfig, consent_version: str, actor: str) -> None:
    """Write an owner's wishes, and the text that it has agreed to."""
    write.add(
        _SET,
        (book.account_id, True, wishes.threshold, wishes.amount, wishes.target, wishes.max_per_day, wishes.max_per_month,
         wishes.max_count_per_day, wishes.max_count_per_month, consent_version, book.at, actor),
    )  # fmt: skip


def disable(write: SetWrite, book: AccountState) -> None:
    """Switch it off, where it is on."""
    write.add(_OFF, (book.account_id, book.at))


def record_check(
    write: SetWrite, book: AccountState, *, declines: int, reason: SkipReason | None, next_at: datetime | None
) -> None:
    """Write what was found when it was looked at."""
    write.add(_LOOKED, (book.account_id, declines, reason.value if reason else None, next_at, book.at))


async def find_enabled() -> set[int]:
    """The accounts that have it switched on."""
    return {record["account_id"] for record in await pools.fetch(_ENABLED)}


async def find_changed(account_ids: Iterable[int]) -> list[int]:
    """Those of the accounts that have to be looked at now that they have changed."""
    return [record["account_id"] for record in await pools.fetch(_CHANGED, list(account_ids))]


async def find_due(*, look_seconds: float, limit: int) -> list[int]:
    """Accounts to be looked at though nothing told of a change, those that were longest not looked at first."""
    return [record["account_id"] for record in await pools.fetch(_DUE, look_seconds, limit)]


async def find_unsettled(provider: str, *, unknown_seconds: float, open_seconds: float, limit: int) -> list[Reference]:
    """Automatic top-ups that are pending for too long, the oldest first."""
    records = await pools.fetch(_UNSETTLED, provider, unknown_seconds, open_seconds, limit)
    return [Reference(*record) for record in records]


async def record_answer(reference: Reference, *, provider_ref: str, action_url: str | None) -> None:
    """Write the provider's id of a payment, and where its owner has to confirm it, unless they are known."""
    await pools.fetch(_ANSWERED, reference.account_id, reference.row_id, provider_ref, action_url)
