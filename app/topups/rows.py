"""SQL of the table `top_up`. Most statements are part of a posting's one read and one write."""

from dataclasses import asdict
from typing import Final

from app.db import pools
from app.db.pools import Connection
from app.db.set_writes import SetStatement, SetWrite
from app.db.tables import RowSelect, Table, to_json
from app.ledger.posting import ExtraRead
from app.topups import models
from app.topups.rules import TaxLine, TopUpRow, TopUpStatus

TOP_UPS: Final = Table(
    models.TopUp,
    TopUpRow,
    key=("account_id", "id"),
    decode={"tax_lines": lambda lines: tuple([TaxLine(**line) for line in lines])},
    encode={"tax_lines": lambda lines: to_json([asdict(line) for line in lines])},
)

_SELECT: Final = RowSelect(
    TOP_UPS.column_list("t"), "FROM top_up AS t WHERE t.account_id = $1::bigint AND t.id = $2::text"
)

_INSERT: Final = TOP_UPS.insert()

# The update requires the status that was read. So if two callers settle the same top-up, only one changes it.
_UPDATE: Final = TOP_UPS.update(
    "status", "paid_at", "provider_ref", "payment_url", "payment_ref", "decline_reason", "tax_lines",
    "total_minor", "ordered_minor", "credits", "amount_minor", "bonus_credits",
    "refunded_credits", "refunded_minor", "clawed_back_credits",
    where="t.status = v.status_before",
    others={"status_before": "text"},
)  # fmt: skip

_INSERT_PAYMENT: Final = SetStatement(
    "insert into provider_payment",
    """
    INSERT INTO provider_payment (payment_ref, account_id, top_up_id)
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[]) ON CONFLICT (payment_ref) DO NOTHING
    RETURNING 1
    """,
    3,
)

# A webhook may arrive before the answer to our own call, so values that it has set are kept.
_RECORD_CHECKOUT: Final = f"""
    UPDATE top_up AS t SET provider_ref = coalesce(provider_ref, $3), payment_url = coalesce(payment_url, $4)
    WHERE account_id = $1 AND id = $2 RETURNING {TOP_UPS.columns("t")}
"""  # noqa: S608  our own constant

_GET: Final = f"SELECT {TOP_UPS.columns('t')} FROM top_up AS t WHERE t.account_id = $1 AND t.id = $2"  # noqa: S608  our own constant


def select_top_up(account_id: int, top_up_id: str) -> ExtraRead:
    """Return a read of one top-up, for `TOP_UPS.read`."""
    return ExtraRead(_SELECT, (account_id, top_up_id))


def insert_top_up(write: SetWrite, top_up: TopUpRow) -> None:
    """Write a new top-up."""
    write.add_row(_INSERT, top_up)


def update_top_up(write: SetWrite, top_up: TopUpRow, *, status_before: TopUpStatus) -> None:
    """Write the new state of a top-up. Raises: RowCountMismatch: its status is no longer `status_before`."""
    write.add_row(_UPDATE, top_up, status_before=status_before)


def insert_payment(write: SetWrite, top_up: TopUpRow) -> None:
    """Write which top-up a payment paid. Raises: RowCountMismatch: the payment has paid another one."""
    write.add(_INSERT_PAYMENT, (top_up.payment_ref, top_up.account_id, top_up.id))


async def record_checkout(top_up: TopUpRow, *, provider_ref: str, payment_url: str | None) -> TopUpRow:
    """Write the provider's id and page of a top-up if they are not recorded yet. Returns: the top-up as it is now."""
    [record] = await pools.fetch(_RECORD_CHECKOUT, top_up.account_id, top_up.id, provider_ref, payment_url)
    return TOP_UPS.read(record)


async def get_top_up(connection: Connection, account_id: int, top_up_id: str) -> TopUpRow:
    """Return a top-up that is known to exist, read inside a transaction."""
    _, [record] = await connection.execute_query(_GET, [account_id, top_up_id])
    return TOP_UPS.read(record)
