"""From the last credit to the STOP: how long until an executor that listens to another server is told.

Two servers over one database. Charges are sent to one, and one executor has subscribed to the other; account after
account is emptied by its one charge. Measured is from the sending of that charge, so that the charge itself is in it,
to the arrival of the signal: first with the servers idle, then while the usual clients charge another account.
"""

import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import httpx
from websockets.asyncio.client import ClientConnection, connect

from bench import scenarios, servers
from bench.charges import WARM_UP_SECONDS, Failed, Field, Said
from bench.requests import Plan
from bench.servers import Server

WAIT_SECONDS: Final = 10
LONGEST_SECONDS: Final = 600
"""A load that nobody ends would end by itself then."""

SIGNALS: Final = "subscription { taskSignals { kind ownerId taskIds } }"
CHARGE: Final = (
    "mutation($input: ChargeInput!) { charge(input: $input) { __typename ... on ChargeSuccess { signal } } }"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delays:
    """How long it took each time, in ms."""

    title: str
    milliseconds: list[float]

    @property
    def median_ms(self) -> float:
        return statistics.median(self.milliseconds)

    @property
    def worst_ms(self) -> float:
        return max(self.milliseconds)

    @property
    def said(self) -> str:
        """As a line for people."""
        return f"{self.title}: median {self.median_ms:.1f} ms, worst {self.worst_ms:.1f} ms of {len(self.milliseconds)}"


@dataclass(slots=True)
class Executor:
    """The end that listens: when each owner was told to stop."""

    told: dict[str, asyncio.Future[float]] = field(default_factory=dict)

    async def listen(self, socket: ClientConnection) -> None:
        """Raises: Failed: something else than a signal came."""
        async for message in socket:
            self.take(json.loads(message), at=time.perf_counter())

    def take(self, message: Any, *, at: float) -> None:
        """One message of the subscription. Raises: Failed: it is no signal."""
        if message["type"] != "next" or "errors" in message["payload"]:
            raise Failed(f"The executor was told something else than a signal: {message}")
        signal = message["payload"]["data"]["taskSignals"]
        waiting = self.told.get(signal["ownerId"])
        if waiting is not None and not waiting.done() and signal["kind"] == "STOP":
            waiting.set_result(at)

    async def stopped(self, owner_id: str) -> float:
        """The instant at which this owner's tasks were told to stop. Raises: TimeoutError."""
        async with asyncio.timeout(WAIT_SECONDS):
            return await self.told[owner_id]


async def measure(found: Field, say: Said) -> list[Delays]:
    """Raises: Failed: a charge was refused, or a signal did not come."""
    delays = []
    settings = servers.settings_of(found.urls[scenarios.STOP])
    with (
        servers.running("charging", "app", "serve", place=found.place, **settings) as charging,
        servers.running("telling", "app", "serve", place=found.place, **settings) as telling,
    ):
        key = found.keys[scenarios.STOP]
        async with _client(charging, key) as client, _executor(telling, key) as executor:
            for busy, title in ((False, "servers idle"), (True, f"while {scenarios.CONNECTIONS} connections charge")):
                say(f"from the last credit to the STOP, {title}")
                with _load(found, charging) if busy else contextlib.nullcontext():
                    # What comes first is not counted: then the servers know each other's ways, and the load is there.
                    numbers = scenarios.stop_numbers(busy=busy)
                    took = [await _one(client, executor, number) for number in numbers]
                delays.append(Delays(title=title, milliseconds=took[scenarios.STOP_REHEARSALS :]))
    return delays


async def _one(client: httpx.AsyncClient, executor: Executor, number: int) -> float:
    owner = scenarios.stop_owner(number)
    executor.told[owner] = asyncio.get_running_loop().create_future()
    run = {"taskId": scenarios.stop_task(number), "blockRunId": f"run-of-{owner}", **scenarios.STOP_RUN}
    sent_at = time.perf_counter()
    reply = (await client.post("/graphql", json={"query": CHARGE, "variables": {"input": run}})).json()
    if reply.get("data", {}).get("charge") != {"__typename": "ChargeSuccess", "signal": "STOP"}:
        raise Failed(f"The charge that should take the last credit of {owner} was answered with {reply}")
    try:
        return (await executor.stopped(owner) - sent_at) * 1_000
    except TimeoutError:
        raise Failed(f"{owner} was not told to stop within {WAIT_SECONDS} s") from None


@asynccontextmanager
async def _client(server: Server, key: str) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=WAIT_SECONDS) as client:
        yield client


@asynccontextmanager
async def _executor(server: Server, key: str) -> AsyncIterator[Executor]:
    """Somebody who follows everybody's signals there."""
    url = server.url.replace("http", "ws", 1) + "/graphql"
    executor = Executor()
    async with connect(url, subprotocols=["graphql-transport-ws"]) as socket:  # type: ignore[list-item]  # a NewType
        hello = {"type": "connection_init", "payload": {"authorization": f"Bearer {key}"}}
        await socket.send(json.dumps(hello))
        if json.loads(await socket.recv()) != {"type": "connection_ack"}:
            raise Failed("The executor was not let in")
        await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": {"query": SIGNALS}}))
        listening = asyncio.create_task(executor.listen(socket))
        try:
            yield executor
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening


@contextmanager
def _load(found: Field, server: Server) -> Iterator[None]:
    """The usual clients, charging the hot account of this database for as long as this lasts."""
    plan = Plan(
        kind="charge", load="hot", port=server.port, key=found.keys[scenarios.STOP], run="busy",
        connections=scenarios.CONNECTIONS, warm_up_seconds=WARM_UP_SECONDS, seconds=LONGEST_SECONDS,
        server_pids=[], database_pids=[],
    )  # fmt: skip
    client = subprocess.Popen(
        [sys.executable, "-m", "bench.load"], cwd=servers.CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        if client.stdin is not None:
            client.stdin.write(json.dumps(asdict(plan)).encode())
            client.stdin.close()
        yield
        if client.poll() is not None:
            raise Failed("The clients that were to keep the server busy ended before it was measured")
    finally:
        client.terminate()
        client.wait()
