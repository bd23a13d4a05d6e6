"""The cost of a task, in total, by block and by model: the type `TaskCost`."""

from typing import Final

import strawberry

from app.api.context import ResolverInfo
from app.api.objects import batched, build_from
from app.api.scalars import Credits
from app.engine import declare, global_ids
from app.engine.permissions import Permission
from app.engine.scalars import Long
from app.engine.schema import describe_enum
from app.ledger import queries
from app.tasks import costs
from app.tasks.costs import CostState
from app.tasks.rows import AccountScopedId
from app.tasks.rules import TaskState, TaskStatus

describe_enum(
    TaskStatus,
    description="The status of a task.",
    values={
        TaskStatus.RUNNING: "The task accepts block runs.",
        TaskStatus.COMPLETED: "The task has completed its work.",
        TaskStatus.FAILED: "The task could not complete its work.",
        TaskStatus.CANCELLED: "The task was cancelled. It cannot be resumed.",
        TaskStatus.STOPPED: "A block run could not be paid, or the budget has expired. Until the task is resumed, it "
        "accepts only block runs that cost 0, and closing ones that its budget can pay.",
    },
)


@declare.type(description="The cost of the runs of one block.", needs=Permission.INHERITED)
class BlockCost:
    block: str = declare.value(description="The block.")
    credits: Credits = declare.value(description="Charges minus reversals.")
    count: int = declare.value(description="The number of block runs, including those that cost 0.")


@declare.type(description="The cost of the block runs with one language model.", needs=Permission.INHERITED)
class ModelCost:
    model: str = declare.value(description="The language model.")
    credits: Credits = declare.value(description="Charges minus reversals.")
    count: int = declare.value(description="The number of block runs.")


@declare.type(
    description="The cost of a task. It is exact at any time, while the task runs and afterwards.",
    needs=Permission.INHERITED,
)
class TaskCost(global_ids.Node):
    task_id: strawberry.ID = declare.value(description="The platform's id of the task.")
    status: TaskStatus = declare.value(description="The status of the task.")
    version: Long = declare.value(description="Rises with every change of the task or of a task nested in it.")
    total: Credits = declare.value(description="Charges minus reversals of the task itself, without its nested tasks.")
    charged: Credits = declare.value(description="The sum of its charges.")
    reversed: Credits = declare.value(description="The sum of its reversals.")
    key: strawberry.Private[AccountScopedId]
    state: strawberry.Private[CostState | None] = None
    """The cost at `version`, for subscriptions. Other operations read each part when it is requested."""

    @declare.field(description="Credits held for the task now: the rest of its own budget and its open holds.")
    async def held(self, info: ResolverInfo) -> Credits:
        if self.state is not None and self.state.held is not None:
            return Credits(self.state.held)
        return Credits(await info.context.data_loader(_held).load(self.key))

    @declare.field(description="The cost of all nested tasks, at any depth. It is not part of `total`.")
    async def children_total(self, info: ResolverInfo) -> Credits:
        if self.state is not None and self.state.children_total is not None:
            return Credits(self.state.children_total)
        return Credits(await info.context.data_loader(_children_total).load(self.key))

    @declare.field(description="The cost by block, the most expensive first.")
    async def by_block(self, info: ResolverInfo) -> list[BlockCost]:
        found = (
            self.state.by_block if self.state is not None else await info.context.data_loader(_by_block).load(self.key)
        )
        return [build_from(BlockCost, cost) for cost in found]

    @declare.field(
        description="The cost by language model, the most expensive first. It includes only block runs priced by model."
    )
    async def by_model(self, info: ResolverInfo) -> list[ModelCost]:
        found = (
            self.state.by_model if self.state is not None else await info.context.data_loader(_by_model).load(self.key)
        )
        return [build_from(ModelCost, cost) for cost in found]


COST_PARTS: Final = {
    "held": "held", "childrenTotal": "children_total", "byBlock": "by_block", "byModel": "by_model",
}  # fmt: skip
"""The fields of TaskCost that are read separately, and the fields of CostState from which they come."""


def to_task_cost(task: TaskState, state: CostState | None = None) -> TaskCost:
    """Build the cost of a task. `state` contains all requested parts, read at the same instant as `task`."""
    key = (task.account_id, task.task_id)
    return build_from(TaskCost, task, id=global_ids.encode_id("TaskCost", *key), key=key, state=state)


_held = batched(queries.get_held_by_task)
_children_total = batched(costs.descendant_costs)
_by_block = batched(costs.costs_by_block)
_by_model = batched(costs.costs_by_model)
