"""`python -m bench.plans`: what GraphQL itself costs, by a plan and by graphql-core's executor, without a database.

The product's own types, over rows that are made up once: the difference is the executors' alone. CPU µs per operation,
medians of interleaved rounds.
"""

import asyncio
import statistics
import time
from datetime import UTC, datetime
from typing import Any, Final

import click
import strawberry

from app.api.accounts.balance import Balance, to_balance
from app.api.context import ResolverInfo
from app.api.schema import build_schema
from app.api.tasks.charging import ChargeResult, OneInput, to_charge_request, to_charge_result
from app.api.tasks.types import Task, to_task
from app.auth.caller import Caller, CallerKind, Scope
from app.engine import declare
from app.engine.context import RequestContext
from app.engine.execution import GraphQLEngine, GraphQLRequest
from app.engine.pagination import Connection, First, build_connection
from app.engine.permissions import Permission
from app.ledger.rules.account_state import AccountBalance
from app.settings import Settings
from app.state import build_state
from app.tasks.charging import Charge
from app.tasks.rules import BlockRunState, TaskState, TaskStatus, TaskTrigger

NOW: Final = datetime.now(UTC)
SERVICE: Final = Caller(kind=CallerKind.SERVICE, actor="service:bench", scopes=frozenset({Scope.CHARGE}))
FIGURES: Final = AccountBalance(
    account_id=1, owner_id="alice", version=7, posted=1_000, held=10, frozen=0, owed=0, as_of=NOW
)
TASKS: Final = [
    TaskState(
        account_id=1, task_id=f"task-{number}", agent_id="agent", status=TaskStatus.RUNNING, stop_reason=None,
        trigger=TaskTrigger.MANUAL, parent_task_id=None, started_at=NOW, ended_at=None, steps=3, charged=30, reversed=0,
        shortfall=None, required=None, budget_hold=None, version=4,
    )
    for number in range(50)
]  # fmt: skip
CHARGED: Final = Charge(
    block_run=BlockRunState(
        account_id=1, block_run_id="run", task_id="task-1", position=3, block="ReplicateModelBlock", model=None,
        cost=10, reversed=0, uses_own_key=False, charged_at=NOW, price_version=1, rule=None, entry_seq=7,
    ),
    entry=None,
    task=TASKS[1],
    balance=FIGURES,
    replayed=False,
)  # fmt: skip


@strawberry.type(description="Reads.")
class Query:
    @declare.query(needs=Permission.AUTHENTICATED, description="A balance.")
    async def balance(self, info: ResolverInfo) -> Balance:
        return to_balance(FIGURES, info.context)

    @declare.query(needs=Permission.AUTHENTICATED, description="Tasks, in pages.")
    async def tasks(self, first: First = 25) -> Connection[Task]:
        return build_connection(
            TASKS,
            first=first,
            after=None,
            cursor_of=lambda state: state.task_id,
            node_of=lambda state: to_task(state, "alice"),
        )


@strawberry.type(description="Writes.")
class Mutation:
    @declare.mutation(needs=Permission.SERVICE, description="A charge that touches nothing.", input_as_dict=True)
    async def charge(self, info: ResolverInfo, input: OneInput) -> ChargeResult:
        plain: Any = input
        to_charge_request(plain, info)
        result: ChargeResult = to_charge_result(CHARGED, info.context)
        return result


CHARGE: Final = """mutation Charge($input: ChargeInput!) { charge(input: $input) { __typename
  ... on ChargeSuccess { cost replayed signal balance { available version } } ... on UserError { message } } }"""
BALANCE: Final = "query { balance { id available posted held frozen owed version status asOf } }"
PAGE: Final = """query Library($first: Int!) { tasks(first: $first) { edges { cursor node {
  taskId status stopReason trigger startedAt steps cost { total charged reversed version } } }
  pageInfo { hasNextPage endCursor } } }"""
OPERATIONS: Final = {
    "charge": GraphQLRequest(
        CHARGE,
        {"input": {"taskId": "task-1", "blockRunId": "run", "block": "ReplicateModelBlock", "settings": {"a": 1}}},
    ),
    "balance": GraphQLRequest(BALANCE),
    "page of 50 tasks": GraphQLRequest(PAGE, {"first": 50}),
}


async def cost(execution: GraphQLEngine, request: GraphQLRequest, house: Any, seconds: float) -> float:
    """CPU µs of one operation, from the request to what is to be encoded."""
    count = 0
    began = time.process_time()
    while (used := time.process_time() - began) < seconds:
        for _ in range(20):
            await execution.execute(request, RequestContext(SERVICE, house))
        count += 20
    return used / count * 1e6


async def measure(rounds: int, seconds: float) -> dict[str, tuple[float, float]]:
    """For each operation the medians: by the executor, by the plan."""
    schema = build_schema(query=Query, mutation=Mutation)._schema
    ways = [GraphQLEngine(schema, introspection=False, compile_operations=plans) for plans in (False, True)]
    house = build_state(Settings(ledger_key="00" * 32))
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in OPERATIONS}
    for execution in ways:
        for request in OPERATIONS.values():
            answer = await execution.execute(request, RequestContext(SERVICE, house))
            if "errors" in answer.payload:
                raise click.ClickException(str(answer.payload["errors"]))
    for _ in range(rounds):
        for name, request in OPERATIONS.items():
            for place, execution in enumerate(ways):
                found[name][place].append(await cost(execution, request, house, seconds))
    return {name: (statistics.median(ordinary), statistics.median(plan)) for name, (ordinary, plan) in found.items()}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.05, 60), default=0.3, show_default=True, help="Of each measurement.")
def command(rounds: int, seconds: float) -> None:
    """CPU µs of an operation, by graphql-core's executor and by a plan."""
    click.echo(f"{'':<18}{'executor µs':>14}{'plan µs':>10}{'ratio':>8}")
    for name, (ordinary, plan) in asyncio.run(measure(rounds, seconds)).items():
        click.echo(f"{name:<18}{ordinary:>14.1f}{plan:>10.1f}{ordinary / plan:>8.1f}")


if __name__ == "__main__":
    command()
