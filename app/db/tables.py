"""Tables: SQL and conversions are derived from a Tortoise model and a row type, so columns are not listed again.

A `Table` pairs a Tortoise model (column names and SQL types) with a row type: a dataclass or NamedTuple whose fields
have the names of the columns.

    GRANTS = Table(models.Grant, Grant, key=("account_id", "number"))

    _PAGE = f"SELECT {GRANTS.columns('g')} FROM credit_grant AS g WHERE g.account_id = $1"
    grants = [GRANTS.read(record) for record in await pools.fetch(_PAGE, account_id)]

    _INSERT = GRANTS.insert()
    write.add_row(_INSERT, grant)

Fields of the row type that are not columns of the model are ignored. Enums and JSON are converted by their annotation
and column type. Other conversions are given by column: `decode` converts from the database (JSON is already parsed),
`encode` to the database. NULL is never converted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from operator import attrgetter, itemgetter
from typing import Any, Final, Generic, TypeVar, cast, get_args, get_type_hints

import orjson
from tortoise import fields as model_fields
from tortoise.models import Model
from tortoise.queryset import QuerySet

from app.db.set_writes import RowStatement

Row = TypeVar("Row")
Key = TypeVar("Key", int, str)
Convert = Callable[[Any], Any]

_SQL_TYPES: Final[Mapping[type, str]] = {
    model_fields.BigIntField: "bigint",
    model_fields.IntField: "int",
    model_fields.CharField: "text",
    model_fields.TextField: "text",
    model_fields.BinaryField: "bytea",
    model_fields.DatetimeField: "timestamptz",
    model_fields.BooleanField: "bool",
    model_fields.JSONField: "jsonb",
}


def key_columns(keys: Iterable[tuple[int, Key]]) -> tuple[list[int], list[Key]]:
    """Return keys (account id, second part) without duplicates, as two columns for `unnest`."""
    pairs = list(dict.fromkeys(keys))
    return [account_id for account_id, _ in pairs], [second for _, second in pairs]


def to_json(value: Any) -> str:
    """Return the text of a jsonb value, as asyncpg expects it."""
    return orjson.dumps(value).decode()


class Table(Generic[Row]):
    """The columns of one table, and their conversion from and to a row type."""

    def __init__(
        self,
        model: type[Model],
        row_type: type[Row],
        *,
        key: Sequence[str],
        decode: Mapping[str, Convert] | None = None,
        encode: Mapping[str, Convert] | None = None,
    ) -> None:
        self.name = str(model._meta.db_table)
        self._key = tuple(key)
        self._row_type = row_type
        self._types = {name: _SQL_TYPES[type(field)] for name, field in model._meta.fields_map.items()}
        hints = get_type_hints(row_type)
        self.column_names = tuple([name for name in hints if name in self._types])
        self._get_columns = itemgetter(*self.column_names)
        self._make = _maker(row_type, self.column_names, tuple(hints))
        converters = [
            *((name, _parse_json) for name in self.column_names if self._types[name] == "jsonb"),
            *((name, enum) for name in self.column_names if (enum := _enum_of(hints[name])) is not None),
            *(decode or {}).items(),
        ]
        self._decode = [(self.column_names.index(name), convert) for name, convert in converters]
        self._encode = {name: to_json for name, sql_type in self._types.items() if sql_type == "jsonb"}
        self._encode |= dict(encode or {})

    def columns(self, alias: str) -> str:
        """Return the columns of a row for SELECT: "t.account_id, t.task_id"."""
        return ", ".join(self.column_list(alias))

    def column_list(self, alias: str) -> list[str]:
        return [f"{alias}.{name}" for name in self.column_names]

    def read(self, record: Any) -> Row:
        """Return a row from a record, by column name. Other columns of the record are ignored."""
        values = list(self._get_columns(record))
        for place, convert in self._decode:
            if (value := values[place]) is not None:
                values[place] = convert(value)
        row: Row = self._make(values)
        return row

    async def fetch(self, query: QuerySet[Any]) -> list[Row]:
        """Return the rows of a Tortoise query over the model."""
        return [self.read(row) for row in await query.values(*self.column_names)]

    async def fetch_one(self, query: QuerySet[Any]) -> Row | None:
        """Return the row of a Tortoise query that finds at most one, or None."""
        rows = await self.fetch(query)
        return rows[0] if rows else None

    def insert(
        self,
        *others: str,
        columns: Iterable[str] | None = None,
        on_conflict: str = "",
        checks_row_count: bool = True,
    ) -> RowStatement:
        """Return a statement that inserts rows.

        `columns` are the columns of the row to write; None means all. `others` are further columns. The values are
        attributes of the row. Values that are not attributes are given to `SetWrite.add_row` by name.
        """
        names = self._attributes_first((*(self.column_names if columns is None else columns), *others))
        sql = (
            f"INSERT INTO {self.name} ({', '.join(names)})"  # noqa: S608  our own names
            f" SELECT * FROM unnest({self._parameters(names)}) {on_conflict} RETURNING 1"
        )
        return self._statement("insert into", sql, names, checks_row_count=checks_row_count)

    def update(
        self,
        *columns: str,
        where: str = "",
        others: Mapping[str, str] | None = None,
        checks_row_count: bool = True,
    ) -> RowStatement:
        """Return a statement that updates `columns` of the rows with the same key.

        `where` is a further condition over t (the stored row) and v (the new values). `others` are values for `where`
        that are not columns, as {name: SQL type}. Values are found as in `insert`.
        """
        more = dict(others or {})
        names = self._attributes_first((*self._key, *columns, *more))
        conditions = [*(f"t.{name} = v.{name}" for name in self._key), *([where] if where else [])]
        assignments = ", ".join([f"{name} = v.{name}" for name in columns])
        sql = (
            f"UPDATE {self.name} AS t SET {assignments}"  # noqa: S608  our own names
            f" FROM unnest({self._parameters(names, more)}) AS v({', '.join(names)})"
            f" WHERE {' AND '.join(conditions)} RETURNING 1"
        )
        return self._statement("update", sql, names, checks_row_count=checks_row_count)

    def _is_attribute(self, name: str) -> bool:
        return hasattr(self._row_type, name)

    def _attributes_first(self, names: Sequence[str]) -> list[str]:
        return sorted(names, key=lambda name: not self._is_attribute(name))

    def _parameters(self, names: Sequence[str], more: Mapping[str, str] | None = None) -> str:
        types = self._types | dict(more or {})
        return ", ".join(f"${number}::{types[name]}[]" for number, name in enumerate(names, 1))

    def _statement(self, action: str, sql: str, names: Sequence[str], *, checks_row_count: bool) -> RowStatement:
        attributes = [name for name in names if self._is_attribute(name)]
        return RowStatement(
            name=f"{action} {self.name}",
            sql=sql,
            columns=len(names),
            checks_row_count=checks_row_count,
            get_values=_getter(self._row_type, attributes),
            others=tuple(names[len(attributes) :]),
            encode=tuple([(place, self._encode[name]) for place, name in enumerate(names) if name in self._encode]),
        )


class RowSelect:
    """A SELECT that another statement contains as an array of ROW(...), where columns have no names.

    `columns` are expressions such as "t.task_id" or "count(*) AS runs". `source` is the statement from FROM on.
    """

    def __init__(self, columns: Sequence[str], source: str) -> None:
        self.names = tuple([column.rsplit(" AS ", 1)[-1].rsplit(".", 1)[-1] for column in columns])
        self.sql = f"SELECT ROW({', '.join([column.rsplit(' AS ', 1)[0] for column in columns])}) {source}"

    def read(self, rows: Iterable[Sequence[Any]]) -> list[dict[str, Any]]:
        """Return the rows with the names of their columns."""
        return [dict(zip(self.names, row, strict=True)) for row in rows]


def _maker(row_type: Any, names: Sequence[str], fields: Sequence[str]) -> Callable[[list[Any]], Any]:
    """Return a function that creates a row from the values of the columns `names`.

    A NamedTuple takes them in order, which is fast.
    """
    if issubclass(row_type, tuple) and tuple(names) == tuple(fields):
        return cast(Callable[[list[Any]], Any], row_type._make)
    return lambda values: row_type(**dict(zip(names, values, strict=True)))


def _getter(row_type: Any, names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    """Return a function that returns these attributes of a row.

    It returns a NamedTuple with exactly these fields unchanged.
    """
    if issubclass(row_type, tuple) and tuple(names) == row_type._fields:
        return tuple
    return attrgetter(*names)


def _enum_of(hint: Any) -> Convert | None:
    return next((one for one in (hint, *get_args(hint)) if isinstance(one, type) and issubclass(one, Enum)), None)


def _parse_json(value: Any) -> Any:
    return orjson.loads(value) if isinstance(value, str) else value  # Tortoise may have parsed it already
