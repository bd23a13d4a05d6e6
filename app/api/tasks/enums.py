"""Enums of tasks and of the ledger, with their GraphQL descriptions."""

from app.engine.schema import describe_enum
from app.ledger.rules.account_state import EntryKind, HoldStatus
from app.pricing.outcomes import BlockRunOutcome
from app.tasks.rules import StopReason, TaskTrigger

__all__ = ["BlockRunOutcome", "EntryKind", "HoldStatus", "StopReason", "TaskTrigger"]

describe_enum(
    EntryKind,
    description="The kind of an entry.",
    values={
        EntryKind.TOP_UP: "Credits were bought.",
        EntryKind.GRANT: "Credits were granted.",
        EntryKind.CHARGE: "A block run was charged.",
        EntryKind.REVERSAL: "A charge was reversed, in part or whole.",
        EntryKind.REFUND: "Bought credits were taken back because their payment is refunded. The entry is positive if "
        "the refund failed and the credits were returned.",
        EntryKind.DISPUTE_LOST: "Bought credits were taken back because the bank decided a dispute in the buyer's "
        "favour. The entry is positive if the decision was reversed and the credits were returned.",
        EntryKind.EXPIRY: "Unspent credits of a grant have expired.",
        EntryKind.ADJUSTMENT: "An operator corrected the balance or revoked a grant, or the bonus of a refunded top-up "
        "was taken back.",
        EntryKind.DEBT: "The part of a refund or lost dispute that was already spent became debt.",
        EntryKind.DEBT_PAID: "Credits that became free paid debt.",
    },
)
describe_enum(
    HoldStatus,
    description="The status of a hold or budget.",
    values={
        HoldStatus.OPEN: "The hold reserves credits.",
        HoldStatus.CAPTURED: "The cost was charged and the rest released. For a budget: its task has ended.",
        HoldStatus.VOIDED: "The hold was cancelled and all its credits were released.",
        HoldStatus.EXPIRED: "The timeout has passed and the remaining credits were released.",
    },
)
describe_enum(
    BlockRunOutcome,
    description="The outcome of a block run.",
    values={
        BlockRunOutcome.SUCCEEDED: "The block run succeeded.",
        BlockRunOutcome.FAILED: "The block run failed.",
        BlockRunOutcome.CANCELLED: "The block run was cancelled.",
        BlockRunOutcome.PROVIDER_FAILED: "The provider that the block calls failed.",
    },
)
describe_enum(
    StopReason,
    description="Why a task is stopped.",
    values={
        StopReason.OUT_OF_CREDITS: "The account had fewer credits available than a block run costs.",
        StopReason.BUDGET_REACHED: "The budget had fewer credits left than a block run costs. resumeTask can "
        "add to it.",
        StopReason.BUDGET_EXPIRED: "Nothing was charged within the budget's timeout, or the ancestor task that owned "
        "the budget has ended. The rest was returned to the account. resumeTask can open a new budget.",
    },
)
describe_enum(
    TaskTrigger,
    description="What started a task.",
    values={
        TaskTrigger.MANUAL: "A person.",
        TaskTrigger.SCHEDULED: "A schedule.",
        TaskTrigger.WEBHOOK: "An event of another system.",
    },
)
