"""Accounts with one object of each kind, so that requests with a boundary value reach the code behind the checks."""

import re
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx

from tests.graphql_client import data_of, form_token, request_of
from tests.hostile.boundary_values import LISTS, NODES
from tests.hostile.server_under_test import Target

_CURSOR = "{ pageInfo { endCursor } }"
_NODES = "{ pageInfo { endCursor } edges { node { __typename ... on Node { id } } } }"
_LISTS_WITHOUT_NODES = {"statement", "resumableTasks", "skippedStarts"}
_LISTS_ELSEWHERE = {"tasks", "skippedStarts", "children", "blockRuns", "auditLog"}
"""Lists that are no fields of the account."""


@dataclass(slots=True)
class PopulatedAccount:
    """The account of a new owner. `find` returns its ids, cursors and keys by name."""

    target: Target
    client: httpx.Client
    owner: str
    other_owner: str
    values: dict[str, str] = field(default_factory=dict)
    _numbers: "count[int]" = field(default_factory=count)

    def token(self, caller: str) -> str | None:
        if caller == "anonymous":
            return None
        if caller in {"user", "stranger"}:
            return self.target.user(self.owner if caller == "user" else "stranger")
        return self.target.tokens[caller]

    def find(self, name: str) -> str:
        if name == "new":
            return f"{self.owner}-new-{next(self._numbers)}"
        return self.values.get(name, f"{self.owner}-{name}")

    def send(self, caller: str, document: str) -> Any:
        """The data of an operation without errors. `@name` stands for the value of that name."""
        query = re.sub(r"@([\w-]+)", lambda found: f'"{self.find(found[1])}"', document)
        return data_of(self.client.post("/graphql", **request_of(self.token(caller), query)))

    def mutate(self, caller: str, **mutations: str) -> Any:
        """Carry out mutations with these inputs in order. A name may have a number at its end."""
        fields = []
        for alias, text in mutations.items():
            name = alias.rstrip("0123456789")
            fields.append(f"{alias}: {name}(input: {{{text}}}) {{ __typename {_RESULTS.get(name, '')} }}")
        return self.send(caller, f"mutation {{ {' '.join(fields)} }}")


_RESULTS = {
    "grantCredits": "... on GrantCreditsSuccess { grant { id } }",
    "beginTopUp": "... on BeginTopUpSuccess { topUp { id paymentUrl } }",
}
"""What is read of the results of mutations."""


def populate(target: Target, client: httpx.Client, owner: str, other_owner: str) -> PopulatedAccount:
    """Create an account with grants, tasks in every status, charges, holds and top-ups."""
    account = PopulatedAccount(target, client, owner, other_owner)
    account.values |= {"owner": owner, "other-owner": other_owner, "other": f"{other_owner}-running"}
    common = "ownerId: @owner, agentId: @agent"
    skipped = account.mutate("service", startTask=f"taskId: @skipped, trigger: SCHEDULED, {common}")
    assert skipped["startTask"]["__typename"] == "InsufficientCreditsError", skipped
    grant = 'ownerId: @owner, reason: "r", idempotencyKey: @new'
    granted = account.mutate(
        "operator",
        grantCredits1='ownerId: @owner, credits: 100000, reason: "r", idempotencyKey: @used-key',
        grantCredits2=f'credits: 5000, expiresAt: "2099-01-01T00:00:00Z", priority: -1, {grant}',
        grantCredits3=f'credits: 7, startsAt: "2098-01-01T00:00:00Z", source: PURCHASED, {grant}',
        setLowBalanceThreshold="ownerId: @owner, credits: 50, idempotencyKey: @new",
    )
    account.values["second-grant"] = granted["grantCredits2"]["grant"]["id"]
    run = 'taskId: @running, block: "ReplicateModelBlock"'
    account.mutate(
        "service",
        startTask1=f"taskId: @running, {common}",
        startTask2=f"taskId: @nested, parentTaskId: @running, {common}",
        startTask3=f"taskId: @budget, budget: 1000, closingReserve: 50, {common}",
        startTask4=f"taskId: @stopped, budget: 1, {common}",
        startTask5=f"taskId: @ended, {common}",
        startTask6=f"taskId: @cancelled, {common}",
        charge1=f"blockRunId: @charged, {run}",
        charge2='taskId: @running, blockRunId: @by-model, block: "AITextGeneratorBlock", settings: {model: "o1"}',
        charge3='taskId: @stopped, blockRunId: @refused, block: "ReplicateModelBlock"',
        charge4='taskId: @budget, blockRunId: @charged, block: "OutcomeBlock"',
        placeHold1='taskId: @running, blockRunId: @held, block: "ItemBlock", atMost: {items: 20}',
        placeHold2='taskId: @running, blockRunId: @captured, block: "SecondBlock", atMost: {seconds: 20}',
        captureHold="taskId: @running, blockRunId: @captured, measurements: {seconds: 1.5}",
        placeHold3='taskId: @budget, blockRunId: @held-too, block: "DollarBlock", atMost: {usd: "0.5"}',
        finishBlockRun="taskId: @running, blockRunId: @by-model, outcome: FAILED",
        finishTask="taskId: @ended, status: COMPLETED",
        cancelTask="taskId: @cancelled",
    )
    account.mutate(
        "operator",
        reverseCharge='taskId: @running, blockRunId: @charged, credits: 1, reason: "r", idempotencyKey: @new',
    )
    begin = "credits: 1000, saveCard: true, idempotencyKey: @new"
    begun = account.mutate("user", beginTopUp1=begin, beginTopUp2=begin, beginTopUp3=begin)
    pay, dispute, _ = (begun[name]["topUp"] for name in begun)
    account.values |= {"paid-top-up": pay["id"], "disputed-top-up": dispute["id"]}
    for top_up, decisions in ((pay, ("pay",)), (dispute, ("pay", "dispute"))):
        for decision in decisions:
            _decide(client, top_up["paymentUrl"], decision)
    account.mutate("operator", refundTopUp='topUpId: @paid-top-up, credits: 10, reason: "r", idempotencyKey: @new')
    _read_ids_and_cursors(account)
    return account


def _decide(client: httpx.Client, page: str, decision: str) -> None:
    form = {"token": form_token(client.get(page).text), "decision": decision}
    assert client.post(page, data=form).status_code == 303


def _read_ids_and_cursors(account: PopulatedAccount) -> None:
    pages = {name: _CURSOR if name in _LISTS_WITHOUT_NODES else _NODES for name in LISTS}
    of_account = " ".join(f"{name} {page}" for name, page in pages.items() if name not in _LISTS_ELSEWHERE)
    found = account.send(
        "operator",
        f"""{{ account(ownerId: @owner) {{ id balance {{ id }} {of_account} }}
        agent(agentId: @agent, ownerId: @owner) {{ id tasks {_NODES} skippedStarts {_CURSOR} }}
        task(taskId: @running) {{ id cost {{ id }} children {_NODES} blockRuns {_NODES} }}
        auditLog(ownerId: @owner) {_NODES} }}""",
    )
    account.values |= {
        "Account": found["account"]["id"],
        "Balance": found["account"]["balance"]["id"],
        "Agent": found["agent"]["id"],
        "Task": found["task"]["id"],
        "TaskCost": found["task"]["cost"]["id"],
    }
    for name in LISTS:
        [page] = [part[name] for part in (found["account"], found["agent"], found["task"], found) if name in part]
        assert page["pageInfo"]["endCursor"] is not None, name
        account.values[name] = page["pageInfo"]["endCursor"]
        for edge in page.get("edges", ()):
            account.values.setdefault(edge["node"]["__typename"], edge["node"]["id"])
    assert set(NODES) <= account.values.keys(), set(NODES) - account.values.keys()
