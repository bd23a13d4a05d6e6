"""Queries of the frontend: the library page, pages during writes, the statement, and access to other accounts."""

import pytest

from app.api.objects import batched
from app.db import pools
from app.ledger.queries import get_held_by_task
from app.pricing.rate_card_cache import RateCardCache
from app.tasks.charging import charge_many
from tests.api.conftest import ALICE, BOB, OPERATOR, READER, SERVICE, Api
from tests.factories import block_run_request, grant_credits, seconds_from_now, start_task, wait_until

pytestmark = pytest.mark.anyio

LIBRARY = """
query Library($first: Int!) {
  agent(agentId: "agent") {
    tasks(first: $first) {
      edges { node { taskId status blockRunCount parent { taskId }
        cost { total childrenTotal byBlock { block credits count } byModel { model credits } }
        blockRuns(first: 5) { edges { node { block cost entry { seq draws { grant { source } } } } } } } }
      pageInfo { hasNextPage endCursor }
    }
    cost { total taskCount averagePerTask byBlock { block credits } }
  }
}
"""


async def charged_tasks(rate_cards: RateCardCache, count: int) -> list[str]:
    await grant_credits("alice", 10_000)
    tasks = [await start_task("alice") for _ in range(count)]
    for task in tasks:
        items = [
            (task.account_id, block_run_request(task)),
            (task.account_id, block_run_request(task, block="NoteBlock")),
        ]
        await charge_many(items, rate_cards)
    return [task.task_id for task in tasks]


async def test_the_library_page_takes_a_constant_number_of_statements(
    api: Api, rate_cards: RateCardCache, statements_sent: list[str]
) -> None:
    names = await charged_tasks(rate_cards, 55)
    statements_sent.clear()
    small = await api.data(ALICE, LIBRARY, first=5)
    for_five = len(statements_sent)
    statements_sent.clear()
    page = (await api.data(ALICE, LIBRARY, first=50))["agent"]
    assert len(statements_sent) == for_five <= 11
    assert [edge["node"]["taskId"] for edge in page["tasks"]["edges"]] == names[::-1][:50]
    assert {edge["node"]["cost"]["total"] for edge in page["tasks"]["edges"]} == {10}
    assert page["tasks"]["edges"][0]["node"]["blockRuns"]["edges"][0]["node"]["entry"]["draws"] == [
        {"grant": {"source": "PROMOTIONAL"}}
    ]
    assert page["cost"] == small["agent"]["cost"]
    assert (page["cost"]["total"], page["cost"]["taskCount"], page["cost"]["averagePerTask"]) == (550, 55, 10.0)


async def test_pages_have_no_gap_or_repetition_during_writes(api: Api, rate_cards: RateCardCache) -> None:
    names = await charged_tasks(rate_cards, 7)
    found: list[str] = []
    after = None
    query = """query($after: String) { agent(agentId: "agent") { tasks(first: 3, after: $after) {
        edges { node { taskId } } pageInfo { hasNextPage endCursor } } } }"""
    while True:
        page = (await api.data(ALICE, query, after=after))["agent"]["tasks"]
        found += [edge["node"]["taskId"] for edge in page["edges"]]
        await start_task("alice")
        if not page["pageInfo"]["hasNextPage"]:
            break
        after = page["pageInfo"]["endCursor"]
    assert found == names[::-1]


async def test_a_page_of_tasks_with_the_longest_ids_has_a_cursor(api: Api) -> None:
    await grant_credits("alice", 5)
    agent_id = "\U0001f600" * 255
    tasks = [
        (await start_task("alice", agent_id=agent_id, task_id="\U0001f601" * 254 + character)).task_id
        for character in "ab"
    ]
    query = """query($agent: ID!, $after: String) { agent(agentId: $agent) {
        tasks(first: 1, after: $after, order: OLDEST) { edges { node { taskId } } pageInfo { endCursor } } } }"""

    first = (await api.data(ALICE, query, agent=agent_id))["agent"]["tasks"]
    second = (await api.data(ALICE, query, agent=agent_id, after=first["pageInfo"]["endCursor"]))["agent"]["tasks"]

    assert [page["edges"][0]["node"]["taskId"] for page in (first, second)] == tasks


async def test_a_statement_groups_tasks_and_later_pages_match_the_first(api: Api, rate_cards: RateCardCache) -> None:
    [first, second] = await charged_tasks(rate_cards, 2)
    query = """query($after: String) { account { statement(first: 1, after: $after) {
        edges { node { kinds credits entryCount balanceAfter task { taskId } entry { kind credits } } }
        pageInfo { hasNextPage endCursor } } } }"""
    page = (await api.data(ALICE, query))["account"]["statement"]
    assert page["edges"][0]["node"] == {
        "kinds": ["CHARGE"],
        "credits": -10,
        "entryCount": 1,
        "balanceAfter": 9_980,
        "task": {"taskId": second},
        "entry": None,
    }
    await grant_credits("alice", 5)
    rest = (await api.data(ALICE, query, after=page["pageInfo"]["endCursor"]))["account"]["statement"]
    assert rest["edges"][0]["node"]["task"] == {"taskId": first}
    last = (await api.data(ALICE, query, after=rest["pageInfo"]["endCursor"]))["account"]["statement"]
    assert last["edges"][0]["node"]["entry"] == {"kind": "GRANT", "credits": 10_000}
    assert last["pageInfo"]["hasNextPage"] is False


async def test_an_unknown_owner_has_an_empty_account_and_nothing_is_written(api: Api) -> None:
    found = await api.data(
        OPERATOR,
        """{ account(ownerId: "nobody") { ownerId balance { available version status } canRun { ok reason }
        entries { edges { cursor } } grants { edges { cursor } } topUps { edges { cursor } } lowBalanceThreshold } }""",
    )
    assert found["account"] == {
        "ownerId": "nobody",
        "balance": {"available": 0, "version": 0, "status": "EMPTY"},
        "canRun": {"ok": False, "reason": "OUT_OF_CREDITS"},
        "entries": {"edges": []},
        "grants": {"edges": []},
        "topUps": {"edges": []},
        "lowBalanceThreshold": 50,
    }
    assert (await pools.fetch("SELECT count(*) AS accounts FROM account"))[0]["accounts"] == 0


async def test_members_read_their_organisation_and_services_read_every_account(api: Api) -> None:
    await grant_credits("guild", 30)
    query = '{ account(ownerId: "guild") { balance { available status } } }'
    for caller in (ALICE, SERVICE, READER, OPERATOR):
        assert await api.data(caller, query) == {"account": {"balance": {"available": 30, "status": "LOW"}}}
    assert await api.data(BOB, query) == {"account": None}
    code, message = await api.error(READER, "{ account { id } }")
    assert (code, message) == ("BAD_USER_INPUT", "ownerId is required: a service key has no account of its own.")


async def test_an_estimate_reports_the_first_unaffordable_line(api: Api) -> None:
    await grant_credits("alice", 25)
    query = """query($plan: [PlannedBlockRun!]!) { estimateTask(blockRuns: $plan) {
        credits affordable firstUnaffordableLine shortfall lines { block count creditsEach credits } } }"""
    plan = [
        {"block": "NoteBlock"},
        {"block": "ReplicateModelBlock", "count": 2},
        {"block": "FactCheckerBlock", "count": 9},
    ]
    assert (await api.data(ALICE, query, plan=plan))["estimateTask"] == {
        "credits": 29,
        "affordable": False,
        "firstUnaffordableLine": 2,
        "shortfall": 4,
        "lines": [
            {"block": "NoteBlock", "count": 1, "creditsEach": 0, "credits": 0},
            {"block": "ReplicateModelBlock", "count": 2, "creditsEach": 10, "credits": 20},
            {"block": "FactCheckerBlock", "count": 9, "creditsEach": 1, "credits": 9},
        ],
    }
    code, message = await api.error(ALICE, query, plan=[{"block": "UnknownBlock"}])
    assert (code, message) == (
        "PRICE_NOT_FOUND",
        'blockRuns.0: Rate card 1 has no price for block "UnknownBlock". The block is not in the rate card.',
    )


async def test_an_account_whose_due_changes_cannot_be_written_fails_alone_on_a_page_of_several(api: Api) -> None:
    tasks = []
    for owner in ("alice", "bob", "carol"):
        await grant_credits(owner, 10, expires_at=await seconds_from_now(1))
        await grant_credits(owner, 5)
        tasks.append(await start_task(owner))
    await pools.fetch("UPDATE account SET seq = 0 WHERE owner_id = 'bob'")  # so its next entry exists already
    await wait_until(await seconds_from_now(1))

    for _ in range(2):  # the second time, only the failing account is still due
        response = await api.execute(
            READER,
            """query($ids: [ID!]!) { tasks(taskIds: $ids) { ownerId cost { held childrenTotal } }
                alice: account(ownerId: "alice") { balance { posted } }
                bob: account(ownerId: "bob") { balance { posted } }
                carol: account(ownerId: "carol") { balance { posted } } }""",
            ids=[task.task_id for task in tasks],
        )

        assert sorted(tuple(error["path"]) for error in response["errors"]) == [("bob",), ("tasks", 1)]
        data = response["data"]
        assert [task and task["ownerId"] for task in data["tasks"]] == ["alice", None, "carol"]
        assert (data["alice"], data["bob"], data["carol"]) == (
            {"balance": {"posted": 5}}, None, {"balance": {"posted": 5}},
        )  # fmt: skip


async def test_nested_reads_of_several_accounts_fail_for_one_account_alone(api: Api) -> None:
    tasks = []
    for owner in ("alice", "bob"):
        await grant_credits(owner, 10)
        tasks.append(await start_task(owner, budget=4))
    ids = [task.key for task in tasks]
    await pools.fetch("UPDATE account SET seq = 0, next_change_at = now() WHERE owner_id = 'bob'")
    await pools.fetch("UPDATE credit_grant SET expires_at = now() WHERE account_id = $1", tasks[1].account_id)

    read = batched(get_held_by_task)
    held, failure = await read(ids)

    assert held == 4
    assert isinstance(failure, Exception)
