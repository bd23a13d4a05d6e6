"""The library page is whole, its books are exact, and stock Strawberry shows the same one."""

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import httpx
import pytest

from app import database
from app.settings import settings
from bench import library, preparing, scenarios, servers


@pytest.fixture
async def filled(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[str, int, dict[str, str]]]:
    """The key of a database with a library, its charges, and what a server on it needs to know."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    settings.cache_clear()
    name = f"bench_{secrets.token_hex(6)}"
    url = await preparing.create_database(database_url, name)
    key = await preparing.fill_product(url, (), lambda _: None)
    yield key, await library.fill(url), dict(servers.settings_of(url, DATA_DIR=str(tmp_path)))
    admin = await asyncpg.connect(**database.credentials(database_url))
    await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await admin.close()
    monkeypatch.undo()
    settings.cache_clear()


async def test_stock_strawberry_shows_the_same_page_of_the_same_books_and_half_of_one_is_told(
    filled: tuple[str, int, dict[str, str]], tmp_path: Path
) -> None:
    key, charges, environment = filled

    with (
        servers.running("stock", "bench.stock_pages", place=tmp_path, **environment) as stock,
        servers.running("this", "app", "serve", place=tmp_path, **environment) as this,
    ):
        same = await library.difference(this.url, stock.url, key)
        refused = await library.difference(this.url, this.url, "ck_nobody's")
        asked = {"query": scenarios.LIBRARY, "variables": scenarios.LIBRARY_ASKED}
        async with httpx.AsyncClient(base_url=stock.url, timeout=30) as client:
            page = (await client.post("/graphql", json=asked, headers={"authorization": f"Bearer {key}"})).json()
            stranger = (await client.post("/graphql", json=asked)).json()

    assert same is None
    assert refused is not None
    assert refused.startswith("there are 0 tasks on it: ")
    tasks = [edge["node"] for edge in page["data"]["agent"]["tasks"]["edges"]]
    assert charges == scenarios.LIBRARY_TASKS * scenarios.LIBRARY_RUNS == 150
    assert {(task["steps"], task["cost"]["total"]) for task in tasks} == {(3, 9)}
    assert [task["status"] for task in tasks] == ["COMPLETED", "RUNNING"] * 25
    assert page["data"]["agent"]["tasks"]["pageInfo"]["hasNextPage"] is False
    assert stranger["data"] == {"agent": None}
    assert len(stranger["errors"]) == 1
