"""The type `AutoTopUp`: automatic purchases of credits."""

from datetime import datetime

from app.api.objects import build_from
from app.api.scalars import Credits
from app.engine import declare
from app.engine.permissions import Permission
from app.engine.schema import describe_enum
from app.topups.auto_topup.configuration import AutoTopUpView
from app.topups.auto_topup.rules import MAX_COUNT_PER_DAY, MAX_COUNT_PER_MONTH, AutoTopUpState, SkipReason

describe_enum(
    SkipReason,
    name="AutoTopUpBlockedReason",
    description="Why auto top-up makes no purchase now.",
    values={
        SkipReason.DISABLED: "Auto top-up is switched off.",
        SkipReason.ABOVE_THRESHOLD: "The available credits are not below the threshold.",
        SkipReason.NO_CARD: "No card is saved.",
        SkipReason.OPEN_INTENT: "A purchase is in progress, or the result of the last one is not known yet.",
        SkipReason.ACTION_REQUIRED: "The owner must confirm a payment at the bank: see `actionUrl`.",
        SkipReason.IN_DEBT: "The account owes credits. A person must top up first.",
        SkipReason.DISPUTED: "A payment is disputed.",
        SkipReason.DECLINED_TOO_OFTEN: "Three payments were declined. Save another card or top up manually.",
        SkipReason.BACKING_OFF: "The last payment was declined. The next payment is tried later.",
        SkipReason.PROVIDER_UNAVAILABLE: "The payment provider could not be reached. The next payment is tried later.",
        SkipReason.COOLDOWN: "The last purchase was made less than a minute ago.",
        SkipReason.DAY_COUNT: "`maxCountPerDay` is reached.",
        SkipReason.MONTH_COUNT: "`maxCountPerMonth` is reached.",
        SkipReason.DAY_CAP: "The next purchase would exceed `maxPerDay`.",
        SkipReason.MONTH_CAP: "The next purchase would exceed `maxPerMonth`.",
    },
)


@declare.type(description="Automatic purchases of credits when few are left.", needs=Permission.INHERITED)
class AutoTopUp:
    enabled: bool = declare.value(description="Whether auto top-up is switched on.")
    threshold: Credits | None = declare.value(
        description="A purchase is made when fewer credits than these are available; null if auto top-up is off."
    )
    amount: Credits | None = declare.value(description="The credits of each purchase; null if `target` is used.")
    target: Credits | None = declare.value(
        description="A purchase brings the available credits up to this number; null if `amount` is used."
    )
    max_per_day: Credits | None = declare.value(
        description="The most credits to buy in a day (UTC). Null means no limit."
    )
    max_per_month: Credits | None = declare.value(
        description="The most credits to buy in a calendar month (UTC). Null means no limit."
    )
    max_count_per_day: int = declare.value(description="The most purchases in a day (UTC).")
    max_count_per_month: int = declare.value(description="The most purchases in a calendar month (UTC).")
    consent_version: str | None = declare.value(description="The version of the text that the owner agreed to.")
    consent_at: datetime | None = declare.value(description="When the owner agreed.")
    state: AutoTopUpState = declare.value(description="The state of auto top-up.")
    blocked_reason: SkipReason | None = declare.value(
        description="Why no purchase is made now; null if one would be made as soon as credits fall below the "
        "threshold."
    )
    next_eligible_at: datetime | None = declare.value(
        description="When `blockedReason` ends without any action; null if it does not."
    )
    action_url: str | None = declare.value(description="Where the owner confirms a payment; null if there is none.")
    spent_this_month: Credits = declare.value(
        description="The credits bought automatically in this calendar month (UTC), including purchases in progress."
    )


def to_auto_top_up(view: AutoTopUpView) -> AutoTopUp:
    config = view.config
    return build_from(
        AutoTopUp,
        view,
        enabled=config.enabled,
        threshold=config.threshold,
        amount=config.amount,
        target=config.target,
        max_per_day=config.max_per_day,
        max_per_month=config.max_per_month,
        max_count_per_day=config.max_count_per_day or MAX_COUNT_PER_DAY,
        max_count_per_month=config.max_count_per_month or MAX_COUNT_PER_MONTH,
        blocked_reason=view.reason,
    )
