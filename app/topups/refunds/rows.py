"""The rows of refunds and disputes: what rides in a posting's one read and one write."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from app.db import pools
from app.db.set_writes import SetStatement, SetWrite
from app.ledger.posting import ExtraRead
from app.topups.provider import DisputeStatus, RefundStatus
from app.topups.refunds.amounts import DisputeRow, RefundRow
from app.topups.rules import Reference

_REFUND_COLUMNS: Final = (
    "account_id, id, top_up_id, credits, debt_credits, bonus_credits, bonus_expired, bonus_spent, amount_minor,"
    " reduced_minor, status, refund_ref, reason, actor, created_at, decided_at"
)

_DISPUTE_COLUMNS: Final = (
    "account_id, dispute_ref, top_up_id, credits, bonus_credits, bonus_expired, bonus_spent, amount_minor, status,"
    " opened_at, decided_at"
)

MAX_LISTED: Final = 100
"""How many refunds, and how many disputes, of one top-up are read for whoever looks at it: the newest."""

_OF_TOP_UP: Final = "WHERE account_id = $1::bigint AND top_up_id = $2"
_REFUNDS: Final = f"SELECT ROW({_REFUND_COLUMNS}) FROM top_up_refund {_OF_TOP_UP}"  # noqa: S608  our own constant
_DISPUTES: Final = f"SELECT ROW({_DISPUTE_COLUMNS}) FROM dispute {_OF_TOP_UP}"  # noqa: S608  our own constant
_FIND: Final = f"SELECT {_REFUND_COLUMNS} FROM top_up_refund WHERE account_id = $1 AND id = $2"  # noqa: S608  our own constant

# An index look-up for each top-up, which ends at the bound.
_REFUNDS_OF_SOME: Final = f"""
    SELECT r.* FROM unnest($1::bigint[], $2::text[]) AS k(of_account, of_top_up)
    CROSS JOIN LATERAL (
        SELECT {_REFUND_COLUMNS} FROM top_up_refund WHERE account_id = k.of_account AND top_up_id = k.of_top_up
        ORDER BY created_at DESC, id DESC LIMIT $3
    ) AS r ORDER BY r.created_at DESC, r.id DESC
"""  # noqa: S608  our own constant

_DISPUTES_OF_SOME: Final = f"""
    SELECT d.* FROM unnest($1::bigint[], $2::text[]) AS k(of_account, of_top_up)
    CROSS JOIN LATERAL (
        SELECT {_DISPUTE_COLUMNS} FROM dispute WHERE account_id = k.of_account AND top_up_id = k.of_top_up
        ORDER BY opened_at DESC, dispute_ref DESC LIMIT $3
    ) AS d ORDER BY d.opened_at DESC, d.dispute_ref DESC
"""  # noqa: S608  our own constant

# The provider is asked, or called, right after the transaction that writes it: hence `queried_at`.
_NEW_REFUNDS: Final = SetStatement(
    "new refunds",
    f"""
    INSERT INTO top_up_refund ({_REFUND_COLUMNS}, queried_at)
    SELECT v.*, v.created_at FROM unnest(
        $1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
        $9::bigint[], $10::bigint[], $11::text[], $12::text[], $13::text[], $14::text[], $15::timestamptz[],
        $16::timestamptz[]) AS v({_REFUND_COLUMNS})
    RETURNING 1
    """,  # noqa: S608  our own constant
    16,
)

_REFUNDS_CHANGED: Final = SetStatement(
    "refunds",
    """
    UPDATE top_up_refund AS r SET status = v.status, refund_ref = v.refund_ref, decided_at = v.decided_at
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])
        AS v(account_id, id, status, refund_ref, decided_at)
    WHERE r.account_id = v.account_id AND r.id = v.id
    RETURNING 1
    """,
    5,
)

_NEW_DISPUTES: Final = SetStatement(
    "new disputes",
    f"""
    INSERT INTO dispute ({_DISPUTE_COLUMNS})
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
                         $8::bigint[], $9::text[], $10::timestamptz[], $11::timestamptz[])
    RETURNING 1
    """,  # noqa: S608  our own constant
    11,
)

_DISPUTES_CHANGED: Final = SetStatement(
    "disputes",
    """
    UPDATE dispute AS d SET credits = v.credits, bonus_credits = v.bonus_credits, bonus_expired = v.bonus_expired,
        bonus_spent = v.bonus_spent, status = v.status, decided_at = v.decided_at
    FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[],
                $8::timestamptz[])
        AS v(account_id, dispute_ref, credits, bonus_credits, bonus_expired, bonus_spent, status, decided_at)
    WHERE d.account_id = v.account_id AND d.dispute_ref = v.dispute_ref
    RETURNING 1
    """,
    8,
)

# Claimed for one process by the instant at which it is asked about: another one skips it, and comes back later.
# Materialized, that is read once (see sweep.py).
_UNKNOWN: Final = """
    WITH due AS MATERIALIZED (
        SELECT account_id, id FROM top_up_refund
        WHERE status = 'PENDING' AND coalesce(queried_at, created_at) < clock_timestamp() - $1 * interval '1 second'
        ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED
    )
    UPDATE top_up_refund AS r SET queried_at = clock_timestamp()
    WHERE (r.account_id, r.id) IN (SELECT account_id, id FROM due)
    RETURNING r.account_id, r.id
"""


def select_refunds(account_id: int, top_up_id: str) -> ExtraRead:
    """A read of a top-up's refunds."""
    return ExtraRead(_REFUNDS, (account_id, top_up_id))


def select_disputes(account_id: int, top_up_id: str) -> ExtraRead:
    """A read of a top-up's disputes."""
    return ExtraRead(_DISPUTES, (account_id, top_up_id))


def write_row(to: SetWrite, row: RefundRow | DisputeRow, *, new: bool) -> None:
    """Write a refund or a dispute. RowsLost where one that is not new is gone."""
    if isinstance(row, RefundRow):
        if new:
            to.add(_NEW_REFUNDS, row)
        else:
            to.add(_REFUNDS_CHANGED, (row.account_id, row.id, row.status, row.refund_ref, row.decided_at))
    elif new:
        to.add(_NEW_DISPUTES, row)
    else:
        to.add(
            _DISPUTES_CHANGED,
            (row.account_id, row.dispute_ref, row.credits, row.bonus_credits, row.bonus_expired, row.bonus_spent,
             row.status, row.decided_at),
        )  # fmt: skip


async def find_refund(reference: Reference) -> RefundRow | None:
    """A refund by account and id."""
    records = await pools.fetch(_FIND, *reference)
    return refund_from_row(records[0]) if records else None


async def find_refunds(references: Iterable[tuple[int, str]]) -> dict[tuple[int, str], list[RefundRow]]:
    """The refunds of top-ups by (account, top-up), newest first and MOST_SHOWN of each at most, in one statement."""
    found: dict[tuple[int, str], list[RefundRow]] = {}
    for row in map(refund_from_row, await _of_some(_REFUNDS_OF_SOME, references)):
        found.setdefault((row.account_id, row.top_up_id), []).append(row)
    return found


async def find_disputes(references: Iterable[tuple[int, str]]) -> dict[tuple[int, str], list[DisputeRow]]:
    """The disputes of top-ups, like `refunds_of`."""
    found: dict[tuple[int, str], list[DisputeRow]] = {}
    for row in map(dispute_from_row, await _of_some(_DISPUTES_OF_SOME, references)):
        found.setdefault((row.account_id, row.top_up_id), []).append(row)
    return found


async def claim_unknown(*, after_seconds: int, limit: int) -> list[Reference]:
    """Refunds whose outcome is not known so long after they were asked for, each given to one caller only."""
    return [Reference(*record) for record in await pools.fetch(_UNKNOWN, after_seconds, limit)]


def refund_from_row(row: Sequence[Any]) -> RefundRow:
    """A refund from its columns."""
    made = RefundRow._make(row)
    return made._replace(status=RefundStatus(made.status))


def dispute_from_row(row: Sequence[Any]) -> DisputeRow:
    """A dispute from its columns."""
    made = DisputeRow._make(row)
    return made._replace(status=DisputeStatus(made.status))


async def _of_some(sql: str, references: Iterable[tuple[int, str]]) -> Sequence[Any]:
    pairs = list(dict.fromkeys(references))
    return await pools.fetch(sql, [account for account, _ in pairs], [name for _, name in pairs], MAX_LISTED)
