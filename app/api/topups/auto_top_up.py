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
        SkipReason.DECLINED_TOO_OFTEN: "Three payments in a row were declined or not confirmed by the owner. Save "
        "another card or top up manually.",
        SkipReason.BACKING_OFF: "The last payment was declined or not confirmed by the owner. The next payment is "
        "tried later.",
        SkipReason.PROVIDER_UNAVAILABLE: "The payment provider could not be reached. The next payment is tried later.",
        SkipReason.REFUSED: "The payment provider refused to begin the last payment. No card was declined. The next "
        "payment is tried later.",
        SkipReason.COOLDOWN: "The last purchase was begun less than a minute ago.",
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
        description="A purchase is made when fewer credits than this number are available; null if auto top-up was "
        "never switched on."
    )
    amount: Credits | None = declare.value(
        description="The credits of each purchase; null if `target` is used or auto top-up was never switched on."
    )
    target: Credits | None = declare.value(
        description="A purchase brings the available credits to at least this number, unless that needs more than the "
        "largest top-up; null if `amount` is used or auto top-up was never switched on."
    )
    max_per_day: Credits | None = declare.value(
        description="The most credits to buy in a day (UTC). Null means no limit."
    )
    max_per_month: Credits | None = declare.value(
        description="The most credits to buy in a calendar month (UTC). Null means no limit."
    )
    max_count_per_day: int = declare.value(description="The most purchases in a day (UTC).")
    max_count_per_month: int = declare.value(description="The most purchases in a calendar month (UTC).")
    consent_version: str | None = declare.value(
        description="The version of the text that the owner agreed to; null if auto top-up was never switched on."
    )
    consent_at: datetime | None = declare.value(
        description="When the owner agreed; null if auto top-up was never switched on."
    )
    state: AutoTopUpState = declare.value(description="The state of auto top-up.")
    blocked_reason: SkipReason | None = declare.value(
        description="Why no purchase can be made now; null if nothing prevents one. The caps are checked only while "
        "the available credits are below the threshold."
    )
    next_eligible_at: datetime | None = declare.value(
        description="When `blockedReason` ends without any action; null if time alone does not end it."
    )
    action_url: str | None = declare.value(description="Where the owner confirms a payment; null if there is none.")
    spent_this_month: Credits = declare.value(
        description="The credits of all automatic purchases begun in this calendar month (UTC), except those that "
        "failed. Purchases in progress and purchases that the owner did not confirm in time are included."
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
