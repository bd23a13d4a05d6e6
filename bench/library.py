"""The library page that is read: its tasks, made by the real use cases, and whether two servers show it alike."""

from typing import Any, Final

import httpx

from app.ledger import grants
from app.ledger.grants import GrantRequest
from app.ledger.rules.account_state import GrantSource
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import lifecycle, task_accounts
from app.tasks.charging import Charge, charge_many
from app.tasks.lifecycle import StartTaskRequest
from app.tasks.rules import ChargeRequest, TaskStatus
from bench import databases, scenarios

ACTOR: Final = "service:bench"
ANSWER_SECONDS: Final = 60


async def fill(url: str) -> int:
    """One account whose agent has run a page of tasks, every other one of which is complete; the charges made."""
    async with databases.books(url):
        await grants.grant_credits(
            GrantRequest(
                owner_id=scenarios.LIBRARY_OWNER,
                credits=scenarios.GRANTED_CREDITS,
                source=GrantSource.PROMOTIONAL,
                reason="for the bench",
                key="bench",
                actor="operator:bench",
            )
        )
        rate_cards = RateCardCache()
        charged = 0
        for number in range(scenarios.LIBRARY_TASKS):
            charged += await _ran(f"library-task-{number:02d}", rate_cards)
            if number % 2:
                await lifecycle.finish_task(f"library-task-{number:02d}", TaskStatus.COMPLETED)
        return charged


async def _ran(task_id: str, rate_cards: RateCardCache) -> int:
    """A new task and its block runs; how many. Raises: RuntimeError: one was refused."""
    await lifecycle.start_task(
        StartTaskRequest(
            task_id=task_id, owner_id=scenarios.LIBRARY_OWNER, agent_id=scenarios.LIBRARY_AGENT, actor=ACTOR
        )
    )
    account_id = await task_accounts.find_account(task_id)
    if account_id is None:
        raise RuntimeError(f"the bench's own task {task_id} is not found")
    requests = [
        ChargeRequest(
            task_id=task_id,
            block_run_id=f"{task_id}-{number}",
            block=scenarios.BLOCK,
            settings=scenarios.SETTINGS,
            actor=ACTOR,
        )
        for number in range(scenarios.LIBRARY_RUNS)
    ]
    outcomes = await charge_many([(account_id, request) for request in requests], rate_cards)
    if refused := [outcome for outcome in outcomes if not isinstance(outcome, Charge)]:
        raise RuntimeError(f"a block run of the bench's own task {task_id} was refused: {refused[0]}")
    return len(outcomes)


async def difference(one: str, other: str, key: str) -> str | None:
    """What is wrong with the page of these two servers; None: both show the same whole page."""
    pages = [await _page(url, key) for url in (one, other)]
    if pages[0] != pages[1]:
        return f"{pages[0]} here and {pages[1]} there"
    tasks = len(pages[0]["data"]["agent"]["tasks"]["edges"]) if pages[0].get("data") else 0
    if "errors" in pages[0] or tasks != scenarios.LIBRARY_TASKS:
        return f"there are {tasks} tasks on it: {pages[0]}"
    return None


async def _page(url: str, key: str) -> Any:
    asked = {"query": scenarios.LIBRARY, "variables": scenarios.LIBRARY_ASKED}
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=ANSWER_SECONDS) as client:
        return (await client.post("/graphql", json=asked)).json()
