"""The library page is the same on this server and on stock Strawberry."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from app.settings import get_settings
from bench import databases, environment, workload
from bench.environment import Server
from tests.databases import temporary_database
from tests.graphql_client import request_of


def query(server: Server, key: str | None) -> Any:
    request = request_of(key, workload.LIBRARY, **workload.LIBRARY_VARIABLES)
    return httpx.post(f"{server.url}/graphql", timeout=30, **request).json()


def pages(directory: Path, key: str, settings: dict[str, str]) -> list[Any]:
    """The page on this server, on stock Strawberry, and there without a key."""
    stock_command = ("bench.reference_servers", "pages")
    with (
        environment.running_server("stock", *stock_command, directory=directory, **settings) as stock,
        environment.running_server("this", "app", "serve", directory=directory, **settings) as this,
    ):
        return [query(this, key), query(stock, key), query(stock, None)]


async def test_both_servers_show_the_same_complete_page_and_only_to_callers_with_a_key(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    get_settings.cache_clear()
    async with temporary_database(database_url) as url:
        key = await databases.fill(url, many=0, hot=False)
        charges = await databases.fill_library(url)
        page, stock_page, unknown = pages(tmp_path, key, environment.server_settings(url, DATA_DIR=str(tmp_path)))
    get_settings.cache_clear()

    assert page == stock_page
    tasks = [edge["node"] for edge in page["data"]["agent"]["tasks"]["edges"]]
    assert charges == workload.LIBRARY_TASKS * workload.LIBRARY_RUNS == 150
    assert {(task["blockRunCount"], task["cost"]["total"]) for task in tasks} == {(3, 9)}
    assert [task["status"] for task in tasks] == ["COMPLETED", "RUNNING"] * 25
    assert page["data"]["agent"]["tasks"]["pageInfo"]["hasNextPage"] is False
    assert unknown["data"] == {"agent": None}
    assert len(unknown["errors"]) == 1
