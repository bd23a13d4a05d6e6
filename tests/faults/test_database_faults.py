"""PostgreSQL stops, refuses to write or lacks a resource, while clients charge."""

import asyncio
import os
import time
from datetime import datetime

import pytest

from tests.faults import causes
from tests.faults.installation import Installation
from tests.faults.measuring import FAULT_SECONDS, Report, measure, running_load
from tests.faults.outcome import OTHERS_SECONDS, examine

pytestmark = [pytest.mark.anyio, pytest.mark.faults]

CLOCK_SECONDS = 30

OUTAGES = {
    "PostgreSQL is stopped immediately and started": (causes.stopped_database, 1),
    "the database is read-only for a moment": (causes.read_only_database, 5),
    "new sessions of the role are read-only for a moment": (causes.read_only_sessions, 5),
    "all connections that PostgreSQL accepts are used": (causes.no_free_connection, 5),
}


@pytest.mark.parametrize(("cause", "seconds"), OUTAGES.values(), ids=OUTAGES)
async def test_callers_get_unavailable_and_are_served_again_after_an_outage(
    cause: causes.Cause, seconds: float, installation: Installation, report: Report, request: pytest.FixtureRequest
) -> None:
    measured = await measure(installation, cause(installation), seconds=seconds)

    report(f"{request.node.callspec.id}: {measured.outcome}")
    assert measured.outcome.problems == []
    assert measured.readiness() <= {503}


async def test_a_locked_account_delays_no_other(installation: Installation, report: Report) -> None:
    async with running_load(installation) as load:
        locked, *others = load.owners
        began = time.monotonic()
        async with causes.locked_accounts(installation, locked):
            starting = asyncio.create_task(load.start_tasks(locked, count=12))
            await asyncio.sleep(FAULT_SECONDS)
        ended = time.monotonic()
        recovery_seconds = await load.seconds_until_served(ended)
        await starting
        await load.stop()
    outcome = await examine(load, recovery_seconds=recovery_seconds)

    report(f"an account is locked by another session: {outcome}")
    gaps = {owner: load.longest_gap(owner, began, ended) for owner in others}
    report(f"  the longest times in which another account was not charged: {max(gaps.values()):.1f} s")
    assert outcome.problems == []
    assert {owner for owner, gap in gaps.items() if gap > OTHERS_SECONDS} == set()
    assert {probe.status for probe in load.probes if began < probe.at < ended} == {200}


async def test_postings_go_on_while_the_queue_of_notifications_is_full(
    installation: Installation, report: Report
) -> None:
    measured = await measure(installation, causes.full_notify_queue(installation), seconds=3)

    report(f"the queue of notifications is full: {measured.outcome}")
    assert measured.outcome.problems == []
    assert measured.outcome.codes == {}


async def clock(installation: Installation) -> datetime:
    [record] = await installation.database.fetch("SELECT clock_timestamp() AS now")
    now: datetime = record["now"]
    return now


@pytest.mark.skipif(causes.FAKETIME is None, reason="needs libfaketime (Debian: libfaketime)")
async def test_postings_go_on_when_the_clock_steps_back(installation: Installation, report: Report) -> None:
    """libfaketime shows the true time to PostgreSQL's signal handlers, so some of its time limits end too early.

    Therefore some requests are sent again; none may have another error.
    """
    async with causes.false_clock(installation) as move, running_load(installation) as load:
        before = await clock(installation)
        move(-CLOCK_SECONDS)
        moved = time.monotonic()
        while await clock(installation) >= before:
            await asyncio.sleep(0.05)
            assert time.monotonic() < moved + 5, "the clock has not moved"
        recovery_seconds = await load.seconds_until_served(time.monotonic())
        await asyncio.sleep(1)
        move(0)
        await asyncio.sleep(2)
        await load.stop()
        outcome = await examine(load, recovery_seconds=recovery_seconds)

    report(f"PostgreSQL's clock steps back by {CLOCK_SECONDS} s: {outcome}")
    assert outcome.problems == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
async def test_a_full_disk_refuses_charges_and_loses_none(installation: Installation, report: Report) -> None:
    async with causes.small_disk(installation) as disk:
        measured = await measure(installation, disk.full(), seconds=3)

    report(f"the disk of the ledger is full: {measured.outcome}")
    assert measured.outcome.problems == []
    assert set(measured.outcome.codes) == {"UNAVAILABLE"}
