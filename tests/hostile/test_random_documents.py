"""Random documents, valid and invalid, sent by every kind of caller."""

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
from websockets.asyncio.client import ClientConnection

from app.api.schema import build_schema
from app.engine.execution import GraphQLRequest
from tests.engine.document_generator import DocumentGenerator
from tests.graphql_client import connected
from tests.hostile.server_under_test import ANSWERED_SECONDS, DOCUMENTS, Target, authorized, codes
from tests.worker_processes import Report

pytestmark = pytest.mark.anyio

SCHEMA = build_schema()._schema
ROOTS = [*["query"] * 6, *["mutation"] * 3, "subscription"]
ERROR_PROBABILITY = 0.05
AT_ONCE = 8
MAX_SUBSCRIPTIONS = 20
GROWTH_BYTES = 48 * 1024 * 1024
INJECTIONS = ["", "\x00", "a\x00b", "x" * 300, "' OR 1=1 --", "%s{}$1", "\u202e\ufeff", "../../etc/passwd", "-1"]
"""Strings with a meaning for PostgreSQL, formats, shells or readers of logs."""
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
    name: [*KNOWN.get(name, ["a", "b"]), *KNOWN.get(name, ["c"]), *INJECTIONS]
    for name in (
        *KNOWN, "reason", "idempotencyKey", "topUpId", "grantId", "returnUrl", "scheduleId", "parentTaskId", "entryId",
        "ownerIds", "key", "email", "currency",
    )
}  # fmt: skip
"""Values of arguments, by name: some exist, most do not, and many are in INJECTIONS."""


def random_request(seed: int) -> tuple[str, GraphQLRequest]:
    chance = Random(seed)  # noqa: S311  the same requests in each run
    keyword = chance.choice(ROOTS)
    root = {"query": SCHEMA.query_type, "mutation": SCHEMA.mutation_type, "subscription": SCHEMA.subscription_type}
    kind = root[keyword]
    assert kind is not None
    return keyword, DocumentGenerator(chance, SCHEMA, POOLS, error_probability=ERROR_PROBABILITY).request(kind, keyword)


def parameters(request: GraphQLRequest) -> dict[str, Any]:
    return {"query": request.query, "variables": request.variables, "operationName": request.operation_name}


async def test_random_documents_cause_no_internal_error_and_leak_no_memory(target: Target, report: Report) -> None:
    memory_before, started = 0, time.monotonic()
    outcomes: Counter[str] = Counter()
    users = [target.user(f"user-{number}") for number in range(20)]
    seeds = iter(range(DOCUMENTS))
    async with target.client() as client, subscriptions(target) as streams:

        async def send_some() -> None:
            nonlocal memory_before
            for seed in seeds:
                if seed == DOCUMENTS // 3:
                    memory_before = target.resident_bytes()
                user, service, operator = (
                    users[seed // AT_ONCE % 20],
                    target.tokens["service"],
                    target.tokens["operator"],
                )
                tokens = [None, user, service, operator, service, operator, user, service, operator]
                outcomes.update(await send_request(client, streams, seed, tokens[seed % 9]))

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(send_some())
    outcomes += streams.outcomes
    growth = target.resident_bytes() - memory_before
    seconds = f"{DOCUMENTS} documents in {time.monotonic() - started:.1f} s"
    report(f"{seconds}: {dict(sorted(outcomes.items()))}, memory {growth / 2**20:+.1f} MiB")
    assert {"ok", "BAD_USER_INPUT", "GRAPHQL_VALIDATION_FAILED", "FORBIDDEN", "UNAUTHENTICATED"} <= outcomes.keys()
    assert not outcomes.keys() & {"INTERNAL", "UNAVAILABLE", "TIMED_OUT"}
    assert growth < GROWTH_BYTES


async def send_request(client: httpx.AsyncClient, streams: "Subscriptions", seed: int, token: str | None) -> set[str]:
    """Send the request of this seed, again if its caller has exceeded the rate limit.

    Returns: its error codes, or `ok`. Subscriptions are counted in `streams`.
    """
    keyword, request = random_request(seed)
    if keyword == "subscription":
        await streams.start(seed, request)
        return set()
    content = json.dumps(parameters(request))
    headers = authorized(token) | {"content-type": "application/json"}
    while (reply := await client.post("/graphql", content=content, headers=headers)).status_code == 429:
        assert token is None, (seed, "only anonymous requests share one rate limit")
        await asyncio.sleep(reply.json()["errors"][0]["extensions"]["retryAfterSeconds"])
    assert reply.status_code in {200, 400}, (seed, reply.status_code, reply.text)
    answer = reply.json()
    assert "INTERNAL" not in reply.text, (seed, reply.text)
    return codes(answer) or {"ok"}


class Subscriptions:
    """Subscriptions over one connection. The oldest ones are completed."""

    def __init__(self, socket: ClientConnection) -> None:
        self.outcomes: Counter[str] = Counter()
        self._socket = socket
        self._open: list[str] = []

    async def start(self, seed: int, request: GraphQLRequest) -> None:
        await self._socket.send(json.dumps({"id": str(seed), "type": "subscribe", "payload": parameters(request)}))
        self._open.append(str(seed))
        if len(self._open) > MAX_SUBSCRIPTIONS:
            await self._socket.send(json.dumps({"id": self._open.pop(0), "type": "complete"}))

    async def receive(self) -> None:
        """Receive messages until a pong."""
        async for text in self._socket:
            message = json.loads(text)
            if message["type"] == "pong":
                return
            assert "INTERNAL" not in str(text), text
            found = codes({"errors": message["payload"]}) if message["type"] == "error" else {message["type"]}
            self.outcomes.update(found)


@asynccontextmanager
async def subscriptions(target: Target) -> AsyncIterator[Subscriptions]:
    """Subscriptions of an operator. They are answered before the block ends."""
    async with connected(target.url, target.tokens["operator"]) as socket:
        streams = Subscriptions(socket)
        async with asyncio.TaskGroup() as group:
            receiving = group.create_task(streams.receive())
            yield streams
            await socket.send(json.dumps({"type": "ping"}))
            async with asyncio.timeout(ANSWERED_SECONDS):
                await receiving
