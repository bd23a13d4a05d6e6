"""Processes are killed, or asked to stop in the middle of a fault, while clients charge."""

import asyncio
import random
import signal
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable

import psutil
import pytest

from tests.faults import causes
from tests.faults.installation import WORKERS, Installation
from tests.faults.measuring import CRASH_CYCLES, Report, running_load
from tests.faults.outcome import examine

pytestmark = [pytest.mark.anyio, pytest.mark.faults]

STOPPED_SECONDS = 10.0
"""The time within which SIGTERM ends the server in every state."""
FAULT_BEFORE_STOP_SECONDS = 2.0


async def kill_server(installation: Installation) -> None:
    await installation.end_server(signal.SIGKILL)
    await installation.start_server()


async def kill_worker(installation: Installation) -> None:
    random.choice(installation.workers()).kill()  # noqa: S311  not used for security


async def kill_backend(installation: Installation) -> None:
    """PostgreSQL ends all its sessions, and recovers."""
    psutil.Process(random.choice(await installation.database.backend_pids())).kill()  # noqa: S311  not used for security


async def terminate_sessions(installation: Installation) -> None:
    await installation.database.execute(causes.END_SESSIONS)


async def kill_postmaster(installation: Installation) -> None:
    await asyncio.to_thread(installation.database.stop, signal.SIGKILL)
    await asyncio.to_thread(installation.database.start)


async def stop_postgresql(installation: Installation) -> None:
    async with causes.stopped_database(installation):
        pass


CRASHES: dict[str, Callable[[Installation], Awaitable[None]]] = {
    "server": kill_server,
    "worker": kill_worker,
    "backend": kill_backend,
    "postmaster": kill_postmaster,
    "sessions": terminate_sessions,
    "immediate stop": stop_postgresql,
}


async def test_no_acknowledged_charge_is_lost_or_doubled_by_a_crash(installation: Installation, report: Report) -> None:
    recovery: dict[str, list[float]] = defaultdict(list)
    async with running_load(installation) as load:
        for cycle in range(CRASH_CYCLES):
            name = list(CRASHES)[cycle % len(CRASHES)]
            await asyncio.sleep(random.uniform(0.2, 0.6))  # noqa: S311  not used for security
            await CRASHES[name](installation)
            recovery[name].append(await load.seconds_until_served(time.monotonic()))
        await load.stop()
    outcome = await examine(load, recovery_seconds=max(seconds for some in recovery.values() for seconds in some))

    report(f"{CRASH_CYCLES} crashes: {outcome}")
    report("  longest recovery: " + ", ".join(f"{name} {max(some):.1f} s" for name, some in recovery.items()))
    assert outcome.problems == []
    # A worker that started while the database was away has ended, and the supervisor replaces it.
    async with asyncio.timeout(STOPPED_SECONDS):
        while len(installation.workers()) != WORKERS:  # noqa: ASYNC110  another process replaces them
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    "cause",
    [
        pytest.param(causes.no_fault, id="served", marks=pytest.mark.soak),
        pytest.param(causes.lost_connections, id="all connections are dead"),
        pytest.param(causes.frozen_database, id="PostgreSQL is suspended", marks=pytest.mark.soak),
        pytest.param(causes.slow_network, id="a round trip takes 500 ms", marks=pytest.mark.soak),
        pytest.param(causes.stopped_database, id="PostgreSQL is stopped", marks=pytest.mark.soak),
        pytest.param(causes.read_only_database, id="the database is read-only", marks=pytest.mark.soak),
        pytest.param(causes.no_free_connection, id="no connection is free", marks=pytest.mark.soak),
        pytest.param(causes.full_notify_queue, id="the queue of notifications is full", marks=pytest.mark.soak),
        pytest.param(causes.locked_accounts, id="accounts are locked", marks=pytest.mark.soak),
    ],
)
async def test_sigterm_ends_the_server_within_ten_seconds(
    cause: causes.Cause, installation: Installation, report: Report, request: pytest.FixtureRequest
) -> None:
    async with running_load(installation) as load:
        async with cause(installation):
            await asyncio.sleep(FAULT_BEFORE_STOP_SECONDS)
            stopped_seconds = await installation.end_server(signal.SIGTERM)
            status = installation.server.process.returncode
        await installation.start_server()
        recovery_seconds = await load.seconds_until_served(time.monotonic())
        await load.stop()
    outcome = await examine(load, recovery_seconds=recovery_seconds)

    report(f"SIGTERM while {request.node.callspec.id}: ended in {stopped_seconds:.1f} s; {outcome}")
    assert outcome.problems == []
    assert (status, stopped_seconds < STOPPED_SECONDS) == (0, True)
