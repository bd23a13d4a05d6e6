"""The operations of executors, schedulers, users and operators, and the fields that the stories read."""

from typing import Final

TASK: Final = """{ taskId status stopReason blockRunCount cost { total charged reversed held version }
    budget { taskId credits spent remaining closingReserve } }"""
BALANCE: Final = "{ available posted held version }"
AUTO_TOP_UP: Final = "{ enabled state blockedReason nextEligibleAt consentVersion }"
HOLD: Final = "{ blockRunId credits captured remaining priced status }"

INSUFFICIENT: Final = "... on InsufficientCreditsError { required available shortfall }"
BUDGET_REACHED: Final = "... on BudgetReachedError { taskId required remaining shortfall }"
STOPPED: Final = "... on TaskStoppedError { taskId stopReason }"
CLOSED: Final = "... on HoldClosedError { blockRunId status }"
CHARGED: Final = f"""__typename
    ... on ChargeSuccess {{ cost replayed signal entry {{ seq mac }} balance {BALANCE} task {TASK} }}
    {INSUFFICIENT} {BUDGET_REACHED} {STOPPED}"""

ANSWERS: Final = {
    "startTask": f"... on StartTaskSuccess {{ replayed task {TASK} }} {INSUFFICIENT} {BUDGET_REACHED}",
    "finishTask": f"... on FinishTaskSuccess {{ replayed task {TASK} }}",
    "cancelTask": f"... on CancelTaskSuccess {{ replayed task {TASK} }}",
    "resumeTask": f"""... on ResumeTaskSuccess {{ replayed task {TASK} }} {INSUFFICIENT} {BUDGET_REACHED}
        ... on TaskNotStoppedError {{ status }} ... on TaskEndedError {{ status }}""",
    "placeHold": f"... on PlaceHoldSuccess {{ replayed hold {HOLD} balance {BALANCE} }} {INSUFFICIENT} {STOPPED}",
    "captureHold": f"""... on CaptureHoldSuccess {{ cost replayed hold {HOLD} entry {{ seq mac }} balance {BALANCE} }}
        {CLOSED} ... on HoldExceededError {{ required held shortfall }}""",
    "voidHold": f"... on VoidHoldSuccess {{ replayed hold {HOLD} balance {BALANCE} }} {CLOSED}",
    "grantCredits": f"... on GrantCreditsSuccess {{ replayed grant {{ id expiresAt }} balance {BALANCE} }}",
    "reverseCharge": f"""... on ReverseChargeSuccess {{ reversed replayed entry {{ seq mac }} balance {BALANCE} }}
        ... on ReversalExceedsChargeError {{ requested reversible }}""",
    "reverseTask": f"... on ReverseTaskSuccess {{ reversed entryCount replayed task {TASK} balance {BALANCE} }}",
    "setAutoTopUp": f"... on SetAutoTopUpSuccess {{ autoTopUp {AUTO_TOP_UP} }}",
    "beginTopUp": "... on BeginTopUpSuccess { topUp { id status paymentUrl } }",
    "confirmTopUp": "... on ConfirmTopUpSuccess { topUp { status credits } balance { available } }",
    "refundTopUp": """... on RefundTopUpSuccess { refund { credits amountMinor status } balance { available } }""",
}
"""The selection on the result of each operation."""

CALLERS: Final = {
    **dict.fromkeys(("grantCredits", "reverseCharge", "reverseTask", "refundTopUp"), "operator"),
    **dict.fromkeys(("setAutoTopUp", "beginTopUp", "confirmTopUp"), "user"),
}
"""Who calls an operation; the platform's backend calls the others."""

SIGNALS: Final = (
    "subscription($owners: [ID!]) { taskSignals(ownerIds: $owners) { kind ownerId taskIds reason version } }"
)


def document(name: str) -> str:
    """The mutation of this name with its input as a variable."""
    input_type = name[0].upper() + name[1:] + "Input"
    return f"mutation($input: {input_type}!) {{ {name}(input: $input) {{ __typename {ANSWERS[name]} }} }}"
