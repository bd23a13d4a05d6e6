"""The account statement: the entries of an account in groups, newest first. The entries of a task form one group.

Groups are ordered by their last entry. A group adds up only the entries that the filters select, so the sum of the
groups of a month is the sum of the entries of that month. The last entry of the statement is determined when its first
page is read. So entries that are written later do not move groups between pages.

A page reads the entries between its first and its last group in chunks, never the whole account. The charges of a task
are added up from its block runs, by an index. Entries have no index by time. But an account's entries are in the order
of their times, so a binary search of about 20 reads finds the limits of a period. Reversals of tasks, and statements
without charges, are read by the partial index of entries that are not charges.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

from app.db import pools
from app.ledger import queries
from app.ledger.rules.account_state import EntryKind, LedgerEntry

GROUPED_KINDS: Final = (EntryKind.CHARGE, EntryKind.REVERSAL)
"""The kinds of entries that belong to the group of their task. Every other entry is a group of its own."""

_FIRST_CHUNK: Final = 200
_MAX_CHUNK: Final = 20_000
"""The largest number of entries in a chunk.

The first chunk has 200, or 8 for each requested group if that is more; each further chunk has four times as many.
"""

_LAST_SEQ: Final = "SELECT seq FROM account WHERE id = $1"

# Counts the entries dated before $3 by binary search over 0..$2. Entries up to `low` are dated before $3; entries above
# `high` are not.
_BEFORE: Final = """
    WITH RECURSIVE search(low, high) AS (
        SELECT 0::bigint, $2::bigint
        UNION ALL
        SELECT CASE WHEN e.at < $3 THEN e.seq ELSE s.low END, CASE WHEN e.at < $3 THEN s.high ELSE e.seq - 1 END
        FROM search AS s JOIN entry AS e ON e.account_id = $1 AND e.seq = (s.low + s.high + 1) / 2
        WHERE s.low < s.high
    )
    SELECT max(low) AS seq FROM search
"""

_ENTRIES: Final = """
    SELECT seq, kind, task_id, credits FROM entry
    WHERE account_id = $1 AND seq > $2 AND seq <= $3 AND ($4::text[] IS NULL OR kind = ANY($4))
    ORDER BY seq DESC LIMIT $5
"""

# For statements without charges: `kind <> 'CHARGE'` makes PostgreSQL use the partial index of those entries.
_ENTRIES_WITHOUT_CHARGES: Final = """
    SELECT seq, kind, task_id, credits FROM entry
    WHERE account_id = $1 AND seq > $2 AND seq <= $3 AND kind = ANY($4::text[]) AND kind <> 'CHARGE'
    ORDER BY seq DESC LIMIT $5
"""

_CHARGES: Final = """
    SELECT t.task_id, t.reversed > 0 AS has_reversals, c.credits, c.count, c.first, c.last
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


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementGroup:
    """One line of the statement: the selected entries of a task, or a single entry (`task_id` is None).

    `last` contains the balance after the group. `first` and `last` are the same if there is only one entry.
    """

    task_id: str | None
    kinds: tuple[EntryKind, ...]
    credits: int
    entries: int
    first: LedgerEntry
    last: LedgerEntry


class StatementPosition(NamedTuple):
    """Where a page ended: the seq of the statement's last entry, and of the last entry of the page's last group."""

    pinned_seq: int
    seq: int


@dataclass(frozen=True, slots=True)
class StatementPage:
    """Groups in order. `pinned_seq` is the seq of the statement's last entry, 0 if the account has no entries."""

    groups: list[StatementGroup]
    pinned_seq: int

    def position_of(self, group: StatementGroup) -> StatementPosition:
        """Return the position of `group`, after which the next page begins."""
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
    """Return the next `limit` groups of entries.

    If `kinds` is None, entries of all kinds are included. `from_at` is inclusive, `to_at` is exclusive.
    """
    if after is None:
        await queries.get_balances([account_id])  # first applies due changes, which may add entries
        found = await pools.fetch(_LAST_SEQ, account_id)
        pinned = found[0]["seq"] if found else 0
    else:
        pinned = after.pinned_seq
    low = await _count_before(account_id, pinned, from_at) if from_at else 0
    high = await _count_before(account_id, pinned, to_at) if to_at else pinned
    reader = _PageReader(account_id=account_id, low=low, high=high, kinds=None if kinds is None else sorted(kinds))
    sums = await reader.groups_below(high if after is None else min(high, after.seq - 1), limit)
    entries = await queries.get_entries((account_id, seq) for one in sums for seq in (one.first, one.last))
    return StatementPage(
        [one.group(entries[account_id, one.first], entries[account_id, one.last]) for one in sums], pinned
    )


async def _count_before(account_id: int, pinned: int, at: datetime) -> int:
    [record] = await pools.fetch(_BEFORE, account_id, pinned, at)
    return int(record["seq"])


@dataclass(slots=True, kw_only=True)
class _Sum:
    """A group while it is added up. `first` and `last` are the seq of its first and last entry."""

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
        return StatementGroup(
            task_id=self.task_id,
            kinds=tuple(self.kinds),
            credits=self.credits,
            entries=self.count,
            first=first,
            last=last,
        )


@dataclass(slots=True, kw_only=True)
class _PageReader:
    """Collects a page from the entries with `low` < seq <= `high`. `seen` contains the tasks whose group was found."""

    account_id: int
    low: int
    high: int
    kinds: list[EntryKind] | None
    seen: set[str] = field(default_factory=set)

    async def groups_below(self, seq: int, limit: int) -> list[_Sum]:
        """Return the first `limit` groups whose last entry is at most `seq`."""
        found: list[_Sum] = []
        size = max(_FIRST_CHUNK, 8 * limit)
        while len(found) < limit:
            entries = await self._read_entries(seq, size)
            found += await self._groups(entries)
            if len(entries) < size:
                break
            seq = entries[-1]["seq"] - 1
            size = min(4 * size, _MAX_CHUNK)
        return found[:limit]

    async def _read_entries(self, seq: int, size: int) -> Sequence[Any]:
        sql = _ENTRIES if self._wants(EntryKind.CHARGE) else _ENTRIES_WITHOUT_CHARGES
        return await pools.fetch(sql, self.account_id, self.low, seq, self.kinds, size)

    async def _groups(self, entries: Iterable[Any]) -> list[_Sum]:
        """Return the groups whose last entry is in `entries`. Groups with a newer last entry were on earlier pages."""
        groups: dict[int, _Sum | str] = {}  # key: the seq of the last entry; value: a group or a task id
        for entry in entries:
            seq, task_id = entry["seq"], entry["task_id"]
            if task_id is None or entry["kind"] not in GROUPED_KINDS:
                groups[seq] = _Sum(
                    task_id=None,
                    kinds=[EntryKind(entry["kind"])],
                    credits=entry["credits"],
                    count=1,
                    first=seq,
                    last=seq,
                )
            elif task_id not in self.seen:
                self.seen.add(task_id)
                groups[seq] = task_id
        sums = await self._add_up([group for group in groups.values() if isinstance(group, str)])
        found = {seq: sums[group] if isinstance(group, str) else group for seq, group in groups.items()}
        return [group for seq, group in found.items() if group.last == seq]

    async def _add_up(self, tasks: list[str]) -> dict[str, _Sum]:
        sums = {
            task_id: _Sum(task_id=task_id, kinds=[], credits=0, count=0, first=self.high, last=0) for task_id in tasks
        }
        reversed_tasks, first = tasks, self.low + 1
        if tasks and self._wants(EntryKind.CHARGE):
            charges = await pools.fetch(_CHARGES, self.account_id, tasks, self.low, self.high)
            for record in charges:
                if record["count"]:
                    sums[record["task_id"]].add(EntryKind.CHARGE, record)
            reversed_tasks = [record["task_id"] for record in charges if record["has_reversals"]]
            if not self.low:  # no reversal comes before its charge
                first = min((sums[task_id].first for task_id in reversed_tasks), default=1)
        if reversed_tasks and self._wants(EntryKind.REVERSAL):
            for record in await pools.fetch(_REVERSALS, self.account_id, reversed_tasks, first - 1, self.high):
                sums[record["task_id"]].add(EntryKind.REVERSAL, record)
        return sums

    def _wants(self, kind: EntryKind) -> bool:
        return self.kinds is None or kind in self.kinds
