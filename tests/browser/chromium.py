"""Headless Chromium, controlled by its DevTools protocol."""

import asyncio
import itertools
import json
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-port=0",
)  # fmt: skip
START_SECONDS = 30
ANSWER_SECONDS = 15


@dataclass(slots=True)
class Browser:
    """A running browser on one connection. Responses are matched by their number."""

    socket: ClientConnection
    numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    async def send(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """The result of one command. One is sent at a time; events in between are ignored."""
        number = next(self.numbers)
        command = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        await self.socket.send(json.dumps(command))
        async with asyncio.timeout(ANSWER_SECONDS):
            while (answer := json.loads(await self.socket.recv())).get("id") != number:
                pass
        assert "error" not in answer, answer
        return answer["result"]

    async def open(self, url: str) -> "Tab":
        """A new tab that loads `url`."""
        target = (await self.send("Target.createTarget", url=url))["targetId"]
        attached = await self.send("Target.attachToTarget", targetId=target, flatten=True)
        return Tab(self, attached["sessionId"])


@dataclass(frozen=True, slots=True)
class Tab:
    """One page of the browser."""

    browser: Browser
    session: str

    async def value(self, script: str) -> Any:
        """The value of an expression on the page; a promise is awaited."""
        answer = await self.browser.send(
            "Runtime.evaluate", self.session, expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, script: str) -> Any:
        """Wait until an expression is true on the page, which may be loading. Returns: its value."""
        async with asyncio.timeout(ANSWER_SECONDS):
            while not (found := await self.value(script)):  # noqa: ASYNC110  it happens in another process
                await asyncio.sleep(0.02)
        return found


@asynccontextmanager
async def running() -> AsyncIterator[Browser]:
    """A browser with an empty profile, which is deleted at the end."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    assert program is not None, "Chromium is not installed (Debian: apt-get install chromium)."
    with tempfile.TemporaryDirectory(prefix="credits-browser-", ignore_cleanup_errors=True) as directory:
        process = subprocess.Popen(  # noqa: ASYNC220  it returns at once
            [program, *FLAGS, f"--user-data-dir={directory}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            async with connect(await _address(Path(directory)), max_size=None) as socket:
                yield Browser(socket)
        finally:
            process.terminate()
            process.wait(timeout=30)


async def _address(directory: Path) -> str:
    """The address of the DevTools socket, from the file that the browser writes when it listens."""
    written = directory / "DevToolsActivePort"
    async with asyncio.timeout(START_SECONDS):
        while not (written.exists() and len(lines := written.read_text().splitlines()) == 2):  # noqa: ASYNC110  another process
            await asyncio.sleep(0.05)
    return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
