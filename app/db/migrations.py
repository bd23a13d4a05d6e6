"""Applies pending migrations with Tortoise's migration executor."""

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.connection import get_connection
from tortoise.migrations.executor import MigrationExecutor
from tortoise.migrations.recorder import MigrationRecorder
from tortoise.migrations.schema_editor.asyncpg import AsyncpgSchemaEditor
from tortoise.transactions import in_transaction

from app.db import pools


async def apply() -> list[str]:
    """Apply all pending migrations in one transaction, and return their names. `pools.connect` must be called first.

    Without this transaction, Tortoise commits a migration before it records it. A process that is killed in between
    would apply the migration again. If two processes migrate at the same time, the second fails and changes nothing.
    """
    names = await pending()
    if names:
        # This comes before the transaction, because Tortoise reads this table first, and a missing table would abort
        # the transaction.
        connection = get_connection("default")
        await MigrationRecorder(connection).ensure_schema(AsyncpgSchemaEditor(connection, atomic=False))
        async with in_transaction("default") as transaction:
            await _executor(transaction).migrate()
    return names


async def pending() -> list[str]:
    """Return the names of the pending migrations, in order. `pools.connect` must be called first."""
    plan = await _executor(get_connection("default")).plan()
    return [step.migration.name for step in plan if not step.backward]


def _executor(connection: BaseDBAsyncClient) -> MigrationExecutor:
    return MigrationExecutor(connection, {"credits": {"models": pools.MODELS, "migrations": "migrations"}})
