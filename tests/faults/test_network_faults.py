"""Connections are lost, slow or cut: those of the server to PostgreSQL, and those of clients to the server."""

import asyncio
import time

import pytest

from tests.faults import causes
from tests.faults.installation import Installation
from tests.faults.measuring import FAULT_SECONDS, LOST_REPLIES, Report, measure, running_load
from tests.faults.outcome import OTHERS_SECONDS, examine

pytestmark = [pytest.mark.anyio, pytest.mark.faults]

CUT_SHARE = 0.08
BETWEEN_SECONDS = 2.0


async def test_callers_are_answered_while_all_database_connections_are_dead(
    installation: Installation, report: Report
) -> None:
    measured = await measure(installation, causes.lost_connections(installation), seconds=FAULT_SECONDS)

    report(f"all database connections are dead for {FAULT_SECONDS:.0f} s: {measured.outcome}")
    assert measured.outcome.problems == []
    assert measured.readiness() == {503}


@pytest.mark.soak
async def test_callers_are_answered_while_postgresql_is_suspended(installation: Installation, report: Report) -> None:
    measured = await measure(installation, causes.frozen_database(installation), seconds=FAULT_SECONDS)

    report(f"PostgreSQL is suspended for {FAULT_SECONDS:.0f} s: {measured.outcome}")
    assert measured.outcome.problems == []
    assert measured.readiness() == {503}


async def test_a_dead_database_connection_delays_only_its_own_requests(
    installation: Installation, report: Report
) -> None:
    async with running_load(installation) as load:
        began = time.monotonic()
        for application_name in ("credits-posting", "credits", "credits-listen"):
            installation.database_proxy.kill_next_link(application_name)
            await asyncio.sleep(BETWEEN_SECONDS)
        await asyncio.sleep(FAULT_SECONDS / 2)
        ended = time.monotonic()
        recovery_seconds = await load.seconds_until_served(ended)
        await load.stop()
    outcome = await examine(load, recovery_seconds=recovery_seconds)

    report(f"a connection of each kind is dead: {outcome}")
    gap = min(load.longest_gap(owner, began, ended) for owner in load.owners)
    report(f"  the account that was delayed least was not charged for {gap:.1f} s")
    assert outcome.problems == []
    assert gap < OTHERS_SECONDS


async def test_charges_succeed_while_a_round_trip_takes_half_a_second(
    installation: Installation, report: Report
) -> None:
    measured = await measure(installation, causes.slow_network(installation), seconds=FAULT_SECONDS / 2)

    report(f"a round trip to PostgreSQL takes 500 ms: {measured.outcome}")
    assert measured.outcome.problems == []


async def test_a_retry_after_a_lost_reply_charges_nothing_twice(installation: Installation, report: Report) -> None:
    proxy = installation.client_proxy
    proxy.cut_replies = 0
    installation.uses_client_proxy, proxy.cut_share = True, CUT_SHARE
    try:
        async with running_load(installation) as load:
            load.pause_seconds = 0.0
            while proxy.cut_replies < LOST_REPLIES:  # noqa: ASYNC110  the proxy counts and sets no event
                await asyncio.sleep(0.05)
            proxy.cut_share = 0.0
            recovery_seconds = await load.seconds_until_served(time.monotonic())
            await load.stop()
    finally:
        installation.uses_client_proxy, proxy.cut_share = False, 0.0
    outcome = await examine(load, recovery_seconds=recovery_seconds)

    report(f"{proxy.cut_replies:,} of {len(load.answers):,} replies are lost: {outcome}")
    assert outcome.problems == []
    assert set(outcome.codes) == {"LOST"}
