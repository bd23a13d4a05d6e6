"""Apply the migrations that the database lacks, with Tortoise's migration executor."""

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.connection import get_connection
from tortoise.migrations.executor import MigrationExecutor
from tortoise.migrations.recorder import MigrationRecorder
from tortoise.migrations.schema_editor.asyncpg import AsyncpgSchemaEditor
from tortoise.transactions import in_transaction

from app.db import pools


async def apply() -> list[str]:
    """Apply all pending migrations in one transaction, and return their names. Needs `pools.connect`.

    Tortoise alone commits a migration before it records it; a process killed in between would apply it again. If two
    processes migrate at once, the second fails and changes nothing.
    """
    names = await pending()
    if names:
        # Before the transaction: Tortoise reads this table first, and a missing one would abort the transaction.
        connection = get_connection("default")
        await MigrationRecorder(connection).ensure_schema(AsyncpgSchemaEditor(connection, atomic=False))
        async with in_transaction("default") as transaction:
            await _executor(transaction).migrate()
    return names


async def pending() -> list[str]:
    """The names of the migrations that the database lacks, in order. Needs `pools.connect`."""
    plan = await _executor(get_connection("default")).plan()
    return [step.migration.name for step in plan if not step.backward]


def _executor(connection: BaseDBAsyncClient) -> MigrationExecutor:
    return MigrationExecutor(connection, {"credits": {"models": pools.MODELS, "migrations": "migrations"}})
