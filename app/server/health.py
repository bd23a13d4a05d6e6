"""Health checks: `/healthz` (the process runs) and `/readyz` (it can serve requests)."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse

from app.bounded_waits import wait_at_most
from app.db import connections, failures, migrations, pools

DATABASE_SECONDS: Final = 1.5
"""The time limit of the check of the database. `/readyz` must respond within 2 seconds."""

READ_ONLY_SQL: Final = "SELECT 1 WHERE current_setting('transaction_read_only') = 'on'"

Check = Callable[[], str | None]
"""A check that does not wait. It returns the problem, or None."""

log = logging.getLogger(__name__)


async def healthz(_: Request) -> JSONResponse:
    return JSONResponse({"alive": True})


class Readiness:
    """Checks that requests can be served: the database accepts writes and has every migration, and `others` succeed."""

    def __init__(self, others: Mapping[str, Check]) -> None:
        """`others` are further checks by name."""
        self._others = others
        self._is_migrated = False  # never reset, because reading the migrations is slow and anybody may call this
        self._checking: asyncio.Task[str | None] | None = None

    async def readyz(self, _: Request) -> JSONResponse:
        """Respond with 200, or with 503 and the reason. `checks` contains the problem of each check, or null."""
        checks = {"database": await self._database_problem()}
        checks |= {name: check() for name, check in self._others.items()}
        reason = "; ".join(problem for problem in checks.values() if problem is not None) or None
        return JSONResponse(
            {"ready": reason is None, "reason": reason, "checks": checks}, status_code=503 if reason else 200
        )

    async def _database_problem(self) -> str | None:
        """Check the database. Concurrent callers share one check, because a check uses a connection."""
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check_database())
        return await asyncio.shield(self._checking)

    async def _check_database(self) -> str | None:
        try:
            if (problem := await wait_at_most(DATABASE_SECONDS, self._read_problem())) is not None:
                return problem
        except Exception as error:
            log.warning("not ready: %r", error)
            is_connection_failure = failures.is_database_failure(error)
            return "the database does not answer" if is_connection_failure else "the database cannot be read"
        self._is_migrated = True
        return None

    async def _read_problem(self) -> str | None:
        if not self._is_migrated and (missing := await migrations.pending()):
            return f"migrations are pending: {', '.join(missing)}"
        if await pools.fetch(READ_ONLY_SQL):
            connections.replace_connections()  # after a failover, new ones may lead to the new primary
            return "the database is read-only"
        return None
