"""Many rows of many tables in one round trip.

A `Part` is one data-modifying statement over `unnest`ed columns, with parameters `$1..$n` of its own and `RETURNING`.
`write` joins parts into one statement, numbers their parameters through, and checks that each touched as many rows as
it was given: a set that lost a row is a fault, and the transaction must not commit. (Parts that say so are exempt.)

    WITH p0 AS (INSERT INTO entry ... RETURNING 1), p1 AS (UPDATE account ... RETURNING 1)
    SELECT (SELECT count(*) FROM p0), (SELECT count(*) FROM p1)

All parts see the same snapshot, so no two parts may touch the same row.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from app.db.pools import Connection

Row = Sequence[Any]

_COLUMNS: Final = re.compile(r"\bunnest\(((?:\s*\$\d+::\w+\[\],?)+)\)(\s+AS\b)?")
"""The columns of a statement, and whether they are given a name."""


@dataclass(frozen=True, slots=True, eq=False)
class SetStatement:
    """One statement over columns: `sql` has one array parameter for each column, in order, and ends in RETURNING 1.

    Not `exact`: it may rightly touch more or fewer rows than it is given. A part is itself and no other: rows are
    gathered by it, so it is looked up for each.
    """

    name: str
    sql: str
    columns: int
    checks_row_count: bool = True


class RowCountMismatch(Exception):
    """A set statement touched another number of rows than it was given: nothing of it may be committed."""


class SetWrite:
    """Rows gathered for one statement, by part."""

    __slots__ = ("_notices", "_rows")

    def __init__(self) -> None:
        self._rows: dict[SetStatement, list[Row]] = {}
        self._notices: list[tuple[str, str]] = []

    def add(self, part: SetStatement, row: Row) -> None:
        self._rows.setdefault(part, []).append(row)

    def extend(self, part: SetStatement, rows: Iterable[Row]) -> None:
        found = list(rows)
        if found:
            self._rows.setdefault(part, []).extend(found)

    def notify(self, channel: str, payload: str) -> None:
        """Send `payload` on `channel` when the transaction commits."""
        self._notices.append((channel, payload))

    async def execute(self, connection: Connection) -> None:
        """Write it all in one statement. Raises: RowsLost."""
        if not self._rows and not self._notices:
            return
        parts = tuple(self._rows)
        is_tiny = all(len(rows) == 1 for rows in self._rows.values())
        values: list[Any] = []
        for part in parts:
            if is_tiny:
                values.extend(self._rows[part][0])
            else:
                values.extend(map(list, zip(*self._rows[part], strict=True)))
        if self._notices:
            values.extend(map(list, zip(*self._notices, strict=True)))
        _, records = await connection.execute_query(_joined(parts, bool(self._notices), is_tiny), values)
        for position, part in enumerate(parts):
            if part.checks_row_count and records[0][position] != len(self._rows[part]):
                raise RowCountMismatch(f"{part.name}: {records[0][position]} rows instead of {len(self._rows[part])}")


@lru_cache(maxsize=256)
def _joined(parts: tuple[SetStatement, ...], notifies: bool, is_tiny: bool) -> str:
    ctes: list[str] = []
    counts: list[str] = []
    offset = 0
    for position, part in enumerate(parts):
        ctes.append(
            f"p{position} AS ({renumber_parameters(single_row_sql(part.sql) if is_tiny else part.sql, offset)})"
        )
        counts.append(f"(SELECT count(*) FROM p{position})")  # noqa: S608  a number of ours, no input
        offset += part.columns
    if notifies:
        counts.append(
            f"(SELECT count(pg_notify(channel, payload))"  # noqa: S608  numbers of ours, no input
            f" FROM unnest(${offset + 1}::text[], ${offset + 2}::text[]) AS notification(channel, payload))"
        )
    return (f"WITH {', '.join(ctes)} " if ctes else "") + f"SELECT {', '.join(counts)}"


def single_row_sql(sql: str) -> str:
    """The statement for one row: its parameters are the values themselves, no arrays of one."""
    return _COLUMNS.sub(lambda found: f"(SELECT {found[1].replace('[]', '')}){found[2] or ' AS v'}", sql)


def renumber_parameters(sql: str, offset: int) -> str:
    """The statement with its parameters numbered from `offset` + 1, to stand behind others."""
    return re.sub(r"\$(\d+)", lambda match: f"${int(match[1]) + offset}", sql)
