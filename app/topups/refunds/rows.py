"""SQL of the tables `top_up_refund` and `dispute`."""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple, TypeVar

from app.db import pools
from app.db.set_writes import SetWrite
from app.db.tables import RowSelect, Table
from app.ledger.posting import ExtraRead
from app.topups import models
from app.topups.refunds.amounts import DisputeRow, RefundRow
from app.topups.rules import Reference

AnyRow = TypeVar("AnyRow", RefundRow, DisputeRow)

MAX_LISTED: Final = 100
"""The maximum number of refunds, and of disputes, that are listed for one top-up. The newest are listed."""

REFUNDS: Final = Table(models.TopUpRefund, RefundRow, key=("account_id", "id"))
DISPUTES: Final = Table(models.Dispute, DisputeRow, key=("account_id", "dispute_ref"))

_SELECT_REFUNDS: Final = RowSelect(
    REFUNDS.column_list("r"), "FROM top_up_refund AS r WHERE r.account_id = $1::bigint AND r.top_up_id = $2::text"
)
_SELECT_DISPUTES: Final = RowSelect(
    DISPUTES.column_list("d"), "FROM dispute AS d WHERE d.account_id = $1::bigint AND d.top_up_id = $2::text"
)

# Each top-up is read by one index look-up that ends at the limit.
_LIST_REFUNDS: Final = f"""
    SELECT r.* FROM unnest($1::bigint[], $2::text[]) AS k(of_account, of_top_up)
    CROSS JOIN LATERAL (
        SELECT {REFUNDS.columns("t")} FROM top_up_refund AS t
        WHERE t.account_id = k.of_account AND t.top_up_id = k.of_top_up
        ORDER BY t.created_at DESC, t.id DESC LIMIT $3
    ) AS r ORDER BY r.created_at DESC, r.id DESC
"""  # noqa: S608  our own constant

_LIST_DISPUTES: Final = f"""
    SELECT d.* FROM unnest($1::bigint[], $2::text[]) AS k(of_account, of_top_up)
    CROSS JOIN LATERAL (
        SELECT {DISPUTES.columns("t")} FROM dispute AS t
        WHERE t.account_id = k.of_account AND t.top_up_id = k.of_top_up
        ORDER BY t.opened_at DESC, t.dispute_ref DESC LIMIT $3
    ) AS d ORDER BY d.opened_at DESC, d.dispute_ref DESC
"""  # noqa: S608  our own constant

_OPEN_DISPUTES: Final = f"""
    SELECT a.owner_id, {DISPUTES.columns("d")} FROM dispute AS d JOIN account AS a ON a.id = d.account_id
    WHERE d.status = 'OPEN' AND ($2::bigint IS NULL OR d.account_id = $2) ORDER BY d.opened_at LIMIT $1
"""  # noqa: S608  our own constant

_INSERT_REFUND: Final = REFUNDS.insert("queried_at")
_UPDATE_REFUND: Final = REFUNDS.update("status", "refund_ref", "decided_at")
_INSERT_DISPUTE: Final = DISPUTES.insert()
_UPDATE_DISPUTE: Final = DISPUTES.update(
    "credits",
    "bonus_credits",
    "bonus_expired",
    "bonus_spent",
    "amount_minor",
    "status",
    "decided_at",
    "frozen_credits",
    "debt_credits",
    "reported_at",
)

# `queried_at` claims a refund for one process; other processes skip it. MATERIALIZED, because the subquery must run
# only once (see `pending_sweep`).
_CLAIM_UNKNOWN: Final = """
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
    """Return a read of a top-up's refunds."""
    return ExtraRead(_SELECT_REFUNDS, (account_id, top_up_id))


def select_disputes(account_id: int, top_up_id: str) -> ExtraRead:
    """Return a read of a top-up's disputes."""
    return ExtraRead(_SELECT_DISPUTES, (account_id, top_up_id))


def write_row(write: SetWrite, row: RefundRow | DisputeRow, *, new: bool) -> None:
    """Write a refund or a dispute. Raises: RowCountMismatch: `new` is False and the row does not exist."""
    if isinstance(row, DisputeRow):
        write.add_row(_INSERT_DISPUTE if new else _UPDATE_DISPUTE, row)
    elif new:
        # The provider is called immediately after this transaction, so the first query is due later.
        write.add_row(_INSERT_REFUND, row, queried_at=row.created_at)
    else:
        write.add_row(_UPDATE_REFUND, row)


async def find_refund(reference: Reference) -> RefundRow | None:
    """Return a refund by account id and id, or None."""
    query = models.TopUpRefund.filter(account_id=reference.account_id, id=reference.row_id)
    return await REFUNDS.fetch_one(query)


class OpenDispute(NamedTuple):
    """An open dispute and the owner of its account."""

    owner_id: str
    row: DisputeRow


async def list_open_disputes(*, limit: int, account_id: int | None = None) -> list[OpenDispute]:
    """Return the open disputes of one account, or of all accounts, the oldest first."""
    found = await pools.fetch(_OPEN_DISPUTES, limit, account_id)
    return [OpenDispute(record["owner_id"], DISPUTES.read(record)) for record in found]


async def find_dispute(dispute_ref: str) -> DisputeRow | None:
    """Return a dispute by the provider's id, or None. This scans the table, because the account is not known."""
    return await DISPUTES.fetch_one(models.Dispute.filter(dispute_ref=dispute_ref))


async def find_refunds(references: Iterable[tuple[int, str]]) -> dict[tuple[int, str], list[RefundRow]]:
    """Return refunds by (account id, top-up id), newest first, at most MAX_LISTED of each top-up, in one statement."""
    return _by_top_up(map(REFUNDS.read, await _fetch(_LIST_REFUNDS, references)))


async def find_disputes(references: Iterable[tuple[int, str]]) -> dict[tuple[int, str], list[DisputeRow]]:
    """Return disputes by (account id, top-up id), in the same way as `find_refunds`."""
    return _by_top_up(map(DISPUTES.read, await _fetch(_LIST_DISPUTES, references)))


async def claim_unknown(*, after_seconds: int, limit: int) -> list[Reference]:
    """Claim refunds that have had no outcome for `after_seconds`, to query the provider about them."""
    found = await pools.fetch(_CLAIM_UNKNOWN, after_seconds, limit)
    return [Reference(record["account_id"], record["id"]) for record in found]


async def _fetch(sql: str, references: Iterable[tuple[int, str]]) -> Any:
    pairs = list(dict.fromkeys(references))
    return await pools.fetch(
        sql, [account_id for account_id, _ in pairs], [top_up_id for _, top_up_id in pairs], MAX_LISTED
    )


def _by_top_up(rows: Iterable[AnyRow]) -> dict[tuple[int, str], list[AnyRow]]:
    found: dict[tuple[int, str], list[AnyRow]] = {}
    for row in rows:
        found.setdefault((row.account_id, row.top_up_id), []).append(row)
    return found
