"""One fault: clients start, its cause begins and ends, the server recovers, and what was acknowledged is compared."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from tests.faults.installation import Installation
from tests.faults.load import Load
from tests.faults.outcome import Outcome, examine

FAULT_SECONDS: Final = float(os.environ.get("FAULT_SECONDS", "6"))
"""How long connections are dead, PostgreSQL is suspended or an account is locked."""
CRASH_CYCLES: Final = int(os.environ.get("FAULT_CYCLES", "6"))
LOST_REPLIES: Final = int(os.environ.get("FAULT_REPLIES", "100"))
NOTICED_SECONDS: Final = 3.0
"""The time after which /readyz must report a fault."""

Report = Callable[[str], None]


@asynccontextmanager
async def running_load(installation: Installation) -> AsyncIterator[Load]:
    """Clients that have all been served once. They stop at the end of the block."""
    load = Load(installation)
    try:
        await load.start()
        yield load
    finally:
        await load.cancel()


@dataclass(frozen=True, slots=True)
class Measured:
    """A load that has ended, the times between which the cause lasted, and what was found."""

    load: Load
    began: float
    ended: float
    outcome: Outcome

    def readiness(self) -> set[int | None]:
        """The answers of /readyz from NOTICED_SECONDS after the beginning of the cause until its end."""
        return {probe.status for probe in self.load.probes if self.began + NOTICED_SECONDS < probe.at < self.ended}


async def measure(
    installation: Installation, cause: AbstractAsyncContextManager[object], *, seconds: float
) -> Measured:
    """Run clients while the cause begins, lasts for so many seconds and ends."""
    async with running_load(installation) as load:
        async with cause:
            began = time.monotonic()
            await asyncio.sleep(seconds)
        ended = time.monotonic()
        recovery_seconds = await load.seconds_until_served(ended)
        await load.stop()
    return Measured(load, began, ended, await examine(load, recovery_seconds=recovery_seconds))
