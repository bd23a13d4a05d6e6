"""The library page is the same on this server and on stock Strawberry."""

from pathlib import Path

import httpx

from bench import databases, environment, workload


async def test_both_servers_show_the_same_complete_page_and_only_to_callers_with_a_key(
    own_database: str, tmp_path: Path
) -> None:
    key = await databases.fill(own_database, many=0, hot=False)
    charges = await databases.fill_library(own_database)
    settings = environment.server_settings(own_database, DATA_DIR=str(tmp_path))

    with (
        environment.running_server("stock", "bench.stock_strawberry", "pages", directory=tmp_path, **settings) as stock,
        environment.running_server("this", "app", "serve", directory=tmp_path, **settings) as this,
    ):
        page, stock_page = [await databases.library_page(server.url, key) for server in (this, stock)]
        async with httpx.AsyncClient(base_url=stock.url, timeout=30) as client:
            body = {"query": workload.LIBRARY, "variables": workload.LIBRARY_VARIABLES}
            unknown = (await client.post("/graphql", json=body)).json()

    assert page == stock_page
    tasks = [edge["node"] for edge in page["data"]["agent"]["tasks"]["edges"]]
    assert charges == workload.LIBRARY_TASKS * workload.LIBRARY_RUNS == 150
    assert {(task["blockRunCount"], task["cost"]["total"]) for task in tasks} == {(3, 9)}
    assert [task["status"] for task in tasks] == ["COMPLETED", "RUNNING"] * 25
    assert page["data"]["agent"]["tasks"]["pageInfo"]["hasNextPage"] is False
    assert unknown["data"] == {"agent": None}
    assert len(unknown["errors"]) == 1
