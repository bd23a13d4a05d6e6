"""The requests to the contenders: accounts, tasks, GraphQL documents, and the bytes that a client sends."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Self

from bench.environment import BenchmarkFailed

Load = Literal["many", "hot", "balance", "library"]
"""many: charges to 10,000 accounts in random order. hot: charges to one account. balance: reads of a balance.
library: reads of a page of an agent's tasks with their costs."""
Request = Literal["charge", "batch", "route", "balance", "library"]

MANY_ACCOUNTS: Final = 10_000
HOT_OWNER: Final = "hot"
HOT_TASKS: Final = 64
"""Tasks that run at once in the hot account."""
BATCH_SIZE: Final = 100
GRANTED_CREDITS: Final = 1_000_000_000
"""Granted to each account, so that no charge is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much is measured.

    `rounds`: their number. `seconds`: the duration of each measurement of charges and reads. `more_subscribers`:
    numbers of subscribers that are measured once, with this server alone, after the rounds. `entries`: sizes of
    ledgers, ascending. `pages`: how many times a page of the history is read in a round.
    """

    rounds: int = 5
    seconds: float = 1.0
    live_seconds: float = 2.0
    subscribers: int = 1_000
    more_subscribers: tuple[int, ...] = ()
    growth_seconds: float = 1.5
    entries: tuple[int, ...] = (10_000, 100_000)
    pages: int = 100


BLOCK: Final = "AITextGeneratorBlock"
SETTINGS: Final = {"model": "gpt-4o", "max_tokens": 500}

_RESULT: Final = (
    "{ __typename ... on ChargeSuccess { cost replayed balance { available version } } ... on UserError { message } }"
)
CHARGE: Final = f"mutation Charge($input: ChargeInput!) {{ charge(input: $input) {_RESULT} }}"
CHARGE_BATCH: Final = f"mutation ChargeBatch($input: [ChargeInput!]!) {{ chargeBatch(input: $input) {_RESULT} }}"
BALANCE: Final = """query Header($ownerId: ID!) {
  account(ownerId: $ownerId) { id balance { id available held owed version status } }
}"""

LIBRARY_OWNER: Final = "reader"
LIBRARY_AGENT: Final = "library-agent"
LIBRARY_TASKS: Final = 50
LIBRARY_RUNS: Final = 3
"""Block runs of each task on the library page."""
LIBRARY: Final = """query Library($agentId: ID!, $ownerId: ID!, $first: Int!) {
  agent(agentId: $agentId, ownerId: $ownerId) { id agentId tasks(first: $first) {
    edges { cursor node { id taskId status stopReason trigger startedAt endedAt blockRunCount
      cost { id total charged reversed version } } }
    pageInfo { hasNextPage endCursor } } }
}"""
LIBRARY_VARIABLES: Final = {"agentId": LIBRARY_AGENT, "ownerId": LIBRARY_OWNER, "first": LIBRARY_TASKS}

MARKERS: Final[dict[Request, tuple[str, int]]] = {
    "charge": ('"ChargeSuccess"', 1),
    "batch": ('"ChargeSuccess"', BATCH_SIZE),
    "route": ('"ChargeSuccess"', 1),
    "balance": ('"version":', 1),
    "library": ('"taskId":', LIBRARY_TASKS),
}
"""A text in the body of every successful response, and how often it occurs there."""


def task_id(load: Load, number: int) -> str:
    """All task ids of a load have the same length."""
    return f"{load}-{number:06d}"


def owner_id(number: int) -> str:
    """The owner of task `number` of the many accounts."""
    return f"owner-{number:06d}"


def task_ids(load: Load) -> list[str]:
    count = {"many": MANY_ACCOUNTS, "hot": HOT_TASKS}.get(load, 0)
    return [task_id(load, number) for number in range(count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """What a client sends. `run` prefixes all block run ids and must be unique.

    A connection sends its next request when it has received a response.
    """

    request: Request
    load: Load
    port: int
    key: str
    run: str
    connections: int
    seconds: float
    server_pids: list[int]
    database_pids: list[int]
    accounts: int = MANY_ACCOUNTS
    """The number of accounts that the load `many` charges, or `balance` reads."""

    @property
    def counts_responses(self) -> bool:
        """True for reads: a response counts once, if it is complete. False for charges: each success counts."""
        return self.request in ("balance", "library")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTemplate:
    """The parts of which the requests of a plan are made. All requests have the same length.

    A request has `items` copies of `item`, separated by commas. In each, `%06d` is replaced by a random number below
    `choices`, and `%08d` by the next number.
    """

    before: str
    item: str
    items: int
    after: str
    choices: int


def template_of(plan: LoadPlan) -> RequestTemplate:
    items, choices = 1, plan.accounts
    match plan.request:
        case "library":
            before, item, after = json.dumps({"query": LIBRARY, "variables": LIBRARY_VARIABLES}), "", ""
        case "balance":
            before = f'{{"query":{json.dumps(BALANCE)},"variables":{{"ownerId":"'
            item, after = "owner-%06d", '"}}'
        case request:
            document, opening, closing = CHARGE, "", ""
            if request == "batch":
                document, opening, closing, items = CHARGE_BATCH, "[", "]", BATCH_SIZE
            run = f'"block":"{BLOCK}","settings":{json.dumps(SETTINGS, separators=(",", ":"))}'
            before = f'{{"query":{json.dumps(document)},"variables":{{"input":{opening}'
            item = f'{{"taskId":"{plan.load}-%06d","blockRunId":"{plan.run}-%08d",{run}}}'
            after = f"{closing}}}}}"
            choices = HOT_TASKS if plan.load == "hot" else plan.accounts
    one = item.replace("%06d", "000000").replace("%08d", "00000000")
    length = len(before) + len(",".join([one] * items)) + len(after)
    before = http_head(plan.key, length) + before
    return RequestTemplate(before=before, item=item, items=items, after=after, choices=choices)


def http_head(key: str, length: int) -> str:
    return (
        f"POST /graphql HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {key}\r\nContent-Length: {length}\r\n\r\n"
    )


def request_factory(plan: LoadPlan) -> Callable[[], bytes]:
    """A function that returns the next request."""
    template = template_of(plan)
    before, item, after = template.before.encode(), template.item.encode(), template.after.encode()
    chance = random.Random(plan.run).random  # noqa: S311  the same order in every run, not a secret
    numbers = iter(range(100_000_000))
    placeholders = item.count(b"%0")

    def next_item() -> bytes:
        return item % (int(chance() * template.choices), next(numbers))[:placeholders]

    return lambda: before + b",".join([next_item() for _ in range(template.items)]) + after


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """What a client measured in `seconds`, after the warm-up. `acknowledged` includes the warm-up."""

    charges: int
    """Charges, reads, or requests to the route."""
    seconds: float
    p50_ms: float
    p99_ms: float
    server_cpu_seconds: float
    database_cpu_seconds: float
    acknowledged: int = 0
    refused: int = 0
    refusal: str | None = None
    """The first response that was not as expected."""

    def check(self, run: str) -> Self:
        """Raises: BenchmarkFailed: a request was refused."""
        if self.refused:
            raise BenchmarkFailed(f"{self.refused:,} requests of {run} were not answered as expected: {self.refusal}")
        return self

    @property
    def per_second(self) -> float:
        return self.charges / self.seconds

    def figures(self) -> dict[str, float]:
        """CPU in µs for each charge or read. Without any response, the rate is 0 and no other figure exists."""
        figures = {"per_second": self.per_second}
        if self.charges:
            figures |= {"p50_ms": self.p50_ms, "p99_ms": self.p99_ms}
            cpu = {"server_micros": self.server_cpu_seconds, "database_micros": self.database_cpu_seconds}
            figures |= {name: used * 1e6 / self.charges for name, used in cpu.items() if used}
        return figures
