"""Agents: their tasks, and what they cost in all."""

from typing import Annotated

import strawberry

from app.api.context import Context, ResolverInfo
from app.api.input_checks import check_ids
from app.api.owner_scope import readable_owners, resolve_owner
from app.api.scalars import Credits
from app.api.tasks.out_of_credits import SkippedTask, load_skipped_page
from app.api.tasks.types import BlockCost, Task, to_task
from app.engine import declare, global_ids
from app.engine.pagination import (
    After,
    Connection,
    First,
    build_connection,
    check_first,
    decode_cursor,
    encode_cursor,
    parse_cursor_time,
)
from app.engine.permissions import Permission
from app.engine.schema import describe_enum
from app.errors import BadRequest, InvalidInput
from app.ledger import owner_scope, queries
from app.tasks import agents, costs, waiting
from app.tasks.agents import AgentTotal
from app.tasks.costs import AccountScopedId, TaskOrder
from app.tasks.rules import TaskState, TaskStatus

describe_enum(
    TaskOrder,
    name="TaskOrder",
    description="The order of an agent's tasks.",
    values={
        TaskOrder.NEWEST: "Last started first.",
        TaskOrder.OLDEST: "First started first.",
        TaskOrder.HIGHEST_COST: "Highest cost first, as it stands now.",
    },
)

Statuses = Annotated[list[TaskStatus] | None, strawberry.argument(description="Only these; null: all.")]
InOrder = Annotated[TaskOrder, strawberry.argument(description="The order.")]
Days = Annotated[int, strawberry.argument(description="How many days up to today, from 1 to 366.")]
TimeZone = Annotated[str, strawberry.argument(description="Whose days: an IANA name such as Europe/Berlin.")]
AgentId = Annotated[strawberry.ID, strawberry.argument(description="The platform's id of the agent.")]
Owner = Annotated[strawberry.ID | None, strawberry.argument(description="Whose tasks; null: one's own.")]


@declare.type(description="What was spent on one day.", needs=Permission.INHERITED)
class DayCost:
    day: str = declare.value(description="The day, YYYY-MM-DD.")
    credits: Credits = declare.value(description="Charged on that day, minus what was given back of it since.")
    tasks: int = declare.value(description="Tasks with block runs on that day.")


@declare.type(description="What an agent costs: the sum over its tasks.", needs=Permission.INHERITED)
class AgentCost:
    total: Credits = declare.value(description="Charged minus reversed, over all its tasks.")
    tasks: int = declare.value(description="How many tasks.")
    average_per_task: float = declare.value(description="total / tasks; 0 without tasks.")
    key: strawberry.Private[AccountScopedId]

    @declare.field(description="By block, dearest first.")
    async def by_block(self, info: ResolverInfo) -> list[BlockCost]:
        found = await info.context.data_loader(_by_block).load(self.key)
        return [BlockCost(block=one.block, credits=Credits(one.credits), count=one.count) for one in found]

    @declare.field(description="By day, oldest first, today included, days without cost too.")
    async def by_day(self, info: ResolverInfo, days: Days = 30, time_zone: TimeZone = "UTC") -> list[DayCost]:
        try:
            found = await agents.agent_costs_by_day([self.key], days=days, time_zone=time_zone)
        except InvalidInput as refusal:
            raise BadRequest(refusal.message) from None
        return [DayCost(day=one.day, credits=Credits(one.credits), tasks=one.tasks) for one in found[self.key]]


@declare.type(description="An agent of the platform, as far as it has run for an owner.", needs=Permission.INHERITED)
class Agent(global_ids.Node):
    agent_id: strawberry.ID = declare.value(description="The platform's id of the agent.")
    owner_id: strawberry.ID = declare.value(description="Whose tasks are meant.")
    account_number: strawberry.Private[int]

    @declare.field(description="Its tasks.")
    async def tasks(
        self,
        info: ResolverInfo,
        first: First = 25,
        after: After = None,
        status: Statuses = None,
        order: InOrder = TaskOrder.NEWEST,
    ) -> Connection[Task]:
        key = (self.account_number, str(self.agent_id))
        kind = f"tasks.{order.value}"
        place = decode_cursor(
            after, kind, self.account_number, shape=(str, int if order is TaskOrder.HIGHEST_COST else str, str)
        )
        if place is not None and place[0] != key[1]:
            raise BadRequest("after is a cursor of another agent's tasks.")
        found = await costs.tasks_of_agents(
            [key],
            limit=check_first(first) + 1,
            order=order,
            statuses=status,
            after=(place[1] if order is TaskOrder.HIGHEST_COST else parse_cursor_time(place[1]), place[2])
            if place
            else None,
        )

        def cursor_of(task: TaskState) -> str:
            value, task_id = costs.position_of(task, order)
            return encode_cursor(kind, key[0], key[1], value if isinstance(value, int) else value.isoformat(), task_id)

        return build_connection(
            found[key], first=first, after=after, cursor_of=cursor_of, node_of=lambda task: to_task(task, self.owner_id)
        )

    @declare.field(description="Scheduled runs of it that did not start for want of credits, newest first.")
    async def skipped_tasks(self, first: First = 25, after: After = None) -> Connection[SkippedTask]:
        return await load_skipped_page(self.account_number, str(self.agent_id), first=first, after=after)

    @declare.field(description="What it costs in all.")
    async def cost(self, info: ResolverInfo) -> AgentCost:
        key = (self.account_number, str(self.agent_id))
        found = await info.context.data_loader(_totals).load(key)
        return AgentCost(
            total=Credits(found.credits), tasks=found.tasks, average_per_task=found.average_per_task, key=key
        )


@strawberry.type(description="Reading agents.")
class AgentQueries:
    @declare.query(
        needs=Permission.AUTHENTICATED,
        description="An agent and its tasks for one owner; null where it has none for you.",
    )
    async def agent(self, info: ResolverInfo, agent_id: AgentId, owner_id: Owner = None) -> Agent | None:
        check_ids(agentId=agent_id, ownerId=owner_id)
        owner = resolve_owner(info.context, owner_id)
        return await _find(info.context, owner, agent_id) if owner is not None else None


@global_ids.node_fetcher("Agent", str, str)
async def fetch_agent(context: Context, owner_id: str, agent_id: str) -> Agent | None:
    return await _find(context, owner_id, agent_id) if resolve_owner(context, owner_id) is not None else None


def to_agent(number: int, owner_id: str, agent_id: str) -> Agent:
    """An agent as GraphQL shows it."""
    return Agent(
        id=global_ids.encode_id("Agent", owner_id, agent_id),
        agent_id=strawberry.ID(agent_id),
        owner_id=strawberry.ID(owner_id),
        account_number=number,
    )


async def _find(context: Context, owner_id: str, agent_id: str) -> Agent | None:
    number = await owner_scope.find_account_id(owner_id, owner_ids=readable_owners(context.authenticated_caller))
    if number is None:
        return None
    await queries.ensure_due_changes_applied([number])
    if (await costs.tasks_of_agents([(number, agent_id)], limit=1))[number, agent_id]:
        return to_agent(number, owner_id, agent_id)
    # One whose every run was skipped is there too.
    return to_agent(number, owner_id, agent_id) if await waiting.skipped_starts(number, agent_id, limit=1) else None


async def _totals(keys: list[AccountScopedId]) -> list[AgentTotal]:
    found = await agents.agent_totals(keys)
    return [found.get(key, AgentTotal(0, 0)) for key in keys]


async def _by_block(keys: list[AccountScopedId]) -> list[list[costs.BlockCost]]:
    found = await agents.agent_costs_by_block(keys)
    return [found[key] for key in keys]
