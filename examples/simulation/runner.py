"""A day from beginning to end: accounts opened, the header followed, tasks played, everything read and compared."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from examples.simulation import actual_state, documents, executor, funding, out_of_credits, workload
from examples.simulation.actual_state import ActualAccount, ActualState
from examples.simulation.balance_header import BalanceHeader
from examples.simulation.client import Client, Tokens, UnexpectedResponse
from examples.simulation.context import Context, Owner
from examples.simulation.expected_state import ExpectedState, OwnerAgent
from examples.simulation.profiles import WATCHED_OWNER
from examples.simulation.rate_card import RateCard
from examples.simulation.reconciliation import differences

HEADER_SECONDS: Final = 10.0
"""How long the header may take to show the last version: a notice that was lost is made good within 5 s."""
EXPIRY_MARGIN_SECONDS: Final = 0.1
CONNECTIONS_PER_TASK: Final = 4


class ProgressListener(Protocol):
    """Who watches the day go by."""

    def say(self, text: str) -> None: ...

    def begin(self, tasks: int) -> None: ...

    def moved_on(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationResult:
    """A day that is over."""

    run_id: str
    owner_ids: list[str]
    tally: ExpectedState
    seen: ActualState
    header: BalanceHeader
    client: Client
    differences: list[str]
    notes: list[str]
    seconds: float
    """Of the tasks alone, without what was read before and after."""


async def run_simulation(
    url: str,
    tokens: Callable[[], Awaitable[Tokens]],
    audience: ProgressListener,
    *,
    seed: int,
    tasks: int,
    concurrency: int,
) -> SimulationResult:
    """Play a day. `tokens` is called once the server has answered.

    Raises: Unavailable: there is no server, or no more; RequestError: it refuses; Unexpected: it cannot go on.
    """
    try:
        return await _play(url, tokens, audience, seed=seed, tasks=tasks, concurrency=concurrency)
    except BaseExceptionGroup as faults:
        raise _first(faults) from None


async def _play(
    url: str,
    tokens: Callable[[], Awaitable[Tokens]],
    audience: ProgressListener,
    *,
    seed: int,
    tasks: int,
    concurrency: int,
) -> SimulationResult:
    run_id = f"sim-{datetime.now(UTC):%y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    async with Client(url, connections=concurrency * CONNECTIONS_PER_TASK) as client:
        await client.check_ready()
        held = await tokens()
        card = await _card(client, held)
        day = workload.generate_workload(card, seed=seed, tasks=tasks)
        dry = out_of_credits.owner_profile(day)
        owners = [
            Owner(owner_id, habit, held.user(owner_id))
            for habit in (*day.owners, *([dry] if dry else []))
            for owner_id in [f"{run_id}-{habit.name}"]
        ]
        stage = Context(
            run_id=run_id,
            day=day,
            client=client,
            tokens=held,
            owners=owners,
            log=audience.say,
            task_done=audience.moved_on,
        )
        audience.begin(tasks)
        async with _followed(BalanceHeader(url, owners[WATCHED_OWNER].token)) as header:
            began = time.perf_counter()
            await _play_all(stage, concurrency)
            seconds = time.perf_counter() - began
            if dry:
                await out_of_credits.run(stage, owners[-1])
            await _until_quiet(stage)
            found = await actual_state.read_actual_state(
                client, held.operator, [owner.id for owner in owners], _pairs(stage)
            )
            wrong = await _header_wrong(header, found.accounts[owners[WATCHED_OWNER].id])
        prices_off, notes = _priced(stage, card, await _card(client, held))
        return SimulationResult(
            run_id=run_id,
            owner_ids=[owner.id for owner in owners],
            tally=stage.expected,
            seen=found,
            header=header,
            client=client,
            differences=[*prices_off, *differences(stage.expected, found), *wrong],
            notes=notes,
            seconds=seconds,
        )


async def _card(client: Client, tokens: Tokens) -> RateCard:
    answer = await client.execute(tokens.operator, documents.RATE_CARD)
    if answer is None:
        raise UnexpectedResponse(
            "The server has no rate card in force: publish one (`python -m app prices publish FILE`)."
        )
    return RateCard.from_response(answer)


@contextlib.asynccontextmanager
async def _followed(header: BalanceHeader) -> AsyncIterator[BalanceHeader]:
    following = asyncio.create_task(header.receive())
    try:
        await header.wait_for_version(0, within_seconds=HEADER_SECONDS)  # the snapshot, before anything happens
        yield header
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def _play_all(stage: Context, concurrency: int) -> None:
    """Everybody's account, then the tasks in their order, so many at once."""
    async with asyncio.TaskGroup() as group:
        for owner in stage.owners:
            group.create_task(funding.open_account(stage, owner))
    waiting = iter(stage.day.tasks)

    async def worker() -> None:
        for task in waiting:  # one iterator, shared: each takes the next one
            await executor.play(stage, task)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(worker())


async def _until_quiet(stage: Context) -> None:
    """Wait for the last promotional grant to expire, so that nothing changes while everything is read."""
    if stage.last_expiry_at is None:
        return
    now = await funding.server_time(stage, stage.owners[WATCHED_OWNER])
    await asyncio.sleep(max(0.0, (stage.last_expiry_at - now).total_seconds()) + EXPIRY_MARGIN_SECONDS)


def _pairs(stage: Context) -> list[OwnerAgent]:
    """Every agent that may have run for an owner; those that never did are not there, and are not asked for."""
    return sorted({task.pair for task in stage.expected.tasks.values()})


async def _header_wrong(header: BalanceHeader, account: ActualAccount) -> list[str]:
    """What was wrong with the header all day, and with its last item."""
    if not await header.wait_for_version(account.version, within_seconds=HEADER_SECONDS):
        return [*header.problems, f"header: ends at version {header.version}, the account is at {account.version}"]
    last = header.items[-1]
    shown = (last["version"], last["available"], last["posted"])
    true = (account.version, account.available, account.posted)
    return header.problems + ([f"header: ends at {shown}, the account is at {true}"] if shown != true else [])


def _priced(stage: Context, before: RateCard, after: RateCard) -> tuple[list[str], list[str]]:
    """Differences and notes about prices."""
    if before.version == after.version:
        return stage.price_mismatches, []
    unchecked = len(stage.price_mismatches)
    return [], [f"Rate card {after.version} came into force meanwhile: {unchecked:,} amounts could not be checked."]


def _first(faults: BaseExceptionGroup[BaseException]) -> BaseException:
    """What went wrong first: the other tasks of a group fail for the same reason, or were cancelled."""
    fault = faults.exceptions[0]
    return _first(fault) if isinstance(fault, BaseExceptionGroup) else fault
