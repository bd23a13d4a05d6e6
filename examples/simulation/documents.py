"""The GraphQL documents of the simulation. Each has one root field (`Operation.name`)."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Operation:
    name: str
    document: str


def _mutation(name: str, success: str, *, errors: str = "", is_list: bool = False) -> Operation:
    """Return a mutation with one input. `success` are the fields to read of its success type."""
    type_name = name[0].upper() + name[1:]
    input_type = f"[{type_name.removesuffix('Batch')}Input!]!" if is_list else f"{type_name}Input!"
    result = f"__typename ... on {type_name.removesuffix('Batch')}Success {{ {success} }} {errors}"
    selection = f"{name}(input: $input) {{ {result} ... on UserError {{ message }} }}"
    return Operation(name, f"mutation {name}($input: {input_type}) {{ {selection} }}")


_CHARGE: Final = "cost replayed entry { seq credits } balance { available }"
_INSUFFICIENT: Final = "... on InsufficientCreditsError { required available shortfall }"

START_TASK: Final = _mutation("startTask", "task { taskId status } replayed")
FINISH_TASK: Final = _mutation("finishTask", "task { status cost { total } }")
CANCEL_TASK: Final = _mutation("cancelTask", "task { status cost { total } }")
RESUME_TASK: Final = _mutation("resumeTask", "task { status }")
CHARGE: Final = _mutation("charge", _CHARGE, errors=_INSUFFICIENT)
CHARGE_BATCH: Final = _mutation("chargeBatch", _CHARGE, errors=_INSUFFICIENT, is_list=True)
REVERSE_CHARGE: Final = _mutation("reverseCharge", "reversed replayed entry { seq credits }")
GRANT_CREDITS: Final = _mutation("grantCredits", "replayed grant { id credits } balance { asOf }")
BEGIN_TOP_UP: Final = _mutation("beginTopUp", "replayed topUp { id status credits paymentUrl }")
CONFIRM_TOP_UP: Final = _mutation("confirmTopUp", "topUp { id status credits } balance { available }")

RATE_CARD: Final = Operation(
    "rateCard",
    """query rateCard { rateCard { version
      blocks { block pricedByModel rules { when credits unit per } } models { model credits } } }""",
)
ESTIMATE_TASK: Final = Operation(
    "estimateTask",
    """query estimateTask($blockRuns: [PlannedBlockRun!]!, $ownerId: ID) {
      estimateTask(blockRuns: $blockRuns, ownerId: $ownerId) {
        credits affordable firstUnaffordableLine shortfall } }""",
)
BALANCE: Final = Operation("account", "query account { account { balance { available version asOf } canRun { ok } } }")
LIBRARY: Final = Operation(
    "agent",
    """query library($agentId: ID!) { agent(agentId: $agentId) { cost { total taskCount averagePerTask }
      tasks(first: 50) { edges { node { taskId status blockRunCount cost { total charged reversed } } } } } }""",
)
AGENT_TASKS: Final = Operation(
    "agent",
    """query agentTasks($agentId: ID!, $ownerId: ID!, $after: String) { agent(agentId: $agentId, ownerId: $ownerId) {
      cost { total taskCount } tasks(first: 100, after: $after) {
        edges { node { taskId status blockRunCount cost { total charged reversed } } }
        pageInfo { hasNextPage endCursor } } } }""",
)
ENTRIES: Final = Operation(
    "account",
    """query entries($ownerId: ID!, $after: String) { account(ownerId: $ownerId) {
      balance { posted available version } entries(first: 100, after: $after) {
        edges { node { seq kind credits } } pageInfo { hasNextPage endCursor } } } }""",
)
GRANTS: Final = Operation(
    "account",
    """query grants($ownerId: ID!, $after: String) { account(ownerId: $ownerId) {
      grants(first: 100, after: $after) { edges { node { remaining } } pageInfo { hasNextPage endCursor } } } }""",
)

TASKS: Final = Operation(
    "tasks",
    """query tasks($taskIds: [ID!]!) { tasks(taskIds: $taskIds) {
      taskId status stopReason cost { total held } budget { remaining } } }""",
)
ACCOUNT: Final = Operation(
    "account",
    """query account($ownerId: ID!) { account(ownerId: $ownerId) { balance { available held } canRun { ok reason }
      notifications(first: 100, unreadOnly: true) { edges { node { kind agentId } } }
      resumableTasks(first: 100) { edges { node { task { taskId } shortfall required } } } } }""",
)
SKIPPED_STARTS: Final = Operation(
    "agent",
    """query skippedStarts($agentId: ID!, $ownerId: ID!) { agent(agentId: $agentId, ownerId: $ownerId) {
      skippedStarts(first: 100) { edges { node { reason } } } } }""",
)

SIGNALS_SUBSCRIPTION: Final = """subscription signals($ownerIds: [ID!]) {
  taskSignals(ownerIds: $ownerIds) { kind taskIds reason version } }"""
BALANCE_SUBSCRIPTION: Final = """subscription header($sinceVersion: Long) {
  balance(sinceVersion: $sinceVersion) { available posted version status } }"""
