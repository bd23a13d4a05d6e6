"""The library page is whole, its books are exact, and stock Strawberry shows the same one."""

from pathlib import Path

import httpx
import pytest

from bench import databases, library, scenarios, servers


@pytest.fixture
async def filled(own_database: str, tmp_path: Path) -> tuple[str, int, dict[str, str]]:
    """The key of a database with a library, its charges, and what a server on it needs to know."""
    key = await databases.fill_product(own_database, (), lambda _: None)
    return key, await library.fill(own_database), dict(servers.settings_of(own_database, DATA_DIR=str(tmp_path)))


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
