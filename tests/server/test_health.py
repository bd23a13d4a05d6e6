"""Readiness: 200 if the database answers and has every migration, otherwise 503 with the reason."""

import json
from typing import Any

import pytest
from starlette.requests import Request

from app.db import migrations, pools
from app.server.health import Readiness

pytestmark = pytest.mark.anyio

REQUEST = Request({"type": "http"})


async def readiness(state: Readiness) -> tuple[int, Any]:
    response = await state.readyz(REQUEST)
    return response.status_code, json.loads(bytes(response.body))


async def test_a_migrated_database_is_ready_and_its_migrations_are_read_once(
    db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = Readiness()
    assert await readiness(state) == (200, {"ready": True, "reason": None})
    monkeypatch.setattr(migrations, "pending", None)
    assert await readiness(state) == (200, {"ready": True, "reason": None})


async def test_pending_migrations_are_named_until_they_are_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["0003_next"]

    async def pending() -> list[str]:
        return names

    monkeypatch.setattr(migrations, "pending", pending)
    state = Readiness()
    assert await readiness(state) == (503, {"ready": False, "reason": "migrations are pending: 0003_next"})
    names.clear()
    assert (await readiness(state))[0] == 200


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

    state = Readiness()
    state._is_migrated = True
    monkeypatch.setattr(pools, "fetch", fail)
    assert await readiness(state) == (503, {"ready": False, "reason": reason})
