"""Readiness: 200 if the database answers and has every migration and all checks succeed, otherwise 503."""

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest
from starlette.requests import Request

from app.db import connections, migrations, pools
from app.server import health
from app.server.health import DATABASE_SECONDS, Readiness
from tests.databases import execute

pytestmark = pytest.mark.anyio

REQUEST = Request({"type": "http"})


READY = {"ready": True, "reason": None, "checks": {"database": None}}


def not_ready(problem: str) -> dict[str, Any]:
    return {"ready": False, "reason": problem, "checks": {"database": problem}}


async def readiness(state: Readiness) -> tuple[int, Any]:
    response = await state.readyz(REQUEST)
    return response.status_code, json.loads(bytes(response.body))


async def test_a_migrated_database_is_ready_and_its_migrations_are_read_once(
    db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = Readiness({})
    assert await readiness(state) == (200, READY)
    monkeypatch.setattr(migrations, "pending", None)
    assert await readiness(state) == (200, READY)


async def test_pending_migrations_are_named_until_they_are_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["0003_next"]

    async def pending() -> list[str]:
        return names

    monkeypatch.setattr(migrations, "pending", pending)
    state = Readiness({})
    assert await readiness(state) == (503, not_ready("migrations are pending: 0003_next"))
    names.clear()
    assert (await readiness(state))[0] == 200


async def test_a_read_only_database_is_not_ready_and_its_connections_are_replaced(db: str) -> None:
    state = Readiness({})
    assert await readiness(state) == (200, READY)
    name = (await pools.fetch("SELECT quote_ident(current_database()) AS name"))[0]["name"]
    await execute(db, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    try:
        connections.replace_connections()  # the next session is read-only
        assert await readiness(state) == (503, not_ready("the database is read-only"))
    finally:
        await execute(db, "SET default_transaction_read_only = off", f"ALTER DATABASE {name} RESET ALL")
    async with asyncio.timeout(5):  # connections are replaced once per second
        while await readiness(state) != (200, READY):  # noqa: ASYNC110  the database is asked
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionRefusedError("to db.internal"), "the database does not answer"),
        (ValueError("unexpected"), "the database cannot be read"),
    ],
)
async def test_an_error_of_the_database_is_a_reason_without_its_message(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    async def fail(_: str) -> None:
        raise error

    state = Readiness({})
    state._is_migrated = True
    monkeypatch.setattr(pools, "fetch", fail)
    assert await readiness(state) == (503, not_ready(reason))


async def test_each_problem_is_named(db: str) -> None:
    problem = "charges have not ended for 9 s"
    state = Readiness({"charges": lambda: problem, "changeFeed": lambda: None})
    assert await readiness(state) == (
        503,
        {"ready": False, "reason": problem, "checks": {"database": None, "charges": problem, "changeFeed": None}},
    )


async def test_a_check_that_hangs_is_shared_and_abandoned_within_2_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = 0
    is_dead = True

    async def hang(_: str) -> None:
        nonlocal begun
        begun += 1
        while is_dead:  # not even a cancellation ends it
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    assert DATABASE_SECONDS < 2
    monkeypatch.setattr(health, "DATABASE_SECONDS", 0.05)
    monkeypatch.setattr(pools, "fetch", hang)
    state = Readiness({})
    state._is_migrated = True
    async with asyncio.timeout(1.5):
        answers = await asyncio.gather(*(readiness(state) for _ in range(50)))
    assert answers == [(503, not_ready("the database does not answer"))] * 50
    assert begun == 1
    is_dead = False
    assert await readiness(state) == (200, READY)


async def test_a_caller_that_leaves_does_not_end_the_check_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    may_answer = asyncio.Event()

    async def answer(_: str) -> None:
        await may_answer.wait()

    monkeypatch.setattr(pools, "fetch", answer)
    state = Readiness({})
    state._is_migrated = True
    first, second = asyncio.create_task(readiness(state)), asyncio.create_task(readiness(state))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    may_answer.set()
    assert await second == (200, READY)
