"""Health checks: `/healthz` (the process runs) and `/readyz` (it can serve requests)."""

import asyncio
import logging
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse

from app.db import failures, migrations, pools

READINESS_TIMEOUT_SECONDS: Final = 2.0

log = logging.getLogger(__name__)


async def healthz(_: Request) -> JSONResponse:
    return JSONResponse({"alive": True})


class Readiness:
    """Checks that requests can be served: the database responds and has every migration."""

    def __init__(self) -> None:
        self._is_migrated = False  # never reset: reading the migrations takes milliseconds, and anybody may call this

    async def readyz(self, _: Request) -> JSONResponse:
        """Respond with 200, or with 503 and the reason."""
        reason = await self._problem()
        return JSONResponse({"ready": reason is None, "reason": reason}, status_code=503 if reason else 200)

    async def _problem(self) -> str | None:
        try:
            async with asyncio.timeout(READINESS_TIMEOUT_SECONDS):
                if self._is_migrated:
                    await pools.fetch("SELECT 1")
                elif missing := await migrations.pending():
                    return f"migrations are pending: {', '.join(missing)}"
        except Exception as error:
            log.warning("not ready: %r", error)
            is_connection_failure = failures.is_connection_failure(error)
            return "the database does not answer" if is_connection_failure else "the database cannot be read"
        self._is_migrated = True
        return None
