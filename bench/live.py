"""Live balances: what a push costs, against the same subscription on Strawberry's own view.

Each subscriber follows the balance of its own account over a WebSocket while charges arrive at a fixed rate through
another server on the same database. Each round starts each server anew, so that memory and the rate of accepting
subscribers are those of a fresh process.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from app.auth import development_keys
from bench import databases, environment, wrk
from bench.environment import Server, resident_kib
from bench.http_client import RatePlan
from bench.report import Column, Figures, Goal, Rounds, Section
from bench.subscribers import Subscribers, SubscribersFailed
from bench.workload import LoadPlan, owner_id, task_id

Contender = Literal["server", "stock"]

LARGE: Final = (5_000, 10_000)
SPARE_FILES: Final = 500
CHARGING_CLIENTS: Final = 64
WARM_UP_SUBSCRIBERS: Final = 5
"""They connect, are charged and disconnect before anything is measured."""
WARM_UP_SECONDS: Final = 1.0
SETTLE_SECONDS: Final = 1.0
LOAD_WARM_UP_SECONDS: Final = 0.5
IDLE_CPU: Final = 0.1
"""The part of a core below which a server is idle: closing thousands of connections takes seconds."""
IDLE_ATTEMPTS: Final = 60
TITLES: Final[dict[str, str]] = {"server": "this server", "stock": "stock Strawberry subscription"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`large`: numbers of subscribers that are measured once more, with this server alone, after the rounds."""

    subscribers: int = 1_000
    rounds: int = 5
    seconds: float = 5.0
    per_second: float = 200.0
    large: tuple[int, ...] = ()


COLUMNS: Final = (
    Column(title="accepted/s", figure="accepted_per_second", form=",.0f"),
    Column(title="KiB each", figure="kib_per_subscriber", form=",.1f"),
    Column(title="pushes/s", figure="pushes_per_second", form=",.0f"),
    Column(title="CPU µs a push", figure="micros_per_push", form=",.0f"),
    Column(title="charge → push p50 ms", figure="p50_ms", form=",.1f"),
    Column(title="p99 ms", figure="p99_ms", form=",.1f"),
    Column(title="response → push p99 ms", figure="p99_after_response_ms", form=",.1f"),
    Column(title="charges/s without", figure="charges_without", form=",.0f"),
    Column(title="with", figure="charges_with", form=",.0f"),
    Column(title="pushes/s then", figure="pushes_with", form=",.0f"),
)
CAPTION: Final = (
    "Medians of {rounds} interleaved rounds of {seconds:g} s. Charges arrive at {per_second:g}/s through another "
    "server. Charge → push: from sending the charge to the arrival of the push; response → push: from the charge's "
    "response (0 where the push came first). CPU: of the server that pushes, without what it uses while idle. "
    f"charges/s without and with subscribers: {CHARGING_CLIENTS} clients charge the server that pushes."
)


def section(rounds: Rounds, options: Options) -> Section:
    server, stock = f"server-{options.subscribers}", f"stock-{options.subscribers}"
    count = f"{options.subscribers:,} subscribers"
    names = dict.fromkeys(name for measured in rounds for name in measured)
    return Section(
        name="live",
        rounds=rounds,
        labels=("", "subscribers"),
        rows={
            name: (TITLES[contender], f"{int(number):,}") for name in names for contender, number in [name.split("-")]
        },
        columns=COLUMNS,
        caption=CAPTION.format(**asdict(options)),
        goals=(
            Goal(
                text=f"CPU per push against the stock subscription, {count}", figure="micros_per_push",
                name=server, other=stock, clients=options.subscribers, at_least=0.2, aim=0.1, lower_is_better=True,
            ),
            Goal(
                text=f"charge → push, p99 ms, {count}", figure="p99_ms",
                name=server, clients=options.subscribers, at_least=150, aim=50, lower_is_better=True,
            ),
            Goal(
                text=f"throughput kept with {count}", figure="throughput_kept",
                name=server, clients=CHARGING_CLIENTS, at_least=0.85, aim=0.95,
            ),
        ),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setup:
    """`charging`: the server that takes the charges at a fixed rate."""

    directory: Path
    url: str
    key: str
    tokens: list[str]
    charging: Server
    options: Options


async def measure(directory: Path, options: Options, report: Callable[[str], object]) -> list[dict[str, Figures]]:
    """All rounds. `report` receives each step as a text.

    Raises: SubscribersFailed: a subscriber was disconnected, or a charge was not pushed; ClientFailed, ServerFailed.
    """
    most = max((options.subscribers, *options.large))
    environment.allow_open_files(most + SPARE_FILES)
    rounds: list[dict[str, Figures]] = []
    with environment.temporary_postgres(directory / "live") as postgres:
        report(f"creating {most:,} accounts")
        url = await databases.create(postgres.url, "live")
        key = await databases.fill(url, many=most, hot=False)
        await databases.analyze(url)
        settings = environment.server_settings(url)
        with environment.running_server("charging", "app", "serve", directory=directory, **settings) as charging:
            await databases.query_tasks(charging.url, key, _tasks(most))
            setup = _Setup(
                directory=directory, url=url, key=key, charging=charging, options=options,
                tokens=[development_keys.user_token(owner_id(number)) for number in range(most)],
            )  # fmt: skip
            for number, contenders in enumerate(_plan(options)):
                alone_first = number % 2 == 1 and number < options.rounds
                measured: dict[str, Figures] = {}
                for contender, count in contenders:
                    report(f"{number + 1}: {TITLES[contender]}, {count:,} subscribers")
                    run = f"{contender}-{count}-{number:03d}"
                    measured[f"{contender}-{count}"] = await _measure_one(
                        setup, contender, count, run, alone_first=alone_first
                    )
                rounds.append(measured)
    return rounds


def _plan(options: Options) -> Iterator[list[tuple[Contender, int]]]:
    """Contenders and numbers of subscribers, round by round. Every second round is reversed."""
    both: list[tuple[Contender, int]] = [("server", options.subscribers), ("stock", options.subscribers)]
    for number in range(options.rounds):
        yield both[::-1] if number % 2 else both
    for count in options.large:
        yield [("server", count)]


def _tasks(count: int) -> list[str]:
    return [task_id("many", number) for number in range(count)]


async def _measure_one(setup: _Setup, contender: Contender, count: int, run: str, *, alone_first: bool) -> Figures:
    """`alone_first`: measure the throughput without subscribers before that with them."""
    command = ("app", "serve") if contender == "server" else ("bench.stock_strawberry", "balance")
    settings, options = environment.server_settings(setup.url), setup.options
    with environment.running_server(contender, *command, directory=setup.directory, **settings) as server:
        subscribers, tokens = Subscribers(server), setup.tokens[:count]
        few = setup.tokens[:WARM_UP_SUBSCRIBERS]
        await subscribers.connect(few)
        await subscribers.charge(_rate_plan(setup, len(few), f"{run}-warm", WARM_UP_SECONDS))
        await subscribers.disconnect()
        kib = resident_kib(server.pid)
        connecting_seconds = await subscribers.connect(tokens)
        kib = resident_kib(server.pid) - kib
        await asyncio.sleep(SETTLE_SECONDS)
        idle_cpu = await subscribers.idle_cpu(max(options.seconds / 2, 0.5))
        pushed = await subscribers.charge(_rate_plan(setup, count, f"{run}-pushed", options.seconds))
        if pushed["unseen"] or not pushed["pushes"]:
            raise SubscribersFailed(f"{pushed['unseen']:.0f} charges of {run} were not pushed")
        used = pushed["server_cpu_seconds"] - idle_cpu * pushed["seconds"]
        figures = {
            "accepted_per_second": count / connecting_seconds,
            "kib_per_subscriber": kib / count,
            "pushes_per_second": pushed["pushes"] / pushed["charging_seconds"],
            "micros_per_push": used * 1e6 / pushed["pushes"],
            **{name: pushed[name] for name in ("p50_ms", "p99_ms", "p99_after_response_ms")},
        }
        if contender == "server":  # comes last: its memory would hide that of the subscribers
            figures |= await _throughput(setup, subscribers, server, run, tokens=tokens, alone_first=alone_first)
        await subscribers.disconnect()
    return figures


def _rate_plan(setup: _Setup, accounts: int, run: str, seconds: float) -> RatePlan:
    return RatePlan(
        port=setup.charging.port, key=setup.key, load="many", tasks=accounts, run=run,
        per_second=setup.options.per_second, seconds=seconds,
    )  # fmt: skip


async def _throughput(
    setup: _Setup, subscribers: Subscribers, server: Server, run: str, *, tokens: list[str], alone_first: bool
) -> dict[str, float]:
    """Charges a second that the server takes while the charged accounts have subscribers, and while there are none."""

    async def load(name: str, seconds: float = setup.options.seconds) -> float:
        plan = LoadPlan(
            request="charge", load="many", port=server.port, key=setup.key, run=f"{run}-{name}",
            connections=CHARGING_CLIENTS, warm_up_seconds=LOAD_WARM_UP_SECONDS, seconds=seconds,
            server_pids=[server.pid], database_pids=[], accounts=len(tokens),
        )  # fmt: skip
        result = await asyncio.to_thread(wrk.send_load, plan)
        if result.refused:
            raise SubscribersFailed(f"{result.refused:,} charges of {run} were refused: {result.refusal}")
        return result.per_second

    async def alone() -> float:
        await subscribers.disconnect()
        for _ in range(IDLE_ATTEMPTS):
            if await subscribers.idle_cpu(0.5) < IDLE_CPU:
                break
        return await load("alone")

    await databases.query_tasks(server.url, setup.key, _tasks(len(tokens)))
    await load("warm", WARM_UP_SECONDS)
    without = await alone() if alone_first else None
    if alone_first:
        await subscribers.connect(tokens)
    pushes = subscribers.pushes
    with_subscribers = await load("subscribed")
    pushes = subscribers.pushes - pushes
    without = without or await alone()
    return {
        "charges_without": without,
        "charges_with": with_subscribers,
        "throughput_kept": with_subscribers / without,
        "pushes_with": pushes / (setup.options.seconds + LOAD_WARM_UP_SECONDS),
    }
