"""The rows of top-ups: what rides in a posting's one read and one write, and the reads for pages and loaders."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

import orjson

from app.db import pools
from app.db.pools import Connection
from app.db.set_writes import SetStatement, SetWrite
from app.ledger.posting import ExtraRead
from app.topups.rules import Reference, TaxLine, TopUpRow, TopUpStatus

COLUMNS: Final = (
    "t.account_id, t.id, t.credits, t.amount_minor, t.currency, t.status, t.provider, t.provider_ref, t.payment_url,"
    " t.return_url, t.actor, t.created_at, t.paid_at, t.refunded_credits, t.refunded_minor, t.clawed_back_credits, t.bonus_credits,"
    " t.bonus_days, t.live, t.automatic, t.saves_card, t.payment_ref, t.decline_reason, t.tax_lines"
)

_NEW: Final = SetStatement(
    "new top-ups",
    """
    INSERT INTO top_up (account_id, id, credits, amount_minor, currency, status, provider, provider_ref, payment_url,
                        return_url, actor, created_at, bonus_credits, bonus_days, live, automatic, saves_card)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[],
                         $8::text[], $9::text[], $10::text[], $11::text[], $12::timestamptz[], $13::bigint[],
                         $14::int[], $15::bool[], $16::bool[], $17::bool[])
    RETURNING 1
    """,
    17,
)

# The status that was read guards the change: whoever flips the row posts, and nobody flips it twice.
_FLIPPED: Final = SetStatement(
    "flipped top-ups",
    """
    UPDATE top_up AS t SET status = v.status, paid_at = v.paid_at, provider_ref = v.provider_ref,
        payment_url = v.payment_url, payment_ref = v.payment_ref, decline_reason = v.decline_reason,
        tax_lines = v.tax_lines, refunded_credits = v.refunded_credits, refunded_minor = v.refunded_minor, clawed_back_credits = v.clawed_back_credits
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::text[],
                $8::text[], $9::text[], $10::jsonb[], $11::bigint[], $12::bigint[], $13::bigint[])
        AS v(account_id, id, status_before, status, paid_at, provider_ref, payment_url, payment_ref, decline_reason,
             tax_lines, refunded_credits, refunded_minor, clawed_back_credits)
    WHERE t.account_id = v.account_id AND t.id = v.id AND t.status = v.status_before
    RETURNING 1
    """,
    13,
)

_PAYMENTS: Final = SetStatement(
    "provider payments",
    """
    INSERT INTO provider_payment (payment_ref, account_id, top_up_id)
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[]) ON CONFLICT (payment_ref) DO NOTHING
    RETURNING 1
    """,
    3,
)

_OF_PAYMENT: Final = "SELECT account_id, top_up_id FROM provider_payment WHERE payment_ref = $1"

# A notice may come before the answer to our call: what it brought stays.
_OPENED: Final = f"""
    UPDATE top_up AS t SET provider_ref = coalesce(provider_ref, $3), payment_url = coalesce(payment_url, $4)
    WHERE account_id = $1 AND id = $2 RETURNING {COLUMNS}
"""  # noqa: S608  our own constant

_SOME: Final = f"""
    SELECT {COLUMNS} FROM unnest($1::bigint[], $2::text[]) AS k(account_id, id)
    JOIN top_up AS t ON t.account_id = k.account_id AND t.id = k.id
"""  # noqa: S608  our own constant

_PAGE: Final = f"""
    SELECT {COLUMNS} FROM top_up AS t
    WHERE t.account_id = $1
      AND (t.created_at, t.id) < (coalesce($2::timestamptz, 'infinity'::timestamptz), coalesce($3::text, ''))
    ORDER BY t.created_at DESC, t.id DESC LIMIT $4
"""  # noqa: S608  our own constant


def select_top_up(account_id: int, top_up_id: str) -> ExtraRead:
    """A read of one top-up."""
    return ExtraRead(
        f"SELECT ROW({COLUMNS}) FROM top_up AS t WHERE t.account_id = $1::bigint AND t.id = $2",  # noqa: S608  our own constant
        (account_id, top_up_id),
    )


def insert_top_up(write: SetWrite, top_up: TopUpRow) -> None:
    """Write a new top-up."""
    write.add(
        _NEW,
        (*top_up[:12], top_up.bonus_credits, top_up.bonus_days, top_up.live, top_up.automatic, top_up.saves_card),
    )


def update_top_up(write: SetWrite, top_up: TopUpRow, *, status_before: TopUpStatus) -> None:
    """Write what a top-up has become. RowsLost where its status is no longer `before`."""
    taxes = orjson.dumps([asdict(line) for line in top_up.tax_lines]).decode() if top_up.tax_lines else None
    write.add(
        _FLIPPED,
        (top_up.account_id, top_up.id, status_before, top_up.status, top_up.paid_at, top_up.provider_ref, top_up.payment_url,
         top_up.payment_ref, top_up.decline_reason, taxes, top_up.refunded_credits, top_up.refunded_minor,
         top_up.clawed_back_credits),
    )  # fmt: skip


def insert_payment(write: SetWrite, top_up: TopUpRow) -> None:
    """Write which top-up a payment paid. RowsLost where it paid another before."""
    write.add(_PAYMENTS, (top_up.payment_ref, top_up.account_id, top_up.id))


async def find_by_payment(payment_ref: str) -> Reference | None:
    """The top-up that a provider's payment paid."""
    records = await pools.fetch(_OF_PAYMENT, payment_ref)
    return Reference(*records[0]) if records else None


async def record_checkout(top_up: TopUpRow, *, provider_ref: str, payment_url: str) -> TopUpRow:
    """Write where the buyer pays, unless it is known already. Returns: the top-up as it is now."""
    [record] = await pools.fetch(_OPENED, top_up.account_id, top_up.id, provider_ref, payment_url)
    return from_row(record)


async def get(connection: Connection, account_id: int, top_up_id: str) -> TopUpRow:
    """A top-up that is known to be there, read within a transaction."""
    _, [record] = await connection.execute_query(_SOME, [[account_id], [top_up_id]])
    return from_row(record)


async def find(account_id: int, top_up_id: str) -> TopUpRow | None:
    """A top-up of this account, or None: another account's is not found either."""
    return (await find_many([Reference(account_id, top_up_id)])).get(Reference(account_id, top_up_id))


async def find_many(references: Iterable[tuple[int, str]]) -> dict[tuple[int, str], TopUpRow]:
    """Top-ups by (account, id), in one statement. What cannot be an id of ours is not looked for."""
    pairs = [pair for pair in dict.fromkeys(references) if Reference.parse(str(Reference(*pair)))]
    records = await pools.fetch(_SOME, [account for account, _ in pairs], [name for _, name in pairs])
    return {(top_up.account_id, top_up.id): top_up for top_up in map(from_row, records)}


async def list_page(account_id: int, *, before: tuple[datetime, str] | None, limit: int) -> list[TopUpRow]:
    """Top-ups of an account, newest first, from below a (created_at, id)."""
    created_at, top_up_id = before or (None, None)
    return [from_row(record) for record in await pools.fetch(_PAGE, account_id, created_at, top_up_id, limit)]


def from_row(row: Any) -> TopUpRow:
    """A top-up from its columns, in the order of COLUMNS."""
    (account_id, id_, credits, amount_minor, currency, status, *others, taxes) = row
    lines = tuple(TaxLine(**line) for line in json.loads(taxes)) if taxes else ()
    return TopUpRow._make((account_id, id_, credits, amount_minor, currency, TopUpStatus(status), *others, lines))
