"""The database drops connections during charges: no acknowledged charge is lost, and none is charged twice."""

import asyncio

import asyncpg
import pytest

from tests.factories import unique_id
from tests.stories.conftest import Platform, a_charge, pushed
from tests.stories.test_balance_subscription import BALANCE

pytestmark = pytest.mark.anyio

CHARGE = (
    "mutation($input: ChargeInput!) { charge(input: $input) { __typename ... on ChargeSuccess { entry { seq } } } }"
)
KILL = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""


async def charge_until_answered(platform: Platform, task: str, run: str, codes: set[str]) -> int:
    """Repeat the same request until there is a result, as an executor does. Returns the entry's seq."""
    while True:
        body = (await platform.post("service", CHARGE, input=a_charge(task, run))).json()
        if "errors" not in body:
            assert body["data"]["charge"]["__typename"] == "ChargeSuccess", body
            return int(body["data"]["charge"]["entry"]["seq"])
        codes.add(body["errors"][0]["extensions"]["code"])
        await asyncio.sleep(0.02)


async def test_connections_are_killed_during_charges_and_a_subscription(
    platform: Platform, snapshots: asyncpg.Connection
) -> None:
    owner = unique_id("story")
    await platform.grant(owner, 3_000)
    task = await platform.start(owner)
    codes: set[str] = set()
    async with platform.subscribed("service", BALANCE, owner=owner) as header:
        assert (await pushed(header, "balance"))["available"] == 3_000

        async def charges() -> list[int]:
            return [await charge_until_answered(platform, task, unique_id("story-run"), codes) for _ in range(20)]

        async def kills() -> int:
            killed = 0
            for _ in range(8):
                await asyncio.sleep(0.1)
                killed += await snapshots.fetchval(KILL)
            return killed

        killing = asyncio.create_task(kills())
        seqs = await asyncio.gather(*(charges() for _ in range(10)))
        assert await killing > 8
        assert codes <= {"UNAVAILABLE"}
        last = await pushed(header, "balance")
        while last["version"] < 201:
            last = await pushed(header, "balance")
        assert last == {"available": 1_000, "version": 201, "status": "OK"}
    assert sorted(seq for some in seqs for seq in some) == list(range(2, 202))
    await platform.audited(owner)
