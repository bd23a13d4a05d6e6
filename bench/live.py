"""Live balances: the cost of a push, compared with the same subscription on Strawberry's own view.

Each subscriber follows the balance of its own account over a WebSocket while charges arrive at a fixed rate through
another server on the same database. Each round starts each server anew.
"""

import asyncio
from pathlib import Path
from typing import Final

from app.auth import development_keys
from bench import databases, environment, wrk
from bench.environment import Server, progress
from bench.http_client import RatePlan
from bench.report import Column, Figures, Goal, Rounds, Section
from bench.subscribers import Subscribers
from bench.workload import Extent, LoadPlan, owner_id, task_id

SPARE_FILES: Final = 500
CHARGING_CLIENTS: Final = 64
PER_SECOND: Final = 200
"""The rate of the charges that are pushed."""
WARM_UP_SUBSCRIBERS: Final = 5
"""The number of subscribers that connect, are charged and disconnect before the measurements."""
WARM_UP_SECONDS: Final = 1.0
COMMANDS: Final = {"server": ("app", "serve"), "stock": ("bench.reference_servers", "balance")}
TITLES: Final = {"server": "this server", "stock": "stock Strawberry subscription"}

COLUMNS: Final = (
    Column(title="CPU µs a push", figure="micros_per_push", form=",.0f"),
    Column(title="charge → push p50 ms", figure="p50_ms", form=",.1f"),
    Column(title="p99 ms", figure="p99_ms", form=",.1f"),
    Column(title="charges/s without", figure="charges_without", form=",.0f"),
    Column(title="with", figure="charges_with", form=",.0f"),
)
CAPTION: Final = (
    "Medians of {rounds} interleaved rounds of {seconds:g} s. Charges arrive at {per_second:g}/s through another "
    "server. Charge → push: from sending the charge to the arrival of the push. CPU: of the server that pushes, "
    "without what it uses while idle. charges/s without and with subscribers: {clients} clients charge the server that "
    "pushes."
)


def section(rounds: Rounds, extent: Extent) -> Section:
    count = extent.subscribers
    server, stock, text = f"server-{count}", f"stock-{count}", f"{count:,} subscribers"
    names = [name.split("-") for name in dict.fromkeys(name for measured in rounds for name in measured)]
    return Section(
        name="live",
        rounds=rounds,
        labels=("", "subscribers"),
        rows={f"{contender}-{number}": (TITLES[contender], f"{int(number):,}") for contender, number in names},
        columns=COLUMNS,
        caption=CAPTION.format(
            rounds=extent.rounds, seconds=extent.live_seconds, per_second=PER_SECOND, clients=CHARGING_CLIENTS
        ),
        goals=(
            Goal(
                text=f"CPU per push against the stock subscription, {text}", figure="micros_per_push",
                name=server, other=stock, clients=count, bound=0.2, aim=0.1,
            ),
            Goal(
                text=f"charge → push, p99 ms, {text}", figure="p99_ms", name=server, clients=count, bound=150, aim=50
            ),
            Goal(
                text=f"throughput kept with {text}", figure="throughput_kept", name=server, clients=CHARGING_CLIENTS,
                bound=0.85, aim=0.95,
            ),
        ),
    )  # fmt: skip


async def measure(directory: Path, extent: Extent) -> list[dict[str, Figures]]:
    """Return the figures of all rounds.

    Raises: BenchmarkFailed: a subscriber was disconnected, or a charge was not pushed.
    """
    most = max((extent.subscribers, *extent.more_subscribers))
    environment.allow_open_files(most + SPARE_FILES)
    tokens = [development_keys.user_token(owner_id(number)) for number in range(most)]
    rounds: list[dict[str, Figures]] = []
    with environment.temporary_postgres(directory / "live") as postgres:
        progress(f"creating {most:,} accounts")
        url = await databases.create(postgres.url, "live")
        key = await databases.fill(url, many=most, hot=False)
        await databases.analyze(url)
        settings = environment.server_settings(url)
        with environment.running_server("charging", "app", "serve", directory=directory, **settings) as charging:
            await databases.query_tasks(charging.url, key, _tasks(most))
            for number, contenders in enumerate(_plan(extent)):
                measured: dict[str, Figures] = {}
                for contender, count in contenders:
                    progress(f"{number + 1}: {TITLES[contender]}, {count:,} subscribers")
                    command = COMMANDS[contender]
                    with environment.running_server(contender, *command, directory=directory, **settings) as server:
                        measured[f"{contender}-{count}"] = await _measure(
                            server, charging, key, tokens[:count], run=f"{contender}-{count}-{number:03d}",
                            seconds=extent.live_seconds, with_throughput=contender == "server",
                        )  # fmt: skip
                rounds.append(measured)
    return rounds


def _plan(extent: Extent) -> list[list[tuple[str, int]]]:
    """Contenders and numbers of subscribers, round by round. Every second round is reversed."""
    both = [("server", extent.subscribers), ("stock", extent.subscribers)]
    rounds = [both[::-1] if number % 2 else both for number in range(extent.rounds)]
    return [*rounds, *([("server", count)] for count in extent.more_subscribers)]


def _tasks(count: int) -> list[str]:
    return [task_id("many", number) for number in range(count)]


async def _measure(
    server: Server, charging: Server, key: str, tokens: list[str], *, run: str, seconds: float, with_throughput: bool
) -> Figures:
    """`charging`: the server that takes the charges at a fixed rate. `tokens`: one for each subscriber."""

    def rate_plan(name: str, accounts: int, seconds: float) -> RatePlan:
        return RatePlan(
            port=charging.port, key=key, load="many", tasks=accounts, run=f"{run}-{name}", per_second=PER_SECOND,
            seconds=seconds,
        )  # fmt: skip

    async def throughput(name: str) -> float:
        plan = LoadPlan(
            request="charge", load="many", port=server.port, key=key, run=f"{run}-{name}", connections=CHARGING_CLIENTS,
            seconds=seconds, server_pids=[server.pid], database_pids=[], accounts=len(tokens),
        )  # fmt: skip
        return (await asyncio.to_thread(wrk.send_load, plan)).check(plan.run).per_second

    subscribers = Subscribers(server)
    few = tokens[:WARM_UP_SUBSCRIBERS]
    await subscribers.connect(few)
    await subscribers.charge(rate_plan("warm", len(few), WARM_UP_SECONDS))
    await subscribers.disconnect()
    without = 0.0
    if with_throughput:
        await databases.query_tasks(server.url, key, _tasks(len(tokens)))
        without = await throughput("alone")
    await subscribers.connect(tokens)
    figures = await subscribers.charge(rate_plan("pushed", len(tokens), seconds))
    if with_throughput:
        with_subscribers = await throughput("subscribed")
        figures |= {
            "charges_without": without,
            "charges_with": with_subscribers,
            "throughput_kept": with_subscribers / without,
        }
    await subscribers.disconnect()
    return figures
