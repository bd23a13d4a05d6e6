"""The statement: an account's entries in groups, newest first. A task is one group, everything else one line each.

It stands above the books because only this room knows what a task is. A group stands where its last entry stands; its
figures add up exactly the entries that the filters chose, so the groups of a month add up to the month. Pages are
pinned to the state of the account at the first page: entries never change, so writes between pages move nothing.

What it costs: a page reads as many entries as lie between its first and its last line, in chunks, never the whole
account; charges are added up from the tasks' block runs by their index. Entries have no index by time: time never falls
along an account, so a period's borders are found by halving, some twenty reads. Kinds that do not include CHARGE, and
tasks of which something was given back, go by the index of entries other than charges.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

from app.db import pools
from app.ledger import queries
from app.ledger.rules.account_state import EntryKind, LedgerEntry

GROUPED_KINDS: Final = (EntryKind.CHARGE, EntryKind.REVERSAL)
"""Kinds whose entries join the group of their task."""

_FIRST_ROWS: Final = 200
_MOST_ROWS: Final = 20_000
"""Entries read at once: at first 200, or 8 for each group asked for; then four times as many each time, up to these."""

_NOW: Final = "SELECT seq FROM account WHERE id = $1"

# How many entries are dated before an instant. Halves 0..$2: entries up to `low` are, those above `high` are not.
_BEFORE: Final = """
    WITH RECURSIVE search(low, high) AS (
        SELECT 0::bigint, $2::bigint
        UNION ALL
        SELECT CASE WHEN e.at < $3 THEN e.seq ELSE s.low END, CASE WHEN e.at < $3 THEN s.high ELSE e.seq - 1 END
        FROM search AS s JOIN entry AS e ON e.account_id = $1 AND e.seq = (s.low + s.high + 1) / 2
        WHERE s.low < s.high
    )
    SELECT max(low) FROM search
"""

_LINES: Final = """
    SELECT seq, kind, task_id, credits FROM entry
    WHERE account_id = $1 AND seq > $2 AND seq <= $3 AND ($4::text[] IS NULL OR kind = ANY($4))
    ORDER BY seq DESC LIMIT $5
"""

# The same for kinds without CHARGE: the extra condition opens the index of the other entries.
_LINES_WITHOUT_CHARGES: Final = """
    SELECT seq, kind, task_id, credits FROM entry
    WHERE account_id = $1 AND seq > $2 AND seq <= $3 AND kind = ANY($4::text[]) AND kind <> 'CHARGE'
    ORDER BY seq DESC LIMIT $5
"""

_CHARGES: Final = """
    SELECT t.task_id, t.reversed > 0 AS given_back, c.credits, c.count, c.first, c.last
    FROM unnest($2::text[]) AS k(task_id)
    JOIN task AS t ON t.account_id = $1 AND t.task_id = k.task_id
    CROSS JOIN LATERAL (
        SELECT -coalesce(sum(b.cost), 0)::bigint AS credits, count(*) AS count, min(b.entry_seq) AS first,
               max(b.entry_seq) AS last
        FROM block_run AS b
        WHERE b.account_id = $1 AND b.task_id = t.task_id AND b.position > 0 AND b.entry_seq > $3 AND b.entry_seq <= $4
    ) AS c
"""

_REVERSALS: Final = """
    SELECT task_id, sum(credits)::bigint AS credits, count(*) AS count, min(seq) AS first, max(seq) AS last FROM entry
    WHERE account_id = $1 AND seq > $3 AND seq <= $4 AND task_id = ANY($2::text[])
      AND kind = 'REVERSAL' AND kind <> 'CHARGE'
    GROUP BY task_id
"""


@dataclass(frozen=True, slots=True)
class StatementGroup:
    """One line of the statement: all chosen entries of a task, or the one entry (`task_id` is None).

    `first` and `last` are the same where there is one entry; the balance after the group is `last`'s.
    """

    task_id: str | None
    kinds: tuple[EntryKind, ...]
    credits: int
    entries: int
    first: LedgerEntry
    last: LedgerEntry


class StatementPosition(NamedTuple):
    """Where a page ended, for the next one: the account's last entry at the first page, the last group's last entry."""

    pinned_seq: int
    seq: int


@dataclass(frozen=True, slots=True)
class StatementPage:
    """Groups in order. `pinned_seq`: entries after this one are not in this statement (0: there are none at all)."""

    groups: list[StatementGroup]
    pinned_seq: int

    def position_of(self, group: StatementGroup) -> StatementPosition:
        """To read on behind `group`."""
        return StatementPosition(self.pinned_seq, group.last.seq)


async def statement_page(
    account_id: int,
    *,
    limit: int,
    after: StatementPosition | None = None,
    kinds: Collection[EntryKind] | None = None,
    from_at: datetime | None = None,
    to_at: datetime | None = None,
) -> StatementPage:
    """The next `limit` groups over entries of `kinds` (None: all) dated from `from_at`, before `to_at`."""
    if after is None:
        await queries.get_balances([account_id])  # what time alone has changed belongs to the first page
        found = await pools.fetch(_NOW, account_id)
        pinned = found[0]["seq"] if found else 0
    else:
        pinned = after.pinned_seq
    low = await _count_before(account_id, pinned, from_at) if from_at else 0
    high = await _count_before(account_id, pinned, to_at) if to_at else pinned
    walk = _Walk(account_id, low, high, None if kinds is None else sorted(kinds))
    sums = await walk.down_from(high if after is None else min(high, after.seq - 1), limit)
    entries = await queries.get_entries((account_id, seq) for one in sums for seq in (one.first, one.last))
    return StatementPage(
        [one.group(entries[account_id, one.first], entries[account_id, one.last]) for one in sums], pinned
    )


async def _count_before(account_id: int, pinned: int, at: datetime) -> int:
    [record] = await pools.fetch(_BEFORE, account_id, pinned, at)
    return int(record[0])


@dataclass(slots=True)
class _Sum:
    """A group while it is added up: its figures, and the seq of its first and its last entry."""

    task_id: str | None
    kinds: list[EntryKind]
    credits: int
    count: int
    first: int
    last: int

    def add(self, kind: EntryKind, record: Any) -> None:
        self.kinds.append(kind)
        self.credits += record["credits"]
        self.count += record["count"]
        self.first = min(self.first, record["first"])
        self.last = max(self.last, record["last"])

    def group(self, first: LedgerEntry, last: LedgerEntry) -> StatementGroup:
        return StatementGroup(self.task_id, tuple(self.kinds), self.credits, self.count, first, last)


@dataclass(slots=True)
class _Walk:
    """One page being gathered over the entries `low` < seq <= `high` of an account."""

    account_id: int
    low: int
    high: int
    kinds: list[EntryKind] | None
    met: set[str] = field(default_factory=set)

    async def down_from(self, seq: int, limit: int) -> list[_Sum]:
        """The first `limit` groups whose last entry is at most `seq`."""
        found: list[_Sum] = []
        rows = max(_FIRST_ROWS, 8 * limit)
        while len(found) < limit:
            lines = await self._lines(seq, rows)
            found += await self._groups(lines)
            if len(lines) < rows:
                break
            seq = lines[-1]["seq"] - 1
            rows = min(4 * rows, _MOST_ROWS)
        return found[:limit]

    async def _lines(self, seq: int, rows: int) -> Sequence[Any]:
        sql = _LINES if self._wants(EntryKind.CHARGE) else _LINES_WITHOUT_CHARGES
        return await pools.fetch(sql, self.account_id, self.low, seq, self.kinds, rows)

    async def _groups(self, lines: Iterable[Any]) -> list[_Sum]:
        """The groups that begin in `lines`: a task met here again, or on an earlier page, begins no other."""
        found: list[_Sum | tuple[str, int]] = []
        for seq, kind, task_id, credits in lines:
            if task_id is None or kind not in GROUPED_KINDS:
                found.append(_Sum(None, [EntryKind(kind)], credits, 1, seq, seq))
            elif task_id not in self.met:
                self.met.add(task_id)
                found.append((task_id, seq))
        sums = await self._add_up([one[0] for one in found if isinstance(one, tuple)])
        return [
            one if isinstance(one, _Sum) else sums[one[0]]
            for one in found
            if isinstance(one, _Sum) or sums[one[0]].last == one[1]
        ]

    async def _add_up(self, tasks: list[str]) -> dict[str, _Sum]:
        sums = {task_id: _Sum(task_id, [], 0, 0, self.high, 0) for task_id in tasks}
        given_back, first = tasks, self.low + 1
        if tasks and self._wants(EntryKind.CHARGE):
            charges = await pools.fetch(_CHARGES, self.account_id, tasks, self.low, self.high)
            for record in charges:
                if record["count"]:
                    sums[record["task_id"]].add(EntryKind.CHARGE, record)
            given_back = [record["task_id"] for record in charges if record["given_back"]]
            if not self.low:  # nothing is given back before it was charged
                first = min((sums[task_id].first for task_id in given_back), default=1)
        if given_back and self._wants(EntryKind.REVERSAL):
            for record in await pools.fetch(_REVERSALS, self.account_id, given_back, first - 1, self.high):
                sums[record["task_id"]].add(EntryKind.REVERSAL, record)
        return sums

    def _wants(self, kind: EntryKind) -> bool:
        return self.kinds is None or kind in self.kinds
