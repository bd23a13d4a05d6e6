"""Background loops: restarted after a failure, independent of each other, stopped at the end."""

import asyncio
import logging
from contextlib import suppress

import pytest

from app import background

pytestmark = pytest.mark.anyio


async def test_a_loop_that_fails_or_ends_is_logged_and_restarted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "RESTART_SECONDS", 0)
    runs = 0
    third_run = asyncio.Event()

    async def unreliable() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise ValueError("first run")
        if runs == 3:
            third_run.set()
            await asyncio.Event().wait()

    with caplog.at_level(logging.ERROR):
        async with asyncio.timeout(2), background.run_in_background({"unreliable": unreliable}):
            await third_run.wait()
    assert [record.getMessage() for record in caplog.records] == [
        "background loop unreliable failed and is restarted",
        "background loop unreliable ended unexpectedly and is restarted",
    ]
    assert "first run" in caplog.text


async def test_a_loop_that_fails_does_not_end_the_others_and_all_stop_at_the_end() -> None:
    events: list[str] = []

    async def healthy() -> None:
        try:
            events.append("started")
            await asyncio.Event().wait()
        finally:
            events.append("stopped")

    async def broken() -> None:
        raise ValueError("broken")

    async with asyncio.timeout(2), background.run_in_background({"healthy": healthy, "broken": broken}):
        await asyncio.sleep(0.02)
        assert events == ["started"]
    assert events == ["started", "stopped"]


@pytest.mark.parametrize(
    "failure",
    [
        ConnectionResetError("reset"),
        ExceptionGroup("tasks", [ExceptionGroup("inner", [ConnectionResetError("reset")])]),
    ],
    ids=["plain", "of a task group"],
)
async def test_without_a_database_a_loop_logs_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failure: Exception
) -> None:
    monkeypatch.setattr(background, "RESTART_SECONDS", 60)

    async def fail() -> None:
        raise failure

    async with background.run_in_background({"reader": fail}):
        await asyncio.sleep(0.01)

    assert [(record.getMessage(), record.exc_info) for record in caplog.records] == [
        ("background loop reader failed and is restarted: reset", None)
    ]


async def test_a_loop_that_does_not_end_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "STOP_SECONDS", 0.01)
    may_end = False

    async def hang() -> None:
        while not may_end:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    async with asyncio.timeout(2), background.run_in_background({"hanging": hang}):
        await asyncio.sleep(0)
    may_end = True
