"""The GraphQL documents of the simulation. Each has one root field, whose name is that of the `Operation`."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Operation:
    name: str
    document: str


USER_ERROR: Final = "... on UserError { message }"
CHARGE_RESULT: Final = f"""
    __typename
    ... on ChargeSuccess {{
      cost replayed entry {{ seq credits }} balance {{ available }}
    }}
    ... on InsufficientCreditsError {{ required available shortfall }}
    {USER_ERROR}
"""

RATE_CARD: Final = Operation(
    "rateCard",
    """query rateCard { rateCard { version
      blocks { block pricedByModel rules { when credits unit per } } models { model credits } } }""",
)

START_TASK: Final = Operation(
    "startTask",
    f"""mutation startTask($input: StartTaskInput!) {{ startTask(input: $input) {{ __typename
      ... on StartTaskSuccess {{ task {{ taskId status }} replayed }} {USER_ERROR} }} }}""",
)
FINISH_TASK: Final = Operation(
    "finishTask",
    f"""mutation finishTask($input: FinishTaskInput!) {{ finishTask(input: $input) {{ __typename
      ... on FinishTaskSuccess {{ task {{ status cost {{ total }} }} }} {USER_ERROR} }} }}""",
)
CANCEL_TASK: Final = Operation(
    "cancelTask",
    f"""mutation cancelTask($input: CancelTaskInput!) {{ cancelTask(input: $input) {{ __typename
      ... on CancelTaskSuccess {{ task {{ status cost {{ total }} }} }} {USER_ERROR} }} }}""",
)
RESUME_TASK: Final = Operation(
    "resumeTask",
    f"""mutation resumeTask($input: ResumeTaskInput!) {{ resumeTask(input: $input) {{ __typename
      ... on ResumeTaskSuccess {{ task {{ status }} }} {USER_ERROR} }} }}""",
)
CHARGE: Final = Operation(
    "charge", f"mutation charge($input: ChargeInput!) {{ charge(input: $input) {{ {CHARGE_RESULT} }} }}"
)
CHARGE_BATCH: Final = Operation(
    "chargeBatch",
    f"mutation chargeBatch($input: [ChargeInput!]!) {{ chargeBatch(input: $input) {{ {CHARGE_RESULT} }} }}",
)
REVERSE_CHARGE: Final = Operation(
    "reverseCharge",
    f"""mutation reverseCharge($input: ReverseChargeInput!) {{ reverseCharge(input: $input) {{ __typename
      ... on ReverseChargeSuccess {{ reversed replayed entry {{ seq credits }} }} {USER_ERROR} }} }}""",
)
GRANT_CREDITS: Final = Operation(
    "grantCredits",
    f"""mutation grantCredits($input: GrantCreditsInput!) {{ grantCredits(input: $input) {{ __typename
      ... on GrantCreditsSuccess {{ replayed grant {{ id credits }} balance {{ asOf }} }} {USER_ERROR} }} }}""",
)
BEGIN_TOP_UP: Final = Operation(
    "beginTopUp",
    f"""mutation beginTopUp($input: BeginTopUpInput!) {{ beginTopUp(input: $input) {{ __typename
      ... on BeginTopUpSuccess {{ replayed topUp {{ id status credits paymentUrl }} }} {USER_ERROR} }} }}""",
)
CONFIRM_TOP_UP: Final = Operation(
    "confirmTopUp",
    f"""mutation confirmTopUp($input: ConfirmTopUpInput!) {{ confirmTopUp(input: $input) {{ __typename
      ... on ConfirmTopUpSuccess {{ topUp {{ id status credits }} balance {{ available }} }} {USER_ERROR} }} }}""",
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
