"""The application's life: loops that survive faults, and stop."""

import asyncio
import logging
from pathlib import Path

import httpx
import pytest

from app import main
from app.errors import Misconfigured
from app.settings import Settings

pytestmark = pytest.mark.anyio


async def test_a_loop_that_faults_is_logged_and_started_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(main, "RESTART_SECONDS", 0)
    turns = 0
    third = asyncio.Event()

    async def unsteady() -> None:
        nonlocal turns
        turns += 1
        if turns == 1:
            raise ValueError("stumbled")
        if turns == 3:
            third.set()
            await asyncio.Event().wait()

    with caplog.at_level(logging.ERROR):
        async with asyncio.timeout(2), main.run_in_background({"unsteady": unsteady}):
            await third.wait()
    assert [record.getMessage() for record in caplog.records] == [
        "unsteady failed and is started again",
        "unsteady ended by itself and is started again",
    ]
    assert "stumbled" in caplog.text


async def test_one_loop_that_faults_does_not_end_another_and_all_stop_at_the_end() -> None:
    life: list[str] = []

    async def steady() -> None:
        try:
            life.append("begun")
            await asyncio.Event().wait()
        finally:
            life.append("ended")

    async def broken() -> None:
        raise ValueError("broken")

    async with asyncio.timeout(2), main.run_in_background({"steady": steady, "broken": broken}):
        await asyncio.sleep(0.02)
        assert life == ["begun"]
    assert life == ["begun", "ended"]


async def test_it_answers_that_it_is_alive_without_a_database(tmp_path: Path) -> None:
    app = main.create_app(Settings(database_url="postgresql://localhost/nowhere", data_dir=tmp_path))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://credits") as client:
        assert (await client.get("/healthz")).json() == {"alive": True}


async def test_pages_of_other_hosts_may_call_in_development(tmp_path: Path) -> None:
    app = main.create_app(Settings(database_url="postgresql://localhost/nowhere", data_dir=tmp_path))
    headers = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://credits") as client:
        preflight = await client.options("/graphql", headers=headers)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "*"


def test_it_is_not_made_without_the_address_of_a_database(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="DATABASE_URL is not set"):
        main.create_app(Settings(database_url=None, data_dir=tmp_path))
