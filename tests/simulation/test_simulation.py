"""The simulation against a server with two workers: it agrees with a correct server, and finds a wrong credit."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from app.auth import development_keys
from app.errors import RequestError
from app.settings import Settings
from examples.simulation.client import Tokens
from examples.simulation.runner import run_simulation
from tests.command_line import REPOSITORY, environment, running_server, temporary_directory
from tests.graphql_client import execute

GRANT = """mutation($owner: ID!) { grantCredits(input: {
    ownerId: $owner, credits: 1, reason: "unknown", idempotencyKey: "unknown"}) { __typename } }"""


@dataclass(frozen=True, slots=True)
class Server:
    url: str
    data_dir: Path
    tokens: Mapping[str, str]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with (
        temporary_directory() as directory,
        running_server(DATA_DIR=str(directory), PORT="0", WORKERS="2") as (url, tokens),
    ):
        yield Server(url, directory, tokens)


def run_example(url: str, *options: str, data_dir: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "examples.simulation", "--url", url, *options],
        cwd=REPOSITORY,
        env=environment(DATA_DIR=str(data_dir)),
        capture_output=True,
        text=True,
        check=False,
    )


@dataclass(slots=True)
class Intruder:
    """A progress listener that grants one credit when the last task is done, which no response mentions.

    The credit does not go to the last owner, whose account must run out of credits.
    """

    server: Server
    owner_ids: list[str] = field(default_factory=list)
    remaining: int = 0

    async def tokens(self) -> Tokens:
        return Tokens(self.server.tokens["service"], self.server.tokens["operator"], self.user_token)

    def user_token(self, owner_id: str) -> str:
        self.owner_ids.append(owner_id)
        return development_keys.user_token(owner_id, settings=Settings(data_dir=self.server.data_dir))

    def log(self, text: str) -> None:
        pass

    def begin(self, tasks: int) -> None:
        self.remaining = tasks

    def task_done(self) -> None:
        self.remaining -= 1
        if self.remaining == 0:
            data = execute(self.server.url, self.server.tokens["operator"], GRANT, owner=self.owner_ids[-2])
            assert data == {"grantCredits": {"__typename": "GrantCreditsSuccess"}}


def test_a_correct_server_agrees_in_every_case(server: Server) -> None:
    done = run_example(server.url, "--tasks", "30", "--seed", "1", "--verbose", data_dir=server.data_dir)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Reconciliation: the API and the responses agree\n" in done.stdout
    assert re.search(r"^Verification of the ledger\n14 accounts, [\d,]+ entries: ", done.stdout, re.MULTILINE)
    assert "DIFFERENT" not in done.stdout
    totals = [
        re.search(rf"{line} +([\d,]+)\n", done.stdout)
        for line in ("Sum of the tasks' costs", "Charges - reversals in the responses", "Spent by the accounts")
    ]
    assert len({found[1] for found in totals if found}) == 1
    assert all(found and found[1] != "0" for found in totals)
    output = " ".join(done.stdout.split())
    for event in (
        "charges refused", "connections dropped", "grants", "replays", "reversals", "tasks resumed", "tasks stopped",
        "schedules skipped", "top-ups",
    ):  # fmt: skip
        assert re.search(rf"\b{event} [1-9]", output), event
    assert re.search(r" is out of credits: This requires [\d,]+ credits?; available: ", output)
    assert " ran out of credits: 9 tasks are stopped, the others are completed" in done.stdout
    assert " topped up: 9 tasks were resumed and completed" in done.stdout


async def test_a_credit_that_no_response_mentions_is_found(server: Server) -> None:
    intruder = Intruder(server)

    async with asyncio.timeout(60):
        result = await run_simulation(server.url, intruder.tokens, intruder, seed=3, tasks=13, concurrency=4)

    owner_id = intruder.owner_ids[-2]
    granted = result.expected.granted[owner_id]
    assert result.differences == [
        f"account of {owner_id}, grants: {granted + 1} in the API, {granted} in the responses"
    ]
    assert result.header.problems == []


def test_without_a_server_the_command_says_how_to_start_one(tmp_path: Path) -> None:
    done = run_example("http://127.0.0.1:1", data_dir=tmp_path)

    assert done.returncode == 1
    assert done.stderr == (
        "Error: No server responds at http://127.0.0.1:1: start it with `make serve` in another shell, or set --url.\n"
    )


async def test_tokens_of_another_installation_are_refused_with_what_to_do(server: Server, tmp_path: Path) -> None:
    other = Intruder(Server(server.url, tmp_path, {"service": "none", "operator": "none"}))

    with pytest.raises(RequestError, match="run the simulation with the DATA_DIR and DATABASE_URL of the server"):
        await run_simulation(server.url, other.tokens, other, seed=1, tasks=1, concurrency=1)
