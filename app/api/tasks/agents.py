"""Agents, with their tasks, skipped starts and costs."""

from typing import Annotated

import strawberry

from app.api.context import Context, ResolverInfo
from app.api.input_checks import check_ids
from app.api.objects import batched, build_from
from app.api.owner_scope import readable_owners, resolve_owner
from app.api.scalars import Credits
from app.api.tasks.costs import BlockCost
from app.api.tasks.out_of_credits import SkippedStart, load_skipped_page
from app.api.tasks.types import Task, to_task
from app.engine import declare, global_ids
from app.engine.global_ids import INSTANT, KEY, LONG
from app.engine.pagination import After, Connection, First, paginate
from app.engine.permissions import Permission
from app.engine.schema import describe_enum
from app.errors import BadRequest, InvalidInput
from app.ledger import owner_scope, queries
from app.tasks import costs
from app.tasks import queries as task_queries
from app.tasks.costs import AgentTotal
from app.tasks.queries import TaskOrder
from app.tasks.rows import AccountScopedId
from app.tasks.rules import TaskState, TaskStatus

describe_enum(
    TaskOrder,
    description="The order of a list of tasks.",
    values={
        TaskOrder.NEWEST: "The most recently started first.",
        TaskOrder.OLDEST: "The earliest started first.",
        TaskOrder.HIGHEST_COST: "The most expensive first, by the cost at the time of the request.",
    },
)

Statuses = Annotated[
    list[TaskStatus] | None, strawberry.argument(description="Only tasks with these statuses. Null means all.")
]
Order = Annotated[TaskOrder, strawberry.argument(description="The order of the tasks.")]
Days = Annotated[int, strawberry.argument(description="The number of days up to and including today, 1 to 366.")]
TimeZone = Annotated[
    str, strawberry.argument(description="The time zone of the days, an IANA name such as Europe/Berlin.")
]
AgentId = Annotated[strawberry.ID, strawberry.argument(description="The platform's id of the agent.")]
Owner = Annotated[
    strawberry.ID | None, strawberry.argument(description="The owner of the tasks. Null means the caller.")
]


@declare.type(description="The cost of an agent on one day.", needs=Permission.INHERITED)
class DayCost:
    day: str = declare.value(description="The day, YYYY-MM-DD.")
    credits: Credits = declare.value(description="The charges of that day, minus their reversals at any later time.")
    task_count: int = declare.value(description="The number of tasks with block runs on that day.")


@declare.type(description="The cost of an agent: the sum over all its tasks.", needs=Permission.INHERITED)
class AgentCost:
    total: Credits = declare.value(description="Charges minus reversals, of all its tasks.")
    task_count: int = declare.value(description="The number of its tasks.")
    average_per_task: float = declare.value(description="`total` divided by `taskCount`; 0 if there are no tasks.")
    key: strawberry.Private[AccountScopedId]

    @declare.field(description="The cost by block, the most expensive first.")
    async def by_block(self, info: ResolverInfo) -> list[BlockCost]:
        return [build_from(BlockCost, cost) for cost in await info.context.data_loader(_by_block).load(self.key)]

    @declare.field(description="The cost by day, oldest first. It includes today, and days without cost.")
    async def by_day(self, days: Days = 30, time_zone: TimeZone = "UTC") -> list[DayCost]:
        try:
            found = await costs.agent_costs_by_day([self.key], days=days, time_zone=time_zone)
        except InvalidInput as error:
            raise BadRequest(error.message) from None
        return [build_from(DayCost, cost, task_count=cost.tasks) for cost in found[self.key]]


@declare.type(
    description="An agent of the platform, with the tasks that it has run for one owner.", needs=Permission.INHERITED
)
class Agent(global_ids.Node):
    agent_id: strawberry.ID = declare.value(description="The platform's id of the agent.")
    owner_id: strawberry.ID = declare.value(description="The owner of the tasks.")
    key: strawberry.Private[AccountScopedId]

    @declare.field(description="Its tasks.")
    async def tasks(
        self, first: First = 25, after: After = None, status: Statuses = None, order: Order = TaskOrder.NEWEST
    ) -> Connection[Task]:
        async def read(limit: int, position: task_queries.TaskPosition | None) -> list[TaskState]:
            found = await task_queries.tasks_of_agents(
                [self.key], limit=limit, order=order, statuses=status, after=position
            )
            return found[self.key]

        account_id, agent_id = self.key
        return await paginate(
            f"tasks.{agent_id}",
            account_id,
            (LONG if order is TaskOrder.HIGHEST_COST else INSTANT, KEY),
            first=first,
            after=after,
            filters={"order": order, "status": status},
            read=read,
            position_of=lambda task: task_queries.position_of(task, order),
            node_of=lambda task: to_task(task, self.owner_id),
        )

    @declare.field(
        description="Its tasks with the trigger SCHEDULED or WEBHOOK that did not start because of missing credits or "
        "debt, newest first."
    )
    async def skipped_starts(self, first: First = 25, after: After = None) -> Connection[SkippedStart]:
        return await load_skipped_page(self.key, first=first, after=after)

    @declare.field(description="The cost of all its tasks.")
    async def cost(self, info: ResolverInfo) -> AgentCost:
        found = await info.context.data_loader(_totals).load(self.key)
        return AgentCost(
            total=Credits(found.credits),
            task_count=found.tasks,
            average_per_task=found.average_per_task,
            key=self.key,
        )


@strawberry.type(description="Queries for agents.")
class AgentQueries:
    @declare.query(
        needs=Permission.AUTHENTICATED,
        description="An agent, with its tasks for one owner. Null if it has neither tasks nor skipped starts for this "
        "owner, or the caller may not read them.",
    )
    async def agent(self, info: ResolverInfo, agent_id: AgentId, owner_id: Owner = None) -> Agent | None:
        check_ids(agentId=agent_id, ownerId=owner_id)
        owner = resolve_owner(info.context, owner_id)
        return await _find(info.context, owner, agent_id) if owner is not None else None


def to_agent(account_id: int, owner_id: str, agent_id: str) -> Agent:
    return Agent(
        id=global_ids.encode_id("Agent", owner_id, agent_id),
        agent_id=strawberry.ID(agent_id),
        owner_id=strawberry.ID(owner_id),
        key=(account_id, agent_id),
    )


@global_ids.node_fetcher("Agent", KEY, KEY)
async def fetch_agent(context: Context, owner_id: str, agent_id: str) -> Agent | None:
    return await _find(context, owner_id, agent_id) if resolve_owner(context, owner_id) is not None else None


async def _find(context: Context, owner_id: str, agent_id: str) -> Agent | None:
    number = await owner_scope.find_account_id(owner_id, owner_ids=readable_owners(context.authenticated_caller))
    if number is None:
        return None
    await queries.ensure_due_changes_applied([number])
    has_tasks = bool((await task_queries.tasks_of_agents([(number, agent_id)], limit=1))[number, agent_id])
    # An agent also exists if all its scheduled tasks were skipped.
    if has_tasks or await task_queries.skipped_starts(number, agent_id, limit=1):
        return to_agent(number, owner_id, agent_id)
    return None


_totals = batched(costs.agent_totals, AgentTotal(0, 0))
_by_block = batched(costs.agent_costs_by_block)
