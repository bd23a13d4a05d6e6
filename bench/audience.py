"""The process of the subscribers (bench.subscribers), from outside: orders in, answers out."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from bench import servers
from bench.subscribers import LINE_BYTES


class AudienceFailed(Exception):
    """The subscribers were disturbed, or their process came to nothing; the text says how."""


class Audience:
    """One such process."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def told_to(self, do: str, **more: Any) -> dict[str, Any]:
        """Its answer to an order. Raises: AudienceFailed."""
        if self._process.stdin is None or self._process.stdout is None or self._process.stderr is None:
            raise AudienceFailed("the process has no pipes")
        self._process.stdin.write(json.dumps({"do": do, **more}).encode() + b"\n")
        try:
            await self._process.stdin.drain()
            line = await self._process.stdout.readline()
        except ConnectionError:
            line = b""
        if not line:
            said = (await self._process.stderr.read()).decode(errors="replace")
            raise AudienceFailed(f"The subscribers failed when told to {do}:\n{said[-4000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@asynccontextmanager
async def audience() -> AsyncIterator[Audience]:
    """A process of subscribers, for as long as this lasts."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.subscribers",
        cwd=servers.CHECKOUT, stdin=PIPE, stdout=PIPE, stderr=PIPE, limit=LINE_BYTES,
    )  # fmt: skip
    try:
        yield Audience(process)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
