"""End-to-end tests: the real server with two worker processes, and clients that use only its public API."""

import asyncio
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import pytest
from websockets.asyncio.client import ClientConnection

from app.auth.development_keys import user_token
from app.db import pools
from app.db.database_url import connection_arguments
from app.pricing.rate_card_json import default_rate_card
from app.settings import Settings
from app.tasks import stop_and_resume
from app.verify.verifier import verify_ledger
from tests import databases
from tests.command_line import running_server
from tests.conftest import LEDGER_KEY
from tests.factories import publish_rate_cards, unique_id
from tests.graphql_client import connected, data_of, form_token, request_of, subscribe
from tests.stories import operations

ITEMS = {"block": "ItemBlock", "credits": 1, "unit": "item"}
"""A block that costs 1 credit for each item. The stories' rate card adds it to the default card."""

OTHER_USERS = ("saver", "unlucky")
"""Further users with tokens under their names, so that the auto top-ups of stories do not affect each other."""


@dataclass(frozen=True, slots=True)
class Platform:
    """A client of the server. `tokens`: the tokens that the server printed, by kind of caller."""

    url: str
    tokens: Mapping[str, str]
    client: httpx.AsyncClient
    database_url: str

    async def ask(self, kind: str, query: str, **variables: Any) -> Any:
        """The data of a response without errors."""
        return data_of(await self.post(kind, query, **variables))

    async def post(self, kind: str, query: str, **variables: Any) -> httpx.Response:
        return await self.client.post("/graphql", **request_of(self.tokens.get(kind, kind), query, **variables))

    async def do(self, name: str, kind: str | None = None, **input: Any) -> Any:
        """The result of an operation; `kind`: the caller, by default one that has the permission."""
        caller = kind or operations.CALLERS.get(name, "service")
        return (await self.ask(caller, operations.document(name), input=input))[name]

    async def done(self, name: str, kind: str | None = None, **input: Any) -> Any:
        """Like `do`, for an operation that must succeed."""
        answer = await self.do(name, kind, **input)
        assert answer["__typename"].endswith("Success"), answer
        return answer

    async def grant(self, owner_id: str, credits: int, **more: Any) -> Any:
        asked: dict[str, Any] = {
            "ownerId": owner_id,
            "credits": credits,
            "reason": "story",
            "idempotencyKey": unique_id("key"),
        } | more
        return (await self.done("grantCredits", None, **asked))["balance"]

    async def start(self, owner_id: str, task_id: str | None = None, **more: Any) -> str:
        asked: dict[str, Any] = {
            "taskId": task_id or unique_id("story-task"),
            "ownerId": owner_id,
            "agentId": "agent",
        } | more
        return str((await self.done("startTask", **asked))["task"]["taskId"])

    async def charge(
        self, task_id: str, block_run_id: str, block: str = "ReplicateModelBlock", items: int | None = None, **more: Any
    ) -> Any:
        """Charge a block run of 10 credits, or of `items` credits."""
        query = f"mutation($input: ChargeInput!) {{ charge(input: $input) {{ {operations.CHARGED} }} }}"
        return (await self.ask("service", query, input=a_charge(task_id, block_run_id, block, items) | more))["charge"]

    async def hold(self, task_id: str, block_run_id: str, at_most: int, timeout_seconds: int = 600) -> Any:
        """Hold the credits for `at_most` items."""
        return await self.do(
            "placeHold", taskId=task_id, blockRunId=block_run_id, block=ITEMS["block"], atMost={"items": at_most},
            timeoutSeconds=timeout_seconds,
        )  # fmt: skip

    async def capture(self, task_id: str, block_run_id: str, items: int, **more: Any) -> Any:
        asked: dict[str, Any] = {"taskId": task_id, "blockRunId": block_run_id, "measurements": {"items": items}} | more
        return await self.do("captureHold", **asked)

    async def void(self, task_id: str, block_run_id: str) -> Any:
        return await self.do("voidHold", taskId=task_id, blockRunId=block_run_id)

    async def resume(self, task_id: str, **more: Any) -> Any:
        return await self.do("resumeTask", taskId=task_id, **more)

    async def top_up(self, credits: int) -> None:
        """Begin a top-up as the user, and pay it on the provider's page."""
        await self.pay((await self.begin_top_up(credits))["paymentUrl"])

    async def begin_top_up(self, credits: int, kind: str = "user", **more: Any) -> Any:
        top_up = (await self.done("beginTopUp", kind, credits=credits, idempotencyKey=unique_id("key"), **more))[
            "topUp"
        ]
        assert top_up["status"] == "PENDING"
        return top_up

    async def pay(self, payment_url: str, **choice: str) -> str:
        """Pay on the provider's page. Returns: the page."""
        page = (await self.client.get(payment_url)).text
        form = {"token": form_token(page), "decision": "pay"} | choice
        assert (await self.client.post(payment_url, data=form)).status_code == 303
        return page

    async def save_card(self, user: str, card: str) -> None:
        """Buy 500 credits as the user, and save the test card that behaves like this."""
        top_up = await self.begin_top_up(500, user, saveCard=True)
        assert f'<option value="{card}">' in await self.pay(top_up["paymentUrl"], card=card)

    async def task(self, task_id: str) -> Any:
        query = f"query($task: ID!) {{ task(taskId: $task) {operations.TASK} }}"
        return (await self.ask("service", query, task=task_id))["task"]

    async def balance(self, owner_id: str) -> Any:
        query = "query($owner: ID!) { account(ownerId: $owner) { balance { available posted version } } }"
        return (await self.ask("service", query, owner=owner_id))["account"]["balance"]

    async def account(self, owner_id: str, selection: str) -> Any:
        """The fields of an account, read as a service."""
        query = f"query($owner: ID!) {{ account(ownerId: $owner) {{ {selection} }} }}"
        return (await self.ask("service", query, owner=owner_id))["account"]

    async def entries(self, owner_id: str) -> list[tuple[str, int]]:
        """The account's entries (kind, credits), oldest first."""
        found = await self.account(owner_id, "entries(first: 100) { edges { node { kind credits } } }")
        return [(edge["node"]["kind"], edge["node"]["credits"]) for edge in reversed(found["entries"]["edges"])]

    @asynccontextmanager
    async def subscribed(self, kind: str, query: str, **variables: Any) -> AsyncIterator[ClientConnection]:
        """A graphql-transport-ws connection with one subscription."""
        async with self.connected(kind) as socket:
            await subscribe(socket, query, **variables)
            yield socket

    def connected(self, kind: str) -> AbstractAsyncContextManager[ClientConnection]:
        """An authenticated graphql-transport-ws connection."""
        return connected(self.url, self.tokens.get(kind, kind))

    async def audited(self, owner_id: str | None = None) -> None:
        """Verify the ledger of the owner, or the whole ledger."""
        stop_and_resume.configure_ledger(LEDGER_KEY)
        await pools.connect(self.database_url)
        try:
            report = await verify_ledger(owner_id)
            assert (report.violations, report.accounts > 0) == ([], True)
        finally:
            await pools.disconnect()


async def pushed(socket: ClientConnection, field: str) -> Any:
    """The next item of a subscription, within 5 s."""
    async with asyncio.timeout(5):
        message = json.loads(await socket.recv())
    assert message["type"] == "next", message
    return message["payload"]["data"][field]


async def until(look: Callable[[], Awaitable[bool]], *, seconds: float = 5) -> None:
    """Wait until a condition is true that another process, or time, brings about."""
    async with asyncio.timeout(seconds):
        while not await look():  # noqa: ASYNC110  it happens in another process
            await asyncio.sleep(0.02)


def a_charge(
    task_id: str, block_run_id: str, block: str = "ReplicateModelBlock", items: int | None = None
) -> dict[str, Any]:
    """The input of `charge` for a block run of 10 credits, or of `items` credits."""
    asked: dict[str, Any] = {"taskId": task_id, "blockRunId": block_run_id, "block": block}
    return asked | ({"block": ITEMS["block"], "measurements": {"items": items}} if items is not None else {})


@pytest.fixture(scope="package")
def server(database_url: str, application_url: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The address and tokens of a server with two workers on the test database, with the stories' rate card.

    It stops after the stories, because its background loops would change what tests of other packages check.
    """
    asyncio.run(_publish(database_url))
    with (
        tempfile.TemporaryDirectory(prefix="credits-story-") as directory,
        running_server(
            DATABASE_URL=application_url, DATA_DIR=directory, PORT="0", WORKERS="2", LEDGER_KEY=LEDGER_KEY.hex()
        ) as (
            url,
            tokens,
        ),
    ):
        here = Settings(data_dir=Path(directory))
        yield url, {**tokens, **{name: user_token(name, settings=here) for name in OTHER_USERS}}


@pytest.fixture
async def platform(server: tuple[str, Mapping[str, str]], database_url: str) -> AsyncIterator[Platform]:
    """The server, with a client whose many connections reach both workers. Each story has its own owners."""
    url, tokens = server
    async with httpx.AsyncClient(base_url=url, timeout=20, limits=httpx.Limits(max_connections=40)) as client:
        yield Platform(url, tokens, client, database_url)


@pytest.fixture
async def workers(platform: Platform) -> AsyncIterator[tuple[Platform, Platform]]:
    """Two clients with one connection each, to different workers."""
    certificates = ssl.create_default_context()  # read once, because reading them for each client is slow
    found: dict[int, httpx.AsyncClient] = {}
    clients: list[httpx.AsyncClient] = []
    async with asyncio.timeout(10):
        while len(found) < 2:
            alone = httpx.Limits(max_connections=1, keepalive_expiry=None)
            some = [
                httpx.AsyncClient(base_url=platform.url, timeout=20, limits=alone, verify=certificates)
                for _ in range(8)
            ]
            clients += some
            for client, reply in zip(some, await asyncio.gather(*(one.get("/healthz") for one in some)), strict=True):
                here = reply.extensions["network_stream"].get_extra_info("client_addr")[1]
                found.setdefault(worker_of(platform, here), client)
    first, second = found.values()
    yield replace(platform, client=first), replace(platform, client=second)
    for client in clients:
        await client.aclose()


@pytest.fixture
async def snapshots(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A database connection of the test: each of its statements reads one snapshot."""
    connection = await asyncpg.connect(**connection_arguments(database_url))
    yield connection
    await connection.close()


def worker_of(platform: Platform, port: int) -> int:
    """The worker process at the other end of this process's connection from `port`."""
    there = httpx.URL(platform.url).port
    for process in psutil.Process().children(recursive=True):
        for connection in process.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN and (connection.laddr.port, connection.raddr.port) == (
                there,
                port,
            ):
                return process.pid
    raise LookupError(f"no worker has a connection from port {port}")


def successes(answers: Sequence[Any]) -> list[Any]:
    """The answers that are not refusals."""
    return [answer for answer in answers if answer["__typename"].endswith("Success")]


async def _publish(database_url: str) -> None:
    await databases.reset(database_url)
    await pools.connect(database_url)
    try:
        card = default_rate_card()
        await publish_rate_cards(card | {"blocks": [*card["blocks"], ITEMS]})
    finally:
        await pools.disconnect()
