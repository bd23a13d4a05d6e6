"""A small day, played as somebody plays it: a server of its own with two workers, the command, the audit."""

import asyncio
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from app.auth import development_keys
from app.errors import RequestError
from app.settings import Settings
from examples.simulation.client import Tokens
from examples.simulation.runner import SimulationResult, run_simulation
from tests.command_line import run_command, running_server, temporary_directory

GRANT = """mutation($owner: ID!) { grantCredits(input: {
    ownerId: $owner, credits: 1, reason: "nobody knows", idempotencyKey: "unknown"}) { __typename } }"""


@dataclass(frozen=True, slots=True)
class Server:
    url: str
    data_dir: Path
    tokens: Mapping[str, str]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with temporary_directory() as place, running_server(DATA_DIR=str(place), PORT="0", WORKERS="2") as (url, tokens):
        yield Server(url, place, tokens)


@dataclass(slots=True)
class Meddler:
    """Watches a day, and at its end grants a credit that no reply of the day speaks of: not to the last owner, whose
    account is to run dry.
    """

    server: Server
    owner_ids: list[str] = field(default_factory=list)
    left: int = 0

    async def tokens(self) -> Tokens:
        return Tokens(self.server.tokens["service"], self.server.tokens["operator"], self.user)

    def user(self, owner_id: str) -> str:
        self.owner_ids.append(owner_id)
        return development_keys.user_token(owner_id, settings=Settings(data_dir=self.server.data_dir))

    def say(self, text: str) -> None:
        pass

    def begin(self, tasks: int) -> None:
        self.left = tasks

    def moved_on(self) -> None:
        self.left -= 1
        if self.left == 0:
            answer = httpx.post(
                f"{self.server.url}/graphql",
                json={"query": GRANT, "variables": {"owner": self.owner_ids[-2]}},
                headers={"Authorization": f"Bearer {self.server.tokens['operator']}"},
                timeout=20,
            )
            assert answer.json()["data"]["grantCredits"]["__typename"] == "GrantCreditsSuccess"


def test_a_day_is_exact_and_has_everything_in_it(server: Server) -> None:
    day = run_command(
        "simulate", "--url", server.url, "--tasks", "30", "--seed", "1", "--verbose", DATA_DIR=str(server.data_dir)
    )

    assert day.returncode == 0, day.stdout + day.stderr
    assert "Reconciliation: the API and the replies agree\n" in day.stdout
    assert re.search(r"^Audit\n14 accounts, [\d,]+ entries: the books are whole$", day.stdout, re.MULTILINE)
    assert "DIFFERENT" not in day.stdout
    costs = [
        re.search(rf"{line} +([\d,]+)\n", day.stdout)
        for line in ("Sum of the tasks' costs", "Charges - reversals in the replies", "What left the accounts")
    ]
    assert len({found[1] for found in costs if found}) == 1
    assert all(found and found[1] != "0" for found in costs)
    told = " ".join(day.stdout.split())
    for event in (
        "charges refused", "connections dropped", "grants", "replays", "reversals", "tasks resumed", "tasks stopped",
        "ticks skipped", "top-ups",
    ):  # fmt: skip
        assert re.search(rf"\b{event} [1-9]", told), event
    assert " is out of credits: This needs " in day.stdout
    assert " ran dry: 9 tasks are stopped, the others ended with their budgets" in day.stdout
    assert " topped up: 9 tasks went on to their ends" in day.stdout


async def test_a_credit_that_nobody_speaks_of_is_found(server: Server) -> None:
    meddler = Meddler(server)

    async with asyncio.timeout(60):
        played: SimulationResult = await run_simulation(
            server.url, meddler.tokens, meddler, seed=3, tasks=13, concurrency=4
        )

    owner_id = meddler.owner_ids[-2]
    granted = played.tally.granted[owner_id]
    assert played.differences == [f"account of {owner_id}, grants: {granted + 1} by the API, {granted} by the replies"]
    assert played.header.problems == []


def test_without_a_server_the_command_says_how_to_start_one() -> None:
    with temporary_directory() as place:
        told = run_command("simulate", "--url", "http://127.0.0.1:1", DATA_DIR=str(place))

    assert told.returncode == 1
    assert told.stderr == (
        "Error: No server answers at http://127.0.0.1:1: start it with `make serve` in another shell, "
        "or name one with --url.\n"
    )


async def test_tokens_of_another_installation_are_named_as_what_is_wrong(server: Server) -> None:
    with temporary_directory() as place:
        elsewhere = Meddler(Server(server.url, place, {"service": "none", "operator": "none"}))
        with pytest.raises(RequestError, match="give simulate the same DATA_DIR and DATABASE_URL as serve"):
            await run_simulation(server.url, elsewhere.tokens, elsewhere, seed=1, tasks=1, concurrency=1)
