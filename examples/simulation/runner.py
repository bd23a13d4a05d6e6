"""The simulation from start to end: open accounts, run the tasks, read the actual state, and compare."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from examples.simulation import documents, executor, funding, out_of_credits
from examples.simulation.actual_state import ActualAccount, ActualState, read_actual_state
from examples.simulation.client import Client, Tokens, UnexpectedResponse
from examples.simulation.context import Context, Owner
from examples.simulation.expected_state import ExpectedState
from examples.simulation.rate_card import RateCard
from examples.simulation.reconciliation import differences
from examples.simulation.subscriptions import BalanceHeader
from examples.simulation.workload import WATCHED_OWNER, generate_workload

HEADER_TIMEOUT_SECONDS: Final = 10.0
"""Longer than the 5 s within which the server repeats a lost change."""
EXPIRY_MARGIN_SECONDS: Final = 0.1
CONNECTIONS_PER_TASK: Final = 4


class ProgressListener(Protocol):
    def log(self, text: str) -> None:
        """Report an event."""

    def begin(self, tasks: int) -> None:
        """Report how many tasks will run."""

    def task_done(self) -> None:
        """Report that a task has ended or will not start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationResult:
    """The result of the simulation. `seconds`: how long the tasks ran, without the reads before and after them."""

    run_id: str
    owner_ids: list[str]
    expected: ExpectedState
    actual: ActualState
    header: BalanceHeader
    client: Client
    differences: list[str]
    notes: list[str]
    seconds: float


async def run_simulation(
    url: str,
    tokens: Callable[[], Awaitable[Tokens]],
    progress: ProgressListener,
    *,
    seed: int,
    tasks: int,
    concurrency: int,
) -> SimulationResult:
    """Run the simulation. `tokens` is called when the server has responded.

    Raises: Unavailable: the server does not respond; RequestError: it refuses the tokens; UnexpectedResponse.
    """
    try:
        return await _run(url, tokens, progress, seed=seed, tasks=tasks, concurrency=concurrency)
    except BaseExceptionGroup as errors:
        raise _first(errors) from None


async def _run(
    url: str,
    tokens: Callable[[], Awaitable[Tokens]],
    progress: ProgressListener,
    *,
    seed: int,
    tasks: int,
    concurrency: int,
) -> SimulationResult:
    run_id = f"sim-{datetime.now(UTC):%y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    async with Client(url, connections=concurrency * CONNECTIONS_PER_TASK) as client:
        await client.check_ready()
        issued = await tokens()
        card = await _rate_card(client, issued)
        workload = generate_workload(card, seed=seed, tasks=tasks)
        scenario_owner = out_of_credits.owner_profile(workload)
        profiles = [*workload.owners, *([scenario_owner] if scenario_owner else [])]
        context = Context(
            run_id=run_id,
            workload=workload,
            client=client,
            tokens=issued,
            owners=[
                Owner(owner_id, profile, issued.user(owner_id))
                for profile in profiles
                for owner_id in [f"{run_id}-{profile.name}"]
            ],
            log=progress.log,
            task_done=progress.task_done,
        )
        owner_ids = [owner.id for owner in context.owners]
        progress.begin(tasks)
        async with BalanceHeader(url, context.owners[WATCHED_OWNER].token).followed() as header:
            await header.wait_for_version(0, timeout_seconds=HEADER_TIMEOUT_SECONDS)
            started_at = time.perf_counter()
            await _run_tasks(context, concurrency)
            seconds = time.perf_counter() - started_at
            if scenario_owner:
                await out_of_credits.run(context, context.owners[-1])
            await _wait_for_last_expiry(context)
            # The API returns an agent of an owner only if it has run for this owner.
            agents = sorted({task.owner_agent for task in context.expected.tasks.values()})
            actual = await read_actual_state(client, issued.operator, owner_ids, agents)
            header_differences = await _check_header(header, actual.accounts[owner_ids[WATCHED_OWNER]])
        price_mismatches, notes = context.price_mismatches, []
        if (version := (await _rate_card(client, issued)).version) != card.version:
            unchecked = len(price_mismatches)
            price_mismatches = []
            notes = [f"Rate card {version} came into force meanwhile: {unchecked:,} amounts could not be checked."]
        return SimulationResult(
            run_id=run_id,
            owner_ids=owner_ids,
            expected=context.expected,
            actual=actual,
            header=header,
            client=client,
            differences=[*price_mismatches, *differences(context.expected, actual), *header_differences],
            notes=notes,
            seconds=seconds,
        )


async def _rate_card(client: Client, tokens: Tokens) -> RateCard:
    response = await client.execute(tokens.operator, documents.RATE_CARD)
    if response is None:
        raise UnexpectedResponse(
            "The server has no rate card in force: publish one (`python -m app prices publish FILE`)."
        )
    return RateCard.from_response(response)


async def _run_tasks(context: Context, concurrency: int) -> None:
    """Open every account, then run the tasks in their order, `concurrency` at a time."""
    async with asyncio.TaskGroup() as group:
        for owner in context.owners:
            group.create_task(funding.open_account(context, owner))
    waiting = iter(context.workload.tasks)

    async def worker() -> None:
        for task in waiting:  # the workers share one iterator
            await executor.run_task(context, task)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(worker())


async def _wait_for_last_expiry(context: Context) -> None:
    """Wait until the last promotional grant has expired, because nothing may change while the state is read."""
    if context.last_expiry_at is not None:
        now = await funding.server_time(context, context.owners[WATCHED_OWNER])
        await asyncio.sleep(max(0.0, (context.last_expiry_at - now).total_seconds()) + EXPIRY_MARGIN_SECONDS)


async def _check_header(header: BalanceHeader, account: ActualAccount) -> list[str]:
    """Return the problems of the subscription. One is that its last item differs from the account's balance."""
    if not await header.wait_for_version(account.version, timeout_seconds=HEADER_TIMEOUT_SECONDS):
        return [*header.problems, f"header: ends at version {header.version}, the account is at {account.version}"]
    last = header.items[-1]
    received = (last["version"], last["available"], last["posted"])
    actual = (account.version, account.available, account.posted)
    return header.problems + ([f"header: ends at {received}, the account is at {actual}"] if received != actual else [])


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of a group. The other tasks failed for the same reason, or were cancelled."""
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
