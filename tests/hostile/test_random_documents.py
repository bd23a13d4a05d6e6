"""Documents of every shape that the schema allows, and of some that it does not, by every kind of caller."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from app.api.schema import build_schema
from app.engine.execution import GraphQLRequest
from tests.engine.document_generator import DocumentGenerator
from tests.hostile.server_under_test import ANSWERED_SECONDS, DOCUMENTS, Target, authorized, codes
from tests.worker_processes import Report

pytestmark = pytest.mark.anyio

SCHEMA = build_schema()._schema
ROOTS = [*["query"] * 6, *["mutation"] * 3, "subscription"]
WRONG = 0.05
AT_ONCE = 8
OPEN_STREAMS = 20
GROWTH_BYTES = 48 * 1024 * 1024
POISON = ["", "\x00", "a\x00b", "x" * 300, "' OR 1=1 --", "%s{}$1", "\u202e\ufeff", "../../etc/passwd", "-1"]
"""Texts that mean something to somebody else: to PostgreSQL, a format, a shell, a reader of logs."""
KNOWN = {
    "ownerId": ["alice", "bob"],
    "taskId": ["task-1", "task-2"],
    "agentId": ["agent-1"],
    "blockRunId": ["run-1", "run-2"],
    "block": ["ReplicateModelBlock", "AITextGeneratorBlock"],
    "id": ["QWNjb3VudDph", "run-1"],
    "after": ["WzEsMl0", ""],
}
POOLS = {
    name: [*KNOWN.get(name, ["a", "b"]), *KNOWN.get(name, ["c"]), *POISON]
    for name in (
        *KNOWN, "reason", "idempotencyKey", "topUpId", "grantId", "returnUrl", "scheduleId", "parentTaskId", "entryId",
        "ownerIds", "key", "email", "currency",
    )
}  # fmt: skip
"""Some find something, most do not, and a good part is poison."""


def written(seed: int) -> tuple[str, GraphQLRequest]:
    chance = Random(seed)  # noqa: S311  what was written once is written again
    keyword = chance.choice(ROOTS)
    root = {"query": SCHEMA.query_type, "mutation": SCHEMA.mutation_type, "subscription": SCHEMA.subscription_type}
    kind = root[keyword]
    assert kind is not None
    return keyword, DocumentGenerator(chance, SCHEMA, POOLS, error_probability=WRONG).request(kind, keyword)


def parameters(request: GraphQLRequest) -> dict[str, Any]:
    return {"query": request.query, "variables": request.variables, "operationName": request.operation_name}


async def test_random_documents_find_no_fault_and_leave_no_memory_behind(target: Target, report: Report) -> None:
    warm, begun = 0, time.monotonic()
    ended: Counter[str] = Counter()
    users = [target.user(f"user-{number}") for number in range(20)]
    seeds = iter(range(DOCUMENTS))
    async with target.client() as client, streaming(target) as streams:

        async def send_some() -> None:
            nonlocal warm
            for seed in seeds:
                if seed == DOCUMENTS // 3:
                    warm = target.resident_bytes()
                user, service, operator = (
                    users[seed // AT_ONCE % 20],
                    target.tokens["service"],
                    target.tokens["operator"],
                )
                tokens = [None, user, service, operator, service, operator, user, service, operator]
                ended.update(await sent(client, streams, seed, tokens[seed % 9]))

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(send_some())
    ended += streams.ended
    grown = target.resident_bytes() - warm
    seconds = f"{DOCUMENTS} documents in {time.monotonic() - begun:.1f} s"
    report(f"{seconds}: {dict(sorted(ended.items()))}, memory {grown / 2**20:+.1f} MiB")
    assert {"ok", "BAD_USER_INPUT", "GRAPHQL_VALIDATION_FAILED", "FORBIDDEN", "UNAUTHENTICATED"} <= ended.keys()
    assert not ended.keys() & {"INTERNAL", "UNAVAILABLE", "RATE_LIMITED", "TIMED_OUT"}
    assert grown < GROWTH_BYTES


async def sent(client: httpx.AsyncClient, streams: "Streams", seed: int, token: str | None) -> set[str]:
    """The codes with which the document of this seed ended; subscriptions end later, and are counted there."""
    keyword, request = written(seed)
    if keyword == "subscription":
        await streams.begin(seed, request)
        return set()
    content = json.dumps(parameters(request))
    headers = authorized(token) | {"content-type": "application/json"}
    reply = await client.post("/graphql", content=content, headers=headers)
    assert reply.status_code in {200, 400}, (seed, reply.status_code, reply.text)
    answer = reply.json()
    assert "INTERNAL" not in reply.text, (seed, reply.text)
    return codes(answer) or {"ok"}


class Streams:
    """Subscriptions over one connection, of which the oldest are given up again."""

    def __init__(self, socket: ClientConnection) -> None:
        self.ended: Counter[str] = Counter()
        self._socket = socket
        self._begun: list[str] = []

    async def begin(self, seed: int, request: GraphQLRequest) -> None:
        await self._socket.send(json.dumps({"id": str(seed), "type": "subscribe", "payload": parameters(request)}))
        self._begun.append(str(seed))
        if len(self._begun) > OPEN_STREAMS:
            await self._socket.send(json.dumps({"id": self._begun.pop(0), "type": "complete"}))

    async def hear(self) -> None:
        """Until a pong comes."""
        async for text in self._socket:
            message = json.loads(text)
            if message["type"] == "pong":
                return
            assert "INTERNAL" not in str(text), text
            found = codes({"errors": message["payload"]}) if message["type"] == "error" else {message["type"]}
            self.ended.update(found)


@asynccontextmanager
async def streaming(target: Target) -> AsyncIterator[Streams]:
    """Subscriptions of the operator's. What was begun is answered before the block ends."""
    protocols: Any = ["graphql-transport-ws"]
    async with connect(target.socket_url, subprotocols=protocols) as socket:
        hello = {"authorization": f"Bearer {target.tokens['operator']}"}
        await socket.send(json.dumps({"type": "connection_init", "payload": hello}))
        assert json.loads(await socket.recv()) == {"type": "connection_ack"}
        streams = Streams(socket)
        async with asyncio.TaskGroup() as group:
            hearing = group.create_task(streams.hear())
            yield streams
            await socket.send(json.dumps({"type": "ping"}))
            async with asyncio.timeout(ANSWERED_SECONDS):
                await hearing
