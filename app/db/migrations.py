"""Bringing the database to the state that this version of the code expects, by Tortoise's migrations."""

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.connection import get_connection
from tortoise.migrations.executor import MigrationExecutor
from tortoise.migrations.recorder import MigrationRecorder
from tortoise.migrations.schema_editor.asyncpg import AsyncpgSchemaEditor
from tortoise.transactions import in_transaction

from app.db import pools


async def apply() -> list[str]:
    """Apply what is pending, all of it or nothing, and name it. Needs `database.connect`.

    One transaction: Tortoise alone commits a migration before it records it, and, killed between the two, would run it
    again. Of two processes that migrate at once the second fails and leaves nothing behind.
    """
    names = await pending()
    if names:
        # Before the transaction: Tortoise reads this table first, and one that is missing would abort the transaction.
        connection = get_connection("default")
        await MigrationRecorder(connection).ensure_schema(AsyncpgSchemaEditor(connection, atomic=False))
        async with in_transaction("default") as transaction:
            await _executor(transaction).migrate()
    return names


async def pending() -> list[str]:
    """The migrations that the database lacks, in the order in which they apply. Needs `database.connect`."""
    plan = await _executor(get_connection("default")).plan()
    return [step.migration.name for step in plan if not step.backward]


def _executor(connection: BaseDBAsyncClient) -> MigrationExecutor:
    return MigrationExecutor(connection, {"credits": {"models": pools.MODELS, "migrations": "migrations"}})
