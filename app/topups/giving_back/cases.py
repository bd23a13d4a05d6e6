"""Everything about one paid top-up, under its account's lock: what refunds and disputes are decided on.

A *case* is the top-up, its refunds and disputes, and the two grants that it made. It is read in the posting's one read,
changed in memory, and written with it; the top-up's own figures follow from its refunds and disputes.
"""

import json
from dataclasses import dataclass, field
from typing import Any, Final

from app.ledger import debt
from app.ledger.book import Book, Cause, Kind, Lot, Source
from app.ledger.posting import Posting, Read
from app.ledger.rows import LOT_COLUMNS, lot_of
from app.topups import rows
from app.topups.giving_back import refund_rows
from app.topups.giving_back.shares import COUNTED, DisputeRow, Given, RefundRow, credits_of, standing
from app.topups.provider import DisputeState
from app.topups.rules import Reference, Status, TopUpState

READS: Final = 4
"""How many reads make a case."""

_LOTS: Final = f"SELECT ROW({LOT_COLUMNS}) FROM credit_grant WHERE account_id = $1::bigint AND top_up_id = $2"  # noqa: S608  our own constant

# What has left a grant unspent: it expired, or was revoked.
_UNSPENT: Final = """
    SELECT e.draws::text AS draws FROM entry AS e
    WHERE e.account_id = $1 AND e.kind <> 'CHARGE'
      AND (e.kind = 'EXPIRY' OR (e.kind = 'ADJUSTMENT' AND e.credits < 0 AND e.top_up_id IS NULL))
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """What has left with some credits of a top-up: a new debt, and its share of the bonus."""

    debt_credits: int
    bonus_credits: int
    bonus_expired: int
    bonus_spent: int


@dataclass(slots=True)
class Case:
    """A paid top-up and what came after. `own` and `bonus`: its grants; `expired`: bonus that left unspent."""

    book: Book
    top_up: TopUpState
    refunds: dict[str, RefundRow]
    disputes: dict[str, DisputeRow]
    own: Lot | None
    bonus: Lot | None
    expired: int
    before: Status
    stored: frozenset[str] = frozenset()
    changed: set[str] = field(default_factory=set)

    @property
    def given(self) -> Given:
        return Given.of(self.top_up, self.refunds.values(), self.disputes.values())

    def keep(self, row: RefundRow | DisputeRow) -> None:
        """Put a row into the case, new or changed."""
        if isinstance(row, RefundRow):
            self.refunds[row.id] = row
            self.changed.add(row.id)
        else:
            self.disputes[row.dispute_ref] = row
            self.changed.add(row.dispute_ref)

    def write(self, posting: Posting) -> None:
        """Write what has changed, and the top-up as that makes it."""
        for key in sorted(self.changed):
            row = self.refunds.get(key) or self.disputes[key]
            refund_rows.write(posting.write, row, new=key not in self.stored)
        self.top_up = standing(self.top_up, self.refunds.values(), self.disputes.values())
        rows.flip(posting.write, self.top_up, before=self.before)


def reads(reference: Reference) -> list[Read]:
    """What makes a case, for `opened`."""
    key = (reference.account_id, reference.top_up_id)
    return [rows.read(*key), refund_rows.read_refunds(*key), refund_rows.read_disputes(*key), Read(_LOTS, key)]


async def opened(posting: Posting, found: Any) -> Case | None:
    """The case of what those reads gave, in their order; None: there is no such top-up."""
    top_ups, refunds, disputes, lots = found
    if not top_ups:
        return None
    top_up = rows.from_row(top_ups[0])
    book = posting.books[top_up.account_id]
    for row in lots:
        # The open ones are in the book, settled to now; the others are as they were.
        book.lots.setdefault(row[1], lot_of(row))
    made = [lot for lot in book.lots.values() if lot.top_up_id == top_up.id]
    bonus = next((lot for lot in made if lot.source is Source.PROMOTIONAL), None)
    refunds_by_id = {row.id: row for row in map(refund_rows.refund_of, refunds)}
    disputes_by_ref = {row.dispute_ref: row for row in map(refund_rows.dispute_of, disputes)}
    return Case(
        book=book,
        top_up=top_up,
        refunds=refunds_by_id,
        disputes=disputes_by_ref,
        own=next((lot for lot in made if lot.source is Source.PURCHASED), None),
        bonus=bonus,
        expired=await _unspent(posting, book, bonus) if bonus is not None else 0,
        before=top_up.status,
        stored=frozenset(refunds_by_id) | frozenset(disputes_by_ref),
    )


def take(case: Case, credits: int, cause: Cause) -> Taken:
    """Credits (> 0) of the top-up leave, with their share of its bonus: what is unspent of it leaves first.

    Raises: BalanceLimitReached, of the debt.
    """
    share = case.given.bonus_of(credits)
    owing = debt.take_back(case.book, case.own, credits, cause)
    taken = debt.take_unspent(case.book, case.bonus, share, cause) if share else 0
    counted = [refund.bonus_expired for refund in case.refunds.values() if refund.stands]
    counted += [one.bonus_expired for one in case.disputes.values() if one.state is DisputeState.LOST]
    expired = min(share - taken, max(0, case.expired - sum(counted)))
    return Taken(owing, taken, expired, share - taken - expired)


def put_back(case: Case, refund: RefundRow, cause: Cause) -> None:
    """Return what a refund took. Raises: BalanceLimitReached."""
    debt.put_back(case.book, case.own, refund.credits, cause, debt=refund.debt_credits)
    debt.return_unspent(case.book, case.bonus, refund.bonus_credits, cause)


def catch_up(case: Case) -> None:
    """Let disputes that found less than they are for have what is there again: a refund failed, another was won."""
    for dispute in sorted(case.disputes.values(), key=lambda one: (one.opened_at, one.dispute_ref)):
        if dispute.state not in COUNTED:
            continue
        more = min(credits_of(case.top_up, dispute.amount_minor) - dispute.credits, case.given.refundable)
        if more <= 0:
            continue
        if dispute.state is DisputeState.OPEN:
            debt.freeze(case.book, more)
            case.keep(dispute._replace(credits=dispute.credits + more))
        else:
            claw(case, dispute, more)


def claw(case: Case, dispute: DisputeRow, credits: int) -> DisputeRow:
    """A lost dispute takes `credits` of the top-up, and their share of its bonus. Returns: the dispute with them."""
    cause = Cause(
        actor=f"provider:{case.top_up.provider}",
        reason=f"dispute {dispute.dispute_ref} was lost",
        top_up_id=case.top_up.id,
    )
    taken = take(case, credits, cause)
    changed = dispute._replace(
        credits=dispute.credits + credits,
        bonus_credits=dispute.bonus_credits + taken.bonus_credits,
        bonus_expired=dispute.bonus_expired + taken.bonus_expired,
        bonus_spent=dispute.bonus_spent + taken.bonus_spent,
    )
    case.keep(changed)
    return changed


async def _unspent(posting: Posting, book: Book, lot: Lot) -> int:
    """How much of a grant has expired or was revoked, what this posting itself has settled included."""
    if lot.remaining == lot.credits:
        return 0
    _, records = await posting.connection.execute_query(_UNSPENT, [book.account_id])
    draws = [draw for record in records for draw in json.loads(record["draws"])]
    draws += [draw for posted in book.entries if posted.line.kind == Kind.EXPIRY for draw in posted.line.draws]
    return sum(credits for number, credits in draws if number == lot.number)
