"""Upgrades: servers of the previous version work on the migrated database, next to servers of this version.

The previous version is PREVIOUS, a commit. Its code is taken from the history of the repository.
"""

import io
import secrets
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, Final, NamedTuple
from zipfile import ZipFile

import httpx
import pytest
from tortoise.connection import get_connection
from tortoise.migrations.executor import MigrationExecutor, MigrationTarget

from app.db import migrations, pools
from app.pricing.rate_card_json import default_rate_card
from tests.command_line import REPOSITORY, ServerProcess, run_process
from tests.databases import migrate, reset, temporary_database
from tests.graphql_client import execute, form_token

pytestmark = pytest.mark.anyio

PREVIOUS: Final = "517ad95"
"""The version that servers still run while the migrations of this one are applied. Move it with each release."""
LAST_MIGRATION: Final = "0004_top_up_captured_in_part"
"""The last migration of that version."""

COLUMNS: Final = """
    SELECT table_name || '.' || column_name AS name,
           data_type || coalesce('(' || character_maximum_length || ')', '') AS sql_type,
           is_nullable = 'NO' AND column_default IS NULL AS is_required
    FROM information_schema.columns WHERE table_schema = 'public'
"""

ITEM_BLOCK: Final = {"block": "ItemBlock", "credits": 1, "unit": "item"}
"""A block that costs 1 credit for each item."""


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the code of the previous version."""
    command = ["git", "-C", str(REPOSITORY), "archive", "--format=zip", PREVIOUS, "app", "migrations"]
    archived = subprocess.run(command, capture_output=True, check=False)
    if archived.returncode != 0:
        pytest.skip(f"the commit {PREVIOUS} of the previous version is not in this copy of the repository")
    directory = tmp_path_factory.mktemp("previous")
    with ZipFile(io.BytesIO(archived.stdout)) as archive:
        archive.extractall(directory)
    return directory


SELECTIONS: Final = {
    "charge": "... on InsufficientCreditsError { shortfall }",
    "beginTopUp": "... on BeginTopUpSuccess { topUp { id paymentUrl } }",
}
"""What is read of the results, beside their types."""


class Servers:
    """A server of each version on one database. Requests go to them in turn."""

    def __init__(self, first: ServerProcess, second: ServerProcess) -> None:
        self.tokens = first.tokens
        self.urls: Iterator[str] = cycle([first.url, second.url])

    def do(self, name: str, kind: str = "service", **values: Any) -> Any:
        """Execute a mutation, and return its result."""
        input_type = name[0].upper() + name[1:] + "Input"
        selection = f"__typename {SELECTIONS.get(name, '')}"
        query = f"mutation($input: {input_type}!) {{ {name}(input: $input) {{ {selection} }} }}"
        return execute(next(self.urls), self.tokens[kind], query, input=values)[name]

    def done(self, name: str, kind: str = "service", **values: Any) -> Any:
        """Execute a mutation that must succeed."""
        result = self.do(name, kind, **values)
        assert result["__typename"] == f"{name[0].upper()}{name[1:]}Success", result
        return result

    def buy(self, credits: int, key: str) -> str:
        """Buy credits at the sandbox, and return the id of the top-up."""
        top_up = self.done("beginTopUp", "user", credits=credits, idempotencyKey=key)["topUp"]
        with httpx.Client(timeout=30) as client:
            form = {"token": form_token(client.get(top_up["paymentUrl"]).text), "decision": "pay"}
            assert client.post(top_up["paymentUrl"], data=form).status_code == 303
        return str(top_up["id"])


@pytest.mark.soak
async def test_servers_of_both_versions_work_on_the_migrated_database(
    database_url: str, previous: Path, tmp_path: Path
) -> None:
    async with temporary_database(database_url) as url:
        await migrate(url)
        card = default_rate_card()
        await reset(url, {**card, "blocks": [*card["blocks"], ITEM_BLOCK]})
        settings = {"DATABASE_URL": url, "LEDGER_KEY": secrets.token_hex(32), "DATA_DIR": str(tmp_path), "PORT": "0"}
        with started(settings) as new, started(settings, checkout=previous) as old:
            first = use_all_operations(Servers(new, old), "first")
            second = use_all_operations(Servers(old, new), "second")

        verified = run_process("verify", **settings)
        assert (first, second) == (115, 230)
        assert (verified.returncode, verified.stdout.rpartition(": ")[2]) == (0, "the ledger is intact\n")


@contextmanager
def started(settings: Mapping[str, str], checkout: Path = REPOSITORY) -> Iterator[ServerProcess]:
    server = ServerProcess(settings, checkout=checkout)
    try:
        yield server
    finally:
        assert server.end() == 0


def use_all_operations(servers: Servers, task: str) -> int:
    """Grant, charge, hold, reverse, run out, resume, buy and refund: each request at the other version than the last.

    Returns: the credits that are available to Alice afterwards. Each call adds 115.
    """
    run, other = f"{task}-run", f"{task}-other"
    servers.done("grantCredits", "operator", ownerId="alice", credits=100, reason="welcome", idempotencyKey=task)
    servers.done("startTask", taskId=task, ownerId="alice", agentId="agent", budget=60)
    servers.done("charge", taskId=task, blockRunId=run, block="ItemBlock", measurements={"items": 20})
    servers.done("placeHold", taskId=task, blockRunId=other, block="ItemBlock", atMost={"items": 30})
    servers.done("captureHold", taskId=task, blockRunId=other, measurements={"items": 15})
    servers.done(
        "reverseCharge", "operator", taskId=task, blockRunId=run, credits=10, reason="late", idempotencyKey=run
    )
    servers.done("finishTask", taskId=task, status="COMPLETED")

    bob = {"ownerId": f"bob-{task}"}
    servers.done("grantCredits", "operator", credits=5, reason="welcome", idempotencyKey=task, **bob)
    servers.done("startTask", taskId=other, agentId="agent", **bob)
    refused = servers.do("charge", taskId=other, blockRunId=run, block="ItemBlock", measurements={"items": 8})
    assert refused["shortfall"] == 3
    servers.done("grantCredits", "operator", credits=5, reason="more", idempotencyKey=other, **bob)
    servers.done("resumeTask", taskId=other)
    servers.done("charge", taskId=other, blockRunId=run, block="ItemBlock", measurements={"items": 8})
    servers.done("cancelTask", taskId=other)

    top_up = servers.buy(500, key=other)
    servers.done(
        "refundTopUp", "operator", topUpId=top_up, credits=460, reason="asked", idempotencyKey=f"{task}-refund"
    )
    query = "{ account { balance { available } } }"
    return int(execute(next(servers.urls), servers.tokens["user"], query)["account"]["balance"]["available"])


async def test_a_migration_takes_nothing_away_that_the_previous_version_uses(database_url: str) -> None:
    """Columns stay, with their type; a new column of an existing table has a default or may be null."""
    async with temporary_database(database_url) as url:
        await pools.connect(url)
        try:
            modules = {"credits": {"models": pools.MODELS, "migrations": "migrations"}}
            connection = get_connection("default")
            await MigrationExecutor(connection, modules).migrate([MigrationTarget("credits", LAST_MIGRATION)])
            before = await columns()
            await migrations.apply()
            after = await columns()
        finally:
            await pools.disconnect()

    tables = {name.partition(".")[0] for name in before}
    changed = {
        name: (kind, after.get(name)) for name, kind in before.items() if not is_compatible(kind, after.get(name))
    }
    required = [
        name for name in after.keys() - before.keys() if name.partition(".")[0] in tables and after[name].is_required
    ]
    assert (changed, required) == ({}, [])


class ColumnKind(NamedTuple):
    """The SQL type of a column. It is required if an INSERT must name it, because it has no default."""

    sql_type: str
    is_required: bool


def is_compatible(before: ColumnKind, after: ColumnKind | None) -> bool:
    return after is not None and after.sql_type == before.sql_type and after.is_required <= before.is_required


async def columns() -> dict[str, ColumnKind]:
    """The columns of all tables, as `table.column`."""
    return {
        record["name"]: ColumnKind(record["sql_type"], record["is_required"]) for record in await pools.fetch(COLUMNS)
    }
