"""Row types: SQL derived from them, rows read by name, and set writes that check how many rows they affected."""

import pytest

from app.db import pools
from app.db.set_writes import RowCountMismatch, SetWrite, renumber_parameters, single_row_sql
from app.db.tables import RowSelect
from app.ledger import models
from app.ledger.rows import ENTRIES, GRANTS, HOLDS
from app.ledger.rules.account_state import GrantSource
from tests.factories import grant_credits

pytestmark = pytest.mark.anyio


def test_columns_are_the_fields_of_the_row_type() -> None:
    assert ENTRIES.columns("e").startswith("e.account_id, e.seq, e.version, e.kind, e.credits")
    assert set(HOLDS.column_names) == set(models.Hold._meta.fields_map) - {"remaining"}


def test_an_update_writes_its_columns_of_the_row_with_the_same_key() -> None:
    statement = GRANTS.update("remaining", "is_open", where="t.remaining > v.floor", others={"floor": "bigint"})

    assert statement.sql == (
        "UPDATE credit_grant AS t SET remaining = v.remaining, is_open = v.is_open"
        " FROM unnest($1::bigint[], $2::int[], $3::bigint[], $4::bool[], $5::bigint[])"
        " AS v(account_id, number, remaining, is_open, floor)"
        " WHERE t.account_id = v.account_id AND t.number = v.number AND t.remaining > v.floor RETURNING 1"
    )
    assert single_row_sql(statement.sql).count("[]") == 0
    assert renumber_parameters("$1 = $12", 3) == "$4 = $15"


def test_a_nested_select_gives_its_rows_their_names_again() -> None:
    select = RowSelect(["t.task_id", "count(*) AS runs"], "FROM task AS t")

    assert select.sql == "SELECT ROW(t.task_id, count(*)) FROM task AS t"
    assert select.read([("one", 2)]) == [{"task_id": "one", "runs": 2}]


async def test_rows_are_the_same_by_sql_and_by_a_tortoise_query(db: str) -> None:
    granted = (await grant_credits("alice", 10)).grant
    sql = f"SELECT {GRANTS.columns('g')}, 1 AS other FROM credit_grant AS g"

    assert [GRANTS.read(record) for record in await pools.fetch(sql)] == [granted]
    assert await GRANTS.fetch(models.Grant.filter(account_id=granted.account_id)) == [granted]
    assert granted.source is GrantSource.PROMOTIONAL
    [entry] = await ENTRIES.fetch(models.Entry.filter(account_id=granted.account_id))
    assert entry.draws == ((1, 10),)


@pytest.mark.parametrize("rows", [1, 2])
async def test_a_write_that_affects_fewer_rows_than_given_fails(db: str, rows: int) -> None:
    grant = (await grant_credits("alice", 10)).grant
    update = GRANTS.update("priority")
    write = SetWrite()
    for _ in range(rows - 1):
        write.add_row(update, grant)
    grant.number = 99
    write.add_row(update, grant)

    with pytest.raises(RowCountMismatch, match=f"update credit_grant: {rows - 1} rows instead of {rows}"):
        async with pools.transaction() as connection:
            await write.execute(connection)


def test_values_that_are_no_attributes_are_given_by_name() -> None:
    statement = HOLDS.insert("remaining")
    with pytest.raises(TypeError, match="insert into hold takes"):
        SetWrite().add_row(statement, object(), unknown=1, other=2)
