"""One round of pushes: a server started anew, its subscribers, and what they see of charges."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench import client, databases, scenarios, servers
from bench.audience import Audience, audience
from bench.cpu import fine_cpu_seconds, resident_kib
from bench.live_report import CHARGING_CLIENTS, Contender, Sample
from bench.requests import Plan
from bench.servers import Server
from bench.subscribers import Disturbed
from bench.tally import Tally

REHEARSING: Final = 5
"""Subscribers that come and go before anything is measured, so that no server is new to it."""
REHEARSAL_SECONDS: Final = 1.0
IDLE_PART: Final = 0.5
"""Idle time measured, as part of the time for charges."""
WARM_UP_SECONDS: Final = 0.5
SETTLE_SECONDS: Final = 1.0
"""Between the arrival of the last subscriber and the idle time that is measured."""
CALM_SECONDS: Final = 0.5
CALM_TURNS: Final = 60
CALM_CPU: Final = 0.1
"""The part of a core below which a server has nothing to do."""
UNLIMITED: Final = {"RATE_PER_USER": "0", "RATE_PER_ADDRESS": "0"}
"""All subscribers come from one address: the limits that hold for one are off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """Where the rounds take place. `charging`: the server that takes the charges that are counted as pushes."""

    place: Path
    url: str
    key: str
    tokens: Sequence[str]
    charging: Server
    per_second: float
    seconds: float


@dataclass(frozen=True, slots=True)
class _Kept:
    """All a second; None: this server takes no charges."""

    charges_with: float | None = None
    charges_without: float | None = None
    pushes_with: float | None = None


def settings_of(url: str) -> dict[str, str]:
    return {**servers.settings_of(url), **UNLIMITED}


def tasks(count: int) -> list[str]:
    """Of the first so many accounts."""
    return [scenarios.task_id("many", number) for number in range(count)]


async def measure(
    field: Field, contender: Contender, subscribers: int, run: str, *, alone_first: bool = False
) -> Sample:
    """`alone_first`: whether this server takes charges first while nobody listens, and then while they listen.

    Raises: AudienceFailed. ClientFailed. Disturbed: a charge was not answered as it should be, or no push told of it.
    """
    with _server(field, contender) as server:
        async with audience() as those:
            await _rehearse(field, those, server, run)
            resident = resident_kib(server.pid)
            tokens = list(field.tokens[:subscribers])
            accepted = await those.told_to("listen", port=server.port, tokens=tokens)
            resident = resident_kib(server.pid) - resident
            await asyncio.sleep(SETTLE_SECONDS)
            idle = await those.told_to("idle", server_pid=server.pid, seconds=max(field.seconds * IDLE_PART, 0.5))
            pushed = await _charge(
                field, those, server, accounts=subscribers, run=f"{run}-pushed", seconds=field.seconds
            )
            if pushed["unseen"]:
                raise Disturbed(f"{pushed['unseen']} charges of {run} were not seen by those who listen")
            both = _Kept()
            if contender == "live":
                both = await _kept(field, those, server, tokens=tokens, run=run, alone_first=alone_first)
    return Sample(
        contender=contender,
        subscribers=subscribers,
        accepted_per_second=subscribers / accepted["seconds"],
        kib_per_subscriber=resident / subscribers,
        idle_cpu=idle["server_cpu_seconds"] / idle["seconds"],
        charges_with=both.charges_with,
        charges_without=both.charges_without,
        pushes_with=both.pushes_with,
        **{name: value for name, value in pushed.items() if name in Sample.__dataclass_fields__},
    )


def _server(field: Field, contender: Contender) -> AbstractContextManager[Server]:
    program = ("app", "serve") if contender == "live" else ("bench.stock_strawberry",)
    return servers.running(contender, *program, place=field.place, **settings_of(field.url))


async def _rehearse(field: Field, those: Audience, server: Server, run: str) -> None:
    count = min(REHEARSING, len(field.tokens))
    await those.told_to("listen", port=server.port, tokens=list(field.tokens[:count]))
    await _charge(field, those, server, accounts=count, run=f"{run}-rehearsed", seconds=REHEARSAL_SECONDS)
    await those.told_to("hang_up")


async def _charge(
    field: Field, those: Audience, server: Server, *, accounts: int, run: str, seconds: float
) -> dict[str, Any]:
    """Charges that come through the other server, as the subscribers of this one see them."""
    return await those.told_to(
        "charge", server_pid=server.pid, port=field.charging.port, key=field.key, load="many", tasks=accounts,
        run=run, per_second=field.per_second, seconds=seconds,
    )  # fmt: skip


async def _kept(
    field: Field, those: Audience, server: Server, *, tokens: list[str], run: str, alone_first: bool
) -> _Kept:
    """Charges a second that this server takes while those who are charged listen to it, and while nobody does.

    This comes last: the memory that it takes would hide what subscribers take. Raises: AudienceFailed. Disturbed.
    ClientFailed.
    """
    accounts = len(tokens)
    await databases.introduce_tasks(server.url, field.key, tasks(accounts))
    await _throughput(field, server, accounts=accounts, run=f"{run}-warming", seconds=REHEARSAL_SECONDS)
    alone: Tally | None = None
    if alone_first:
        alone = await _alone(field, those, server, accounts=accounts, run=run)
        await those.told_to("listen", port=server.port, tokens=tokens)
    before = await those.told_to("pushes")
    listening = await _throughput(field, server, accounts=accounts, run=f"{run}-listening", seconds=field.seconds)
    pushes = (await those.told_to("pushes"))["pushes"] - before["pushes"]
    alone = alone or await _alone(field, those, server, accounts=accounts, run=run)
    return _Kept(_rate(listening), _rate(alone), pushes / (listening.seconds + WARM_UP_SECONDS))


async def _alone(field: Field, those: Audience, server: Server, *, accounts: int, run: str) -> Tally:
    """What it takes when they have left."""
    await those.told_to("hang_up")
    await _calm(server)
    return await _throughput(field, server, accounts=accounts, run=f"{run}-alone", seconds=field.seconds)


async def _calm(server: Server) -> None:
    """Wait until the server has done with those who left: thousands of goodbyes take seconds."""
    for _ in range(CALM_TURNS):
        used = fine_cpu_seconds([server.pid])
        await asyncio.sleep(CALM_SECONDS)
        if fine_cpu_seconds([server.pid]) - used < CALM_SECONDS * CALM_CPU:
            return


async def _throughput(field: Field, server: Server, *, accounts: int, run: str, seconds: float) -> Tally:
    """As many charges as this server takes. Raises: Disturbed. ClientFailed."""
    plan = Plan(
        kind="charge", load="many", port=server.port, key=field.key, run=run, connections=CHARGING_CLIENTS,
        warm_up_seconds=WARM_UP_SECONDS, seconds=seconds, server_pids=[server.pid], database_pids=[], tasks=accounts,
    )  # fmt: skip
    tally = await asyncio.to_thread(client.carry_out, plan)
    if tally.refused:
        raise Disturbed(f"{tally.refused:,} charges of {run} were not answered as they should be: {tally.refusal}")
    return tally


def _rate(tally: Tally) -> float:
    return tally.charges / tally.seconds
