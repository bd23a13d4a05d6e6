"""A whole platform: the real server as two worker processes, and clients that know nothing but its public API."""

import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.commands import serving
from tests.conftest import LEDGER_KEY
from tests.factories import unique


@dataclass(frozen=True, slots=True)
class Platform:
    """The server's address and the tokens it printed, by kind."""

    url: str
    tokens: Mapping[str, str]
    client: httpx.AsyncClient

    async def ask(self, kind: str, query: str, **variables: Any) -> Any:
        """The data of an answer without errors."""
        body = (await self.post(kind, query, **variables)).json()
        assert "errors" not in body, body
        return body["data"]

    async def post(self, kind: str, query: str, **variables: Any) -> httpx.Response:
        return await self.client.post(
            "/graphql",
            json={"query": query, "variables": variables},
            headers={"authorization": f"Bearer {self.tokens.get(kind, kind)}"},
        )

    async def grant(self, owner_id: str, credits: int) -> Any:
        query = """mutation($owner: ID!, $credits: Credits!, $key: String!) { grantCredits(input: {
            ownerId: $owner, credits: $credits, reason: "story", idempotencyKey: $key}) {
            ... on GrantCreditsSuccess { balance { available version } } } }"""
        data = await self.ask("operator", query, owner=owner_id, credits=credits, key=unique("key"))
        return data["grantCredits"]["balance"]

    async def start(self, owner_id: str, task_id: str | None = None) -> str:
        query = """mutation($task: ID!, $owner: ID!) { startTask(input: {
            taskId: $task, ownerId: $owner, agentId: "agent"}) { ... on StartTaskSuccess { task { taskId } } } }"""
        data = await self.ask("service", query, task=task_id or unique("story-task"), owner=owner_id)
        return str(data["startTask"]["task"]["taskId"])

    async def charge(self, task_id: str, block_run_id: str, block: str = "ReplicateModelBlock") -> Any:
        query = """mutation($input: ChargeInput!) { charge(input: $input) { __typename
            ... on ChargeSuccess { cost replayed entry { seq mac } balance { available version } task { steps } }
            ... on InsufficientCreditsError { required available shortfall } } }"""
        asked = {"taskId": task_id, "blockRunId": block_run_id, "block": block}
        return (await self.ask("service", query, input=asked))["charge"]

    async def balance(self, owner_id: str) -> Any:
        query = "query($owner: ID!) { account(ownerId: $owner) { balance { available posted version } } }"
        return (await self.ask("service", query, owner=owner_id))["account"]["balance"]


@pytest.fixture(scope="session")
def server(database_url: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The address and tokens of a server of two workers over this run's database."""
    with (
        tempfile.TemporaryDirectory(prefix="credits-story-") as directory,
        serving(
            DATABASE_URL=database_url, DATA_DIR=directory, PORT="0", WORKERS="2", LEDGER_KEY=LEDGER_KEY.hex()
        ) as served,
    ):
        yield served


@pytest.fixture
async def platform(server: tuple[str, Mapping[str, str]]) -> AsyncIterator[Platform]:
    """The server, with clients on many connections, so that both workers are met. Each story has owners of its own."""
    url, tokens = server
    async with httpx.AsyncClient(base_url=url, timeout=20, limits=httpx.Limits(max_connections=40)) as client:
        yield Platform(url, tokens, client)
