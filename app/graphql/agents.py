"""Agents: their tasks, and what they cost in all."""

from typing import Annotated

import strawberry

from app.errors import BadRequest, InvalidInput
from app.graphql import access, nodes
from app.graphql.access import Needs
from app.graphql.context import Context, Information
from app.graphql.enums import shown
from app.graphql.inputs import checked
from app.graphql.pagination import After, Connection, First, checked_first, cursor, instant, page, position
from app.graphql.scalars import Credits
from app.graphql.sight import owner_asked, owners_seen
from app.graphql.tasks import BlockCost, Task, task_of
from app.graphql.waiting import SkippedTick, skipped_page
from app.ledger import sight, statements
from app.tasks import agents, costs, waiting
from app.tasks.agents import Total
from app.tasks.costs import Key, Order
from app.tasks.rules import Status, TaskState

shown(
    Order,
    name="TaskOrder",
    description="The order of an agent's tasks.",
    values={
        Order.NEWEST: "Last started first.",
        Order.OLDEST: "First started first.",
        Order.DEAREST: "Highest cost first, as it stands now.",
    },
)

Statuses = Annotated[list[Status] | None, strawberry.argument(description="Only these; null: all.")]
InOrder = Annotated[Order, strawberry.argument(description="The order.")]
Days = Annotated[int, strawberry.argument(description="How many days up to today, from 1 to 366.")]
TimeZone = Annotated[str, strawberry.argument(description="Whose days: an IANA name such as Europe/Berlin.")]
AgentId = Annotated[strawberry.ID, strawberry.argument(description="The platform's id of the agent.")]
Owner = Annotated[strawberry.ID | None, strawberry.argument(description="Whose tasks; null: one's own.")]


@access.type(description="What was spent on one day.", needs=Needs.REACHED)
class DayCost:
    day: str = access.value(description="The day, YYYY-MM-DD.")
    credits: Credits = access.value(description="Charged on that day, minus what was given back of it since.")
    tasks: int = access.value(description="Tasks with block runs on that day.")


@access.type(description="What an agent costs: the sum over its tasks.", needs=Needs.REACHED)
class AgentCost:
    total: Credits = access.value(description="Charged minus reversed, over all its tasks.")
    tasks: int = access.value(description="How many tasks.")
    average_per_task: float = access.value(description="total / tasks; 0 without tasks.")
    key: strawberry.Private[Key]

    @access.field(description="By block, dearest first.")
    async def by_block(self, info: Information) -> list[BlockCost]:
        found = await info.context.loader(_by_block).load(self.key)
        return [BlockCost(block=one.block, credits=Credits(one.credits), count=one.count) for one in found]

    @access.field(description="By day, oldest first, today included, days without cost too.")
    async def by_day(self, info: Information, days: Days = 30, time_zone: TimeZone = "UTC") -> list[DayCost]:
        try:
            found = await agents.by_day([self.key], days=days, time_zone=time_zone)
        except InvalidInput as refusal:
            raise BadRequest(refusal.message) from None
        return [DayCost(day=one.day, credits=Credits(one.credits), tasks=one.tasks) for one in found[self.key]]


@access.type(description="An agent of the platform, as far as it has run for an owner.", needs=Needs.REACHED)
class Agent(nodes.Node):
    agent_id: strawberry.ID = access.value(description="The platform's id of the agent.")
    owner_id: strawberry.ID = access.value(description="Whose tasks are meant.")
    number: strawberry.Private[int]

    @access.field(description="Its tasks.")
    async def tasks(
        self,
        info: Information,
        first: First = 25,
        after: After = None,
        status: Statuses = None,
        order: InOrder = Order.NEWEST,
    ) -> Connection[Task]:
        key = (self.number, str(self.agent_id))
        kind = f"tasks.{order.value}"
        place = position(after, kind, self.number, shape=(str, int if order is Order.DEAREST else str, str))
        if place is not None and place[0] != key[1]:
            raise BadRequest("after is a cursor of another agent's tasks.")
        found = await costs.tasks_of_agents(
            [key],
            limit=checked_first(first) + 1,
            order=order,
            statuses=status,
            after=(place[1] if order is Order.DEAREST else instant(place[1]), place[2]) if place else None,
        )

        def cursor_of(task: TaskState) -> str:
            value, task_id = costs.place_of(task, order)
            return cursor(kind, key[0], key[1], value if isinstance(value, int) else value.isoformat(), task_id)

        return page(
            found[key], first=first, after=after, cursor_of=cursor_of, node_of=lambda task: task_of(task, self.owner_id)
        )

    @access.field(description="Scheduled runs of it that did not start for want of credits, newest first.")
    async def skipped_ticks(self, first: First = 25, after: After = None) -> Connection[SkippedTick]:
        return await skipped_page(self.number, str(self.agent_id), first=first, after=after)

    @access.field(description="What it costs in all.")
    async def cost(self, info: Information) -> AgentCost:
        key = (self.number, str(self.agent_id))
        found = await info.context.loader(_totals).load(key)
        return AgentCost(
            total=Credits(found.credits), tasks=found.tasks, average_per_task=found.average_per_task, key=key
        )


@strawberry.type(description="Reading agents.")
class AgentQueries:
    @access.query(
        needs=Needs.USER_OR_ABOVE, description="An agent and its tasks for one owner; null where it has none for you."
    )
    async def agent(self, info: Information, agent_id: AgentId, owner_id: Owner = None) -> Agent | None:
        checked(agentId=agent_id, ownerId=owner_id)
        owner = owner_asked(info.context, owner_id)
        return await _find(info.context, owner, agent_id) if owner is not None else None


@nodes.fetches("Agent", str, str)
async def fetch_agent(context: Context, owner_id: str, agent_id: str) -> Agent | None:
    return await _find(context, owner_id, agent_id) if owner_asked(context, owner_id) is not None else None


def agent_of(number: int, owner_id: str, agent_id: str) -> Agent:
    """An agent as GraphQL shows it."""
    return Agent(
        id=nodes.encode_id("Agent", owner_id, agent_id),
        agent_id=strawberry.ID(agent_id),
        owner_id=strawberry.ID(owner_id),
        number=number,
    )


async def _find(context: Context, owner_id: str, agent_id: str) -> Agent | None:
    number = await sight.account(owner_id, owner_ids=owners_seen(context.caller))
    if number is None:
        return None
    await statements.settled([number])
    if (await costs.tasks_of_agents([(number, agent_id)], limit=1))[number, agent_id]:
        return agent_of(number, owner_id, agent_id)
    # One whose every run was skipped is there too.
    return agent_of(number, owner_id, agent_id) if await waiting.skipped(number, agent_id, limit=1) else None


async def _totals(keys: list[Key]) -> list[Total]:
    found = await agents.totals(keys)
    return [found.get(key, Total(0, 0)) for key in keys]


async def _by_block(keys: list[Key]) -> list[list[costs.BlockCost]]:
    found = await agents.by_block(keys)
    return [found[key] for key in keys]
