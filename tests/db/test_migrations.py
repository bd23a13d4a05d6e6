"""Migrations: they make what the models and the SQL say, and statements use the intended indexes."""

import re
import secrets
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from tortoise import Tortoise
from tortoise.connection import get_connection
from tortoise.fields import (
    BigIntField,
    BinaryField,
    BooleanField,
    CharField,
    DatetimeField,
    IntField,
    JSONField,
    TextField,
)
from tortoise.migrations.autodetector import MigrationAutodetector
from tortoise.migrations.executor import MigrationExecutor, MigrationTarget

from app.db import migrations, pools
from app.db.database_url import connection_arguments
from app.db.tables import key_columns
from app.ledger import posting
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import account_statement, costs, queries, rows
from app.tasks.charging import charge_many
from app.topups.refunds import locked_top_up
from tests.command_line import REPOSITORY
from tests.factories import block_run_request, grant_credits, start_task

pytestmark = pytest.mark.anyio

ALL_MIGRATIONS = [
    "0001_initial",
    "0002_keys_checks_and_indexes",
    "0003_top_up_total",
    "0004_top_up_captured_in_part",
    "0005_dispute_figures",
    "0006_task_shortfall",
    "0007_outgoing_webhooks",
    "0008_ledger_key_ids",
    "0009_unspent_grants",
    "0010_finite_instants",
    "0011_verification",
    "0012_erasing_owners",
]

TYPES: dict[type, str] = {
    BigIntField: "bigint",
    IntField: "integer",
    CharField: "character varying",
    TextField: "text",
    BinaryField: "bytea",
    DatetimeField: "timestamp with time zone",
    BooleanField: "boolean",
    JSONField: "jsonb",
}

KEYS = {
    "account": ["id"],
    "service_key": ["id"],
    "ledger_key": ["id"],
    "audit_record": ["id"],
    "auto_top_up": ["account_id"],
    "block_run": ["account_id", "block_run_id"],
    "credit_grant": ["account_id", "number"],
    "dispute": ["account_id", "dispute_ref"],
    "entry": ["account_id", "seq"],
    "hold": ["account_id", "number"],
    "notification": ["account_id", "number"],
    "operation": ["account_id", "key"],
    "owner": ["owner_id"],
    "payment_customer": ["account_id", "provider"],
    "provider_event": ["event_id"],
    "provider_payment": ["payment_ref"],
    "rate_card": ["version"],
    "sandbox_card": ["card_ref"],
    "sandbox_customer": ["customer_ref"],
    "sandbox_dispute": ["payment_ref"],
    "sandbox_payment": ["reference"],
    "sandbox_refund": ["refund_ref"],
    "skipped_start": ["account_id", "task_id"],
    "task": ["account_id", "task_id"],
    "task_account": ["task_id"],
    "top_up": ["account_id", "id"],
    "top_up_refund": ["account_id", "id"],
    "webhook_delivery": ["account_id", "id"],
    "verification": ["id"],
    "webhook_endpoint": ["id"],
}

TABLES = tuple(KEYS)


async def test_every_table_has_the_columns_of_its_model(db: str) -> None:
    for model in Tortoise.apps["credits"].values():
        meta = model._meta
        found = {
            record["column_name"]: (record["data_type"], record["is_nullable"] == "YES", record["size"])
            for record in await pools.fetch(
                "SELECT column_name, data_type, is_nullable, character_maximum_length AS size"
                " FROM information_schema.columns WHERE table_name = $1",
                meta.db_table,
            )
        }
        expected = {
            field.source_field or name: (TYPES[field.__class__], field.null, getattr(field, "max_length", None))
            for name, field in meta.fields_map.items()
        }
        assert found == expected, meta.db_table


async def test_primary_keys_start_with_the_account(db: str) -> None:
    found = await pools.fetch(
        "SELECT c.conrelid::regclass::text AS name, array_agg(a.attname::text ORDER BY k.place) AS columns"
        " FROM pg_constraint AS c, unnest(c.conkey) WITH ORDINALITY AS k(number, place), pg_attribute AS a"
        " WHERE c.contype = 'p' AND a.attrelid = c.conrelid AND a.attnum = k.number"
        " AND c.connamespace = 'public'::regnamespace GROUP BY 1"
    )
    assert {record["name"]: record["columns"] for record in found if record["name"] != "tortoise_migrations"} == KEYS


INDEXES = """
    SELECT i.relname AS name FROM pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid
    WHERE NOT EXISTS (SELECT FROM pg_constraint AS c WHERE c.conindid = x.indexrelid)
"""
"""All indexes but those of primary keys and unique columns."""


async def test_the_database_has_the_checks_indexes_and_triggers_of_the_sql(db: str) -> None:
    sql = "".join([(REPOSITORY / "migrations" / f"{name}.py").read_text() for name in ALL_MIGRATIONS])
    for pattern, query in (
        (r"ADD CONSTRAINT (\w+) CHECK", "SELECT conname AS name FROM pg_constraint WHERE contype = 'c'"),
        (r"CREATE (?:UNIQUE )?INDEX (\w+)", INDEXES),
        (r"CREATE TRIGGER (\w+)", "SELECT tgname AS name FROM pg_trigger WHERE NOT tgisinternal"),
    ):  # fmt: skip
        in_database = {record["name"] for record in await pools.fetch(query)}
        expected = set(re.findall(pattern, sql))
        assert expected
        assert in_database >= expected
        assert {name for name in in_database if name.startswith(TABLES)} == expected


async def test_ids_are_compared_as_bytes(db: str) -> None:
    text = await pools.fetch(
        "SELECT table_name, column_name FROM information_schema.columns"
        " WHERE column_name IN ('owner_id', 'task_id', 'block_run_id', 'key') AND table_schema = 'public'"
        " AND collation_name IS DISTINCT FROM 'C'"
    )
    assert [tuple(record) for record in text] == []


async def test_checks_refuse_impossible_figures(db: str) -> None:
    await grant_credits("alice", 10)
    for statement in (
        "UPDATE account SET posted = -1",
        "UPDATE account SET held = 11",
        "UPDATE credit_grant SET remaining = 11",
        "UPDATE credit_grant SET claimed = 11",
    ):
        with pytest.raises(asyncpg.CheckViolationError):
            await pools.fetch(statement)


async def test_the_models_need_no_further_migration(db: str) -> None:
    apps = {"credits": {"models": pools.MODELS, "migrations": "migrations"}}
    writers = await MigrationAutodetector(Tortoise.apps, apps).changes()
    assert [operation.describe() for writer in writers for operation in writer.operations] == []


async def test_migrations_can_be_undone_and_applied_again(database_url: str) -> None:
    """In a database of its own, because it drops all tables."""
    name = f"credits_scratch_{secrets.token_hex(4)}"
    admin = await asyncpg.connect(**connection_arguments(database_url))
    await admin.execute(f'CREATE DATABASE "{name}"')
    url = urlunsplit(urlsplit(database_url)._replace(path=f"/{name}"))
    try:
        await pools.connect(url)
        assert await migrations.apply() == ALL_MIGRATIONS
        assert await migrations.apply() == []
        executor = MigrationExecutor(
            get_connection("default"), {"credits": {"models": pools.MODELS, "migrations": "migrations"}}
        )
        await executor.migrate([MigrationTarget("credits", "__first__")])
        left = await pools.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        assert {record["tablename"] for record in left} == {"tortoise_migrations"}
        assert await migrations.pending() == ALL_MIGRATIONS
        assert await migrations.apply() == ALL_MIGRATIONS
    finally:
        await pools.disconnect()
        await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        await admin.close()


async def test_paid_top_ups_get_the_total_with_the_tax_that_was_added(database_url: str) -> None:
    """In a database of its own, because it undoes a migration."""
    name = f"credits_scratch_{secrets.token_hex(4)}"
    admin = await asyncpg.connect(**connection_arguments(database_url))
    await admin.execute(f'CREATE DATABASE "{name}"')
    try:
        await pools.connect(urlunsplit(urlsplit(database_url)._replace(path=f"/{name}")))
        await migrations.apply()
        executor = MigrationExecutor(
            get_connection("default"), {"credits": {"models": pools.MODELS, "migrations": "migrations"}}
        )
        await executor.migrate([MigrationTarget("credits", "0002_keys_checks_and_indexes")])
        taxes = {
            "added": '[{"label": "Tax", "amount_minor": 100, "inclusive": false}]',
            "both": '[{"label": "a", "amount_minor": 7, "inclusive": false},'
            ' {"label": "b", "amount_minor": 50, "inclusive": true}, {"label": "c", "amount_minor": 1,'
            ' "inclusive": false}]',
            "empty": "[]", "json null": "null", "none": None, "unpaid": None,
        }  # fmt: skip
        for top_up, lines in taxes.items():
            await pools.fetch(
                "INSERT INTO top_up (account_id, id, credits, amount_minor, currency, status, provider, actor,"
                " created_at, paid_at, tax_lines) VALUES (1, $1, 500, 500, 'USD', $2::text, 'stripe', 'user:a', now(),"
                " CASE $2::text WHEN 'PAID' THEN now() END, $3::jsonb)",
                top_up, "PENDING" if top_up == "unpaid" else "PAID", lines,
            )  # fmt: skip
        assert await migrations.apply() == ALL_MIGRATIONS[2:]
        found = await pools.fetch("SELECT id, total_minor FROM top_up")
        assert {row["id"]: row["total_minor"] for row in found} == {
            "added": 600, "both": 508, "empty": 500, "json null": 500, "none": 500, "unpaid": None,
        }  # fmt: skip
        await pools.fetch("UPDATE top_up SET refunded_minor = 600 WHERE id = 'added'")
        for statement in (
            "UPDATE top_up SET refunded_minor = 601 WHERE id = 'added'",
            "UPDATE top_up SET refunded_minor = 501 WHERE id = 'unpaid'",
            "UPDATE top_up SET total_minor = 499 WHERE id = 'empty'",
        ):
            with pytest.raises(asyncpg.CheckViolationError):
                await pools.fetch(statement)
    finally:
        await pools.disconnect()
        await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        await admin.close()


async def test_a_posting_finds_rows_by_key_even_on_empty_tables(db: str) -> None:
    """A posting connection keeps the plan of its first use, when there are no statistics yet."""
    connection = await asyncpg.connect(**connection_arguments(db), server_settings=pools.POSTING_PLANNER)
    reads = [rows.read_tasks([(1, "t")]), rows.read_block_runs([(1, "b")])]
    holds = [rows.read_budgets([(1, "t")]), rows.read_holds([(1, "b")])]
    sql = posting._read_statement(
        tuple((read.sql, len(read.values)) for read in holds),
        tuple((read.select.sql, len(read.values)) for read in reads),
        True,
    )
    values = [
        [1],
        [1],
        *[value for read in holds for value in read.values],
        *[value for read in reads for value in read.values],
    ]
    for table in ("hold", "block_run", "task", "entry", "credit_grant"):  # other tests have left dead rows
        await connection.execute(f"VACUUM FULL {table}")
    for stage in ("new", "vacuumed while empty", "filled and analysed"):
        if stage == "vacuumed while empty":
            await connection.execute("VACUUM ANALYZE")
        if stage == "filled and analysed":
            await grant_credits("alice", 1_000)
            for _ in range(20):
                await start_task("alice")
            await connection.execute("ANALYZE")
        plans = [
            *await connection.fetch(f"EXPLAIN {sql}", *values),
            *await connection.fetch(f"EXPLAIN {rows._REVERSIBLE_BLOCK_RUNS}", 1, "t", 0, 500),
            *await connection.fetch(f"EXPLAIN {locked_top_up._UNSPENT_DRAWS}", 1, 1),
        ]
        plan = "\n".join(record[0] for record in plans)
        used = set(re.findall(r"Index (?:Only )?Scan using (\w+)", plan))
        keys = {"task_pkey", "block_run_pkey", "block_run_of_task", "entry_pkey", "hold_pkey", "hold_of_block_run"}
        assert used == keys | {"credit_grant_open", "hold_open", "entry_unspent"}, (stage, plan)
        assert "Seq Scan" not in plan
    await connection.close()


async def test_reads_of_a_task_use_its_index_in_a_busy_account(db: str, rate_cards: RateCardCache) -> None:
    """On the default pool, where the planner is free to choose."""
    await grant_credits("alice", 10_000)
    tasks = [await start_task("alice") for _ in range(100)]
    for place in range(0, 100, 10):
        runs = [
            block_run_request(task, block="SearchTheWebBlock") for task in tasks[place : place + 10] for _ in range(80)
        ]
        await charge_many([(tasks[0].account_id, run) for run in runs], rate_cards)
    await pools.fetch("ANALYZE")
    accounts, names = key_columns((task.account_id, task.task_id) for task in tasks[:10])
    for sql, index, values in (
        (costs._COSTS_BY_BLOCK, "block_run_of_task", (accounts, names)),
        (costs._COSTS_BY_MODEL, "block_run_of_task", (accounts, names)),
        (queries._BLOCK_RUNS_OF_TASKS, "block_run_of_task", (accounts, names, 0, 5)),
        (account_statement._CHARGES, "block_run_of_task", (accounts[0], names, 0, 9_999)),
        (account_statement._ENTRIES, "entry_pkey", (accounts[0], 0, 9_999, None, 200)),
        (account_statement._ENTRIES_WITHOUT_CHARGES, "entry_beside_charges", (accounts[0], 0, 9_999, ["GRANT"], 200)),
        (account_statement._REVERSALS, "entry_beside_charges", (accounts[0], names, 0, 9_999)),
    ):
        plan = "\n".join(record[0] for record in await pools.fetch(f"EXPLAIN {sql}", *values))
        assert index in plan, plan
        assert "BitmapAnd" not in plan, plan
