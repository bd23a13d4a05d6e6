"""Clients that charge, hold, start tasks and subscribe while a fault lasts, and a record of what was acknowledged."""

import asyncio
import itertools
import json
import random
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from websockets.exceptions import WebSocketException

from bench import workload
from bench.http_client import Connection
from tests.faults.installation import Installation
from tests.graphql_client import connected, subscribe

ACCOUNTS: Final = 6
GRANTED: Final = 100_000_000
COST: Final = 10
BATCH: Final = 5
"""Block runs of each owner in a batch."""
PAUSE_SECONDS: Final = 0.02
"""The pause of a client after each request, so that the clients leave processor time to the server."""
GIVE_UP_SECONDS: Final = 40
"""The time after which a client gives up a request. No caller may wait so long: the bound is ANSWERED_SECONDS."""
RETRIED_CODES: Final = frozenset({"UNAVAILABLE", "TIMED_OUT", "OVERLOADED"})
"""Errors after which a client sends the same request again."""
RETRIED_TYPES: Final = frozenset({"UnavailableError"})
"""Results of single items of a batch after which a client sends the same batch again."""

CHARGED: Final = "{ __typename ... on ChargeSuccess { cost } ... on UserError { message } }"
CHARGE: Final = f"mutation($input: ChargeInput!) {{ charge(input: $input) {CHARGED} }}"
CHARGE_BATCH: Final = f"mutation($input: [ChargeInput!]!) {{ chargeBatch(input: $input) {CHARGED} }}"
BALANCE: Final = "subscription($owner: ID) { balance(ownerId: $owner) { version } }"


def document(name: str, selection: str = "") -> str:
    """The mutation of this name with its input as a variable."""
    kind = name[0].upper() + name[1:]
    return (
        f"mutation($input: {kind}Input!) {{ {name}(input: $input) "
        f"{{ __typename {selection} ... on UserError {{ message }} }} }}"
    )


GRANT: Final = document("grantCredits")
START: Final = document("startTask")
FINISH: Final = document("finishTask")
HOLD: Final = document("placeHold")
CAPTURE: Final = document("captureHold", "... on CaptureHoldSuccess { cost }")


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request."""

    at: float
    seconds: float
    owner: str
    code: str | None
    """None: a result. Otherwise the code of the error, `LOST` (the connection was closed) or `NONE` (no answer)."""


@dataclass(frozen=True, slots=True)
class Probe:
    """An answer of /readyz."""

    at: float
    seconds: float
    status: int | None
    """None: the server did not answer."""


@dataclass(slots=True)
class Load:
    """Clients of one installation, with accounts of their own. Times are those of `time.monotonic`."""

    installation: Installation
    prefix: str = field(default_factory=lambda: f"load-{secrets.token_hex(4)}")
    answers: list[Answer] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    """Results that are neither a success nor an error after which the request is sent again."""
    sent: dict[str, str] = field(default_factory=dict)
    """Owner of each block run of which a charge or hold was requested."""
    charged: dict[str, int] = field(default_factory=dict)
    """Cost of each acknowledged block run."""
    started: set[str] = field(default_factory=set)
    finished: set[str] = field(default_factory=set)
    versions: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Versions that the subscriber of each account has received, one list for each connection's items together."""
    is_stopping: bool = False
    pause_seconds: float = PAUSE_SECONDS
    _clients: list[asyncio.Task[None]] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    """The clients and the tasks that only read."""

    @property
    def owners(self) -> list[str]:
        return [f"{self.prefix}-owner-{number}" for number in range(ACCOUNTS)]

    def task_of(self, owner: str) -> str:
        return f"{owner}-task"

    async def start(self) -> None:
        """Grant credits, start a task of each account and then the clients, and wait until every one is served."""
        for owner in self.owners:
            asked = {"ownerId": owner, "credits": GRANTED, "reason": "load", "idempotencyKey": owner}
            async with self.client(owner) as client:
                await client.ask("grantCredits", GRANT, asked, "operator")
                await client.ask("startTask", START, self._new_task(owner, self.task_of(owner)))
        first, second, third, fourth, *_ = self.owners
        self._clients = [
            asyncio.create_task(client)
            for client in (
                *map(self._charges, self.owners), self._batches(first), self._batches(third, fourth),
                self._holds(first), self._holds(second), self._starts(first), self._starts(third),
            )
        ]  # fmt: skip
        watchers = (*map(self._subscription, self.owners), self._readiness())
        self._tasks += [*self._clients, *map(asyncio.create_task, watchers)]
        await self.seconds_until_served(time.monotonic())

    async def stop(self) -> None:
        """Let every client finish its request, which it repeats until it has a result."""
        self.is_stopping = True
        _, late = await asyncio.wait(self._clients, timeout=GIVE_UP_SECONDS)
        self.unexpected += [f"{task.get_coro()} has no result" for task in late]
        await self._until_subscribers_are_current()

    async def cancel(self) -> None:
        """End what still runs. Raises: the exception with which a client has ended."""
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def seconds_until_served(self, since: float, *, at_most: float = 60) -> float:
        """Wait until every account was charged after `since` and /readyz is 200. Returns: the seconds since then."""
        while True:
            for task in self._tasks:
                if task.done():
                    task.result()
            served = {answer.owner for answer in reversed(self.answers) if answer.at > since and answer.code is None}
            ready = [probe.at for probe in self.probes if probe.at > since and probe.status == 200]
            now = time.monotonic()
            if (served >= set(self.owners) and ready) or now - since > at_most:
                return now - since
            await asyncio.sleep(0.02)

    def longest_gap(self, owner: str, since: float, until: float) -> float:
        """The longest time in which no request of this owner succeeded."""
        times = [answer.at for answer in self.answers if answer.owner == owner and answer.code is None]
        marks = [since, *(at for at in times if since < at < until), until]
        return max(later - earlier for earlier, later in itertools.pairwise(marks))

    def codes(self) -> Counter[str]:
        """How many answers were errors, by code."""
        return Counter(answer.code for answer in self.answers if answer.code is not None)

    @asynccontextmanager
    async def client(self, owner: str) -> AsyncIterator["Client"]:
        client = Client(self, owner)
        try:
            yield client
        finally:
            client.close()

    async def _charges(self, owner: str) -> None:
        async with self.client(owner) as client:
            while not self.is_stopping:
                await client.charge(self._new_run(owner))

    async def _batches(self, *owners: str) -> None:
        async with self.client(owners[0]) as client:
            while not self.is_stopping:
                await client.charge_batch([self._new_run(owner) for owner in owners for _ in range(BATCH)])

    async def _holds(self, owner: str) -> None:
        async with self.client(owner) as client:
            while not self.is_stopping:
                run = self._new_run(owner)
                await client.ask("placeHold", HOLD, run | {"atMost": {"items": 1}})
                del run["block"]
                captured = await client.ask("captureHold", CAPTURE, run | {"measurements": {"items": 1}})
                self.charged[run["blockRunId"]] = captured["cost"]

    async def _starts(self, owner: str) -> None:
        async with self.client(owner) as client:
            while not self.is_stopping:
                task = f"{owner}-{secrets.token_hex(8)}"
                await client.ask("startTask", START, self._new_task(owner, task))
                self.started.add(task)
                await client.ask("finishTask", FINISH, {"taskId": task, "status": "COMPLETED"})
                self.finished.add(task)

    async def start_tasks(self, owner: str, *, count: int) -> None:
        """Start so many tasks of one account at the same time."""

        async def start_one() -> None:
            async with self.client(owner) as client:
                task = f"{owner}-{secrets.token_hex(8)}"
                await client.ask("startTask", START, self._new_task(owner, task))
                self.started.add(task)

        await asyncio.gather(*(start_one() for _ in range(count)))

    def _new_run(self, owner: str) -> dict[str, Any]:
        run = f"{self.prefix}-{secrets.token_hex(8)}"
        self.sent[run] = owner
        return {"taskId": self.task_of(owner), "blockRunId": run, "block": "ReplicateModelBlock"}

    def _new_task(self, owner: str, task: str) -> dict[str, Any]:
        return {"taskId": task, "ownerId": owner, "agentId": "agent"}

    async def _subscription(self, owner: str) -> None:
        """Follow the balance, and subscribe again when the connection is lost."""
        while True:
            with suppress(OSError, EOFError, WebSocketException):
                url, token = f"http://127.0.0.1:{self.installation.port}", self.installation.tokens["service"]
                async with connected(url, token, open_timeout=5, ping_timeout=5) as socket:
                    await subscribe(socket, BALANCE, owner=owner)
                    async for text in socket:
                        message = json.loads(text)
                        if message["type"] != "next" or "errors" in message["payload"]:
                            break
                        self.versions[owner].append(message["payload"]["data"]["balance"]["version"])
            await asyncio.sleep(0.2)

    async def _until_subscribers_are_current(self) -> None:
        """Wait up to 10 s until every subscriber has received the newest version of its account."""
        found = await self.installation.database.fetch(
            "SELECT owner_id, version FROM account WHERE owner_id = ANY($1)", self.owners
        )
        newest = {record["owner_id"]: record["version"] for record in found}
        deadline = time.monotonic() + 10
        while any(self.versions[owner][-1:] != [newest[owner]] for owner in self.owners):
            if time.monotonic() > deadline:
                received = {owner: self.versions[owner][-1:] for owner in self.owners}
                self.unexpected.append(f"subscribers have the versions {received}, the accounts {newest}")
                return
            await asyncio.sleep(0.02)

    async def _readiness(self) -> None:
        """Ask /readyz five times a second, on a new connection each time."""
        request = b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        while True:
            started = time.monotonic()
            status: int | None = None
            with suppress(OSError, EOFError):
                async with asyncio.timeout(GIVE_UP_SECONDS):
                    connection = await Connection.open(self.installation.server_port)
                    try:
                        status = int((await connection.send(request)).split(b" ", 2)[1])
                    finally:
                        connection.close()
            now = time.monotonic()
            self.probes.append(Probe(now, now - started, status))
            await asyncio.sleep(0.2)


class Client:
    """One keep-alive connection, which is opened again when it was closed. Each request is repeated until answered."""

    def __init__(self, load: Load, owner: str) -> None:
        self._load = load
        self._owner = owner
        self._connection: Connection | None = None

    async def charge(self, run: Mapping[str, Any]) -> None:
        result = await self.ask("charge", CHARGE, run)
        self._load.charged[run["blockRunId"]] = result["cost"]

    async def charge_batch(self, runs: list[dict[str, Any]]) -> None:
        results = await self.ask("chargeBatch", CHARGE_BATCH, runs)
        for run, result in zip(runs, results, strict=True):
            self._load.charged[run["blockRunId"]] = result["cost"]

    async def ask(self, name: str, query: str, asked: Any, caller: str = "service") -> Any:
        """The successful result of a mutation: the same request is sent again until there is one."""
        body = json.dumps({"query": query, "variables": {"input": asked}}).encode()
        while True:
            started = time.monotonic()
            code, result = await self._send(name, body, caller)
            now = time.monotonic()
            self._load.answers.append(Answer(now, now - started, self._owner, code))
            if code is None:
                await asyncio.sleep(self._load.pause_seconds)
                return result
            if code not in RETRIED_CODES | {"LOST", "NONE"}:
                self._load.unexpected.append(f"{name}: {code}: {result}")
            await asyncio.sleep(random.uniform(0.02, 0.2))  # noqa: S311  not used for security

    async def _send(self, name: str, body: bytes, caller: str) -> tuple[str | None, Any]:
        """The code of an error, or None, and the result or the error."""
        installation = self._load.installation
        try:
            async with asyncio.timeout(GIVE_UP_SECONDS):
                if self._connection is None:
                    self._connection = await Connection.open(installation.port)
                head = workload.http_head(installation.tokens[caller], len(body)).encode()
                response = await self._connection.send(head + body)
        except TimeoutError:
            self.close()
            return "NONE", f"no answer within {GIVE_UP_SECONDS} s"
        except (OSError, EOFError) as error:
            self.close()
            return "LOST", repr(error)
        head, _, text = response.partition(b"\r\n\r\n")
        if b"json" not in head:
            return head.partition(b"\r\n")[0].decode(), text.decode()
        answer = json.loads(text)
        if errors := answer.get("errors"):
            return errors[0]["extensions"]["code"], errors[0]
        result = answer["data"][name]
        for item in result if isinstance(result, list) else [result]:
            if not item["__typename"].endswith("Success"):
                return ("UNAVAILABLE" if item["__typename"] in RETRIED_TYPES else item["__typename"]), item
        return None, result

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
