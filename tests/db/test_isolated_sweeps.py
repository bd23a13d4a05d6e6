"""Sweeps in which an item that fails does not stop the others."""

from collections.abc import Sequence

import asyncpg
import pytest

from app.db import isolated_sweeps
from app.db.failures import AccountsLocked
from app.db.isolated_sweeps import IsolatedSweep

pytestmark = pytest.mark.anyio


class Items:
    """A sweep that fails for a set of items, and the batches that succeeded."""

    def __init__(self, *failing: int, failure: Exception | None = None) -> None:
        self.failing = set(failing)
        self.failure = failure or ValueError("broken")
        self.calls = 0
        self.done: list[int] = []

    async def sweep(self, items: Sequence[int]) -> int:
        self.calls += 1
        if self.failing.intersection(items):
            raise self.failure
        self.done += items
        return len(items)


@pytest.mark.parametrize("failing", [(), (0,), (9,), (3, 4, 8), tuple(range(10))])
async def test_items_that_fail_are_logged_and_set_aside_and_the_others_are_swept(
    failing: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    items, isolated = Items(*failing), IsolatedSweep("changes of item")

    assert await isolated.run(range(10), items.sweep) == 10 - len(failing)

    assert items.done == [item for item in range(10) if item not in failing]
    assert isolated.items_set_aside() == list(failing)
    assert [record.getMessage() for record in caplog.records] == [
        f"changes of item {item} failed; they are tried again in 30 s" for item in failing
    ]


async def test_an_item_is_tried_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated_sweeps, "RETRY_SECONDS", 0)
    isolated = IsolatedSweep("changes of item")

    assert await isolated.run([1], Items(1).sweep) == 0
    assert isolated.items_set_aside() == []


async def test_a_connection_failure_ends_the_sweep_at_once(caplog: pytest.LogCaptureFixture) -> None:
    items, isolated = Items(3, failure=ConnectionResetError()), IsolatedSweep("changes of item")

    with pytest.raises(ConnectionResetError):
        await isolated.run(range(10), items.sweep)

    assert (items.calls, isolated.items_set_aside(), caplog.records) == (1, [], [])


async def test_an_empty_sweep_calls_nothing() -> None:
    items = Items()

    assert (await IsolatedSweep("changes of item").run([], items.sweep), items.calls) == (0, 0)


async def test_locked_accounts_are_set_aside_without_splitting_the_batch(caplog: pytest.LogCaptureFixture) -> None:
    items, isolated = Items(3, 5, failure=AccountsLocked([3, 5])), IsolatedSweep("changes of account")

    assert await isolated.run(range(10), items.sweep) == 8

    assert (items.calls, items.done, isolated.items_set_aside()) == (2, [0, 1, 2, 4, 6, 7, 8, 9], [3, 5])
    locked = "another transaction has locked account 3, 5"
    assert [(record.getMessage(), record.exc_info) for record in caplog.records] == [
        (f"changes of account {item} failed; they are tried again in 5 s: {locked}", None) for item in (3, 5)
    ]


@pytest.mark.parametrize("failure", [asyncpg.QueryCanceledError("too slow"), asyncpg.LockNotAvailableError("locked")])
async def test_an_item_that_takes_too_long_stops_no_other_and_is_one_line_in_the_log(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    items, isolated = Items(3, failure=failure), IsolatedSweep("changes of account")

    assert await isolated.run(range(10), items.sweep) == 9

    assert isolated.items_set_aside() == [3]
    assert [record.exc_info for record in caplog.records] == [None]
