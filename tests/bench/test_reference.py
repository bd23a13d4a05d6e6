"""The reference server is a fair one: it charges what this server charges, and never wrongly."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from app.db import pools
from bench import databases, scenarios, servers


@pytest.fixture
async def prepared(own_database: str, tmp_path: Path) -> tuple[str, str, dict[str, str]]:
    """The reference server's database, its key, and what its process needs to know."""
    key = await databases.fill_reference(own_database)
    return own_database, key, dict(servers.settings_of(own_database, DATA_DIR=str(tmp_path)))


async def test_the_reference_charges_once_never_overdraws_and_keeps_its_sums(
    prepared: tuple[str, str, dict[str, str]], tmp_path: Path
) -> None:
    url, key, environment = prepared
    admin = await asyncpg.connect(**pools.connection_arguments(url))
    await admin.execute("UPDATE reference_account SET balance = 20 WHERE owner_id = $1", databases.HOT_OWNER)

    with servers.running("reference", "bench.reference", place=tmp_path, **environment) as server:
        client = httpx.AsyncClient(base_url=server.url, timeout=30)
        service = {"authorization": f"Bearer {key}"}

        async def answer(task: int, run: str, headers: dict[str, str], **more: Any) -> dict[str, Any]:
            asked = {
                "taskId": scenarios.task_id("hot", task), "blockRunId": run,
                "block": scenarios.BLOCK, "settings": scenarios.SETTINGS,
            } | more  # fmt: skip
            body = {"query": scenarios.CHARGE, "variables": {"input": asked}}
            found: dict[str, Any] = (await client.post("/graphql", json=body, headers=headers)).json()
            return found

        async def charge(task: int, run: str, **more: Any) -> dict[str, Any]:
            found: dict[str, Any] = (await answer(task, run, service, **more))["data"]["charge"]
            return found

        async with client:
            first, again = await charge(0, "run"), await charge(0, "run")
            other = await charge(0, "run", settings={"model": "gpt-4o-mini"})
            unpriced = await charge(0, "unpriced", block="NoSuchBlock")
            unknown = await charge(999_999, "unknown")
            own_key = await charge(0, "own", usesOwnKey=True)
            at_once = await asyncio.gather(*(charge(number, f"run-{number}") for number in range(20)))
            nobody = await answer(0, "nobody's", {})

    # A run costs 3: of 17 credits five more can be paid, and 2 are left.
    assert first == {
        "__typename": "ChargeSuccess", "cost": 3, "replayed": False, "balance": {"available": 17, "version": 1},
    }  # fmt: skip
    assert again == first | {"replayed": True}
    assert [refused["__typename"] for refused in (other, unpriced, unknown)] == ["ChargeRefusedError"] * 3
    assert own_key["cost"] == 0
    outcomes = Counter(result["__typename"] for result in at_once)
    assert outcomes == {"ChargeSuccess": 5, "InsufficientCreditsError": 15}
    assert nobody["errors"][0]["message"] == "This needs a service key."
    hot = await admin.fetchrow("SELECT id, balance FROM reference_account WHERE owner_id = $1", databases.HOT_OWNER)
    entries = await admin.fetchrow(
        "SELECT sum(credits) AS credits, count(*) FILTER (WHERE credits < 0) AS paid FROM reference_entry"
    )
    tasks = await admin.fetchval("SELECT sum(charged) FROM reference_task WHERE account_id = $1", hot["id"])
    await admin.close()
    assert (hot["balance"], entries["credits"], entries["paid"], tasks) == (2, -18, 6, 18)
