"""Set writes: many rows of many tables in one statement and one round trip.

A `SetStatement` is one data-modifying statement over `unnest`ed columns. It has its own parameters `$1..$n` and ends in
RETURNING 1. A `SetWrite` collects rows by statement, joins the statements into one, renumbers their parameters, and
checks that each statement affected as many rows as it was given:

    WITH p0 AS (INSERT INTO entry ... RETURNING 1), p1 AS (UPDATE account ... RETURNING 1)
    SELECT (SELECT count(*) FROM p0), (SELECT count(*) FROM p1)

All statements see the same snapshot, so no two of them may affect the same row.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from app.db.pools import Connection

Values = Sequence[Any]

_UNNESTED: Final = re.compile(r"\bunnest\(((?:\s*\$\d+::\w+\[\],?)+)\)(\s+AS\b)?")
"""Finds `unnest(...)`. The groups are its columns, and AS if an alias follows."""


@dataclass(frozen=True, slots=True, eq=False)
class SetStatement:
    """One statement over columns. `sql` has one array parameter for each column, in order, and ends in RETURNING 1.

    `checks_row_count` is False if it may affect more or fewer rows than it is given. Statements are compared by
    identity.
    """

    name: str
    sql: str
    columns: int
    checks_row_count: bool = True


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RowStatement(SetStatement):
    """A set statement whose values come from a row's attributes (`app.db.tables` creates it).

    `others` are the names of the values after the attributes. `encode` contains (place among the values, conversion).
    """

    get_values: Callable[[Any], tuple[Any, ...]]
    others: tuple[str, ...]
    encode: tuple[tuple[int, Callable[[Any], Any]], ...]

    def values(self, row: Any, others: dict[str, Any]) -> Values:
        """Raises: TypeError: a value is missing or unknown."""
        if len(others) != len(self.others):
            raise TypeError(f"{self.name} takes {self.others}, not {tuple(others)}")
        values = list(self.get_values(row))
        if others:
            values += [others[name] for name in self.others]
        for place, convert in self.encode:
            if values[place] is not None:
                values[place] = convert(values[place])
        return values


class RowCountMismatch(Exception):
    """A set statement affected more or fewer rows than it was given. The transaction must not commit."""


class SetWrite:
    """Rows collected for one statement."""

    __slots__ = ("_rows",)

    def __init__(self) -> None:
        self._rows: defaultdict[SetStatement, list[Values]] = defaultdict(list)

    def add(self, statement: SetStatement, values: Values) -> None:
        """Add one row, with a value for each column of the statement, in order."""
        self._rows[statement].append(values)

    def add_row(self, statement: RowStatement, row: Any, **others: Any) -> None:
        """Add one row: the attributes that the statement writes, and `others` by column name."""
        self._rows[statement].append(statement.values(row, others))

    async def execute(self, connection: Connection) -> None:
        """Write everything in one statement. Raises: RowCountMismatch."""
        if not self._rows:
            return
        statements = tuple(self._rows)
        is_single = all(len(rows) == 1 for rows in self._rows.values())
        values: list[Any] = []
        for statement in statements:
            if is_single:
                values.extend(self._rows[statement][0])
            else:
                values.extend(map(list, zip(*self._rows[statement], strict=True)))
        _, [counts] = await connection.execute_query(_joined(statements, is_single), values)
        for statement, affected in zip(statements, counts, strict=True):
            if statement.checks_row_count and affected != len(self._rows[statement]):
                raise RowCountMismatch(f"{statement.name}: {affected} rows instead of {len(self._rows[statement])}")


@lru_cache(maxsize=256)
def _joined(statements: tuple[SetStatement, ...], is_single: bool) -> str:
    ctes: list[str] = []
    counts: list[str] = []
    offset = 0
    for position, statement in enumerate(statements):
        sql = single_row_sql(statement.sql) if is_single else statement.sql
        ctes.append(f"p{position} AS ({renumber_parameters(sql, offset)})")
        counts.append(f"(SELECT count(*) FROM p{position})")  # noqa: S608  our own number, no input
        offset += statement.columns
    return f"WITH {', '.join(ctes)} SELECT {', '.join(counts)}"


def single_row_sql(sql: str) -> str:
    """Return the statement for one row: its parameters are the values themselves instead of arrays with one value."""
    return _UNNESTED.sub(lambda found: f"(SELECT {found[1].replace('[]', '')}){found[2] or ' AS v'}", sql)


def renumber_parameters(sql: str, offset: int) -> str:
    """Return the statement with its parameters numbered from `offset` + 1, so that it can follow other statements."""
    return re.sub(r"\$(\d+)", lambda match: f"${int(match[1]) + offset}", sql)
