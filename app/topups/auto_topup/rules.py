"""Rules of auto top-up: whether to buy now, how many credits, and the reason if nothing is bought.

Everything is computed from the account's rows, read under its lock. No counters are stored that could differ from the
purchases. An attempt counts towards the caps as soon as it is begun. It no longer counts when it is FAILED, because
then no money moved.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

from app.credits import MAX_CREDITS
from app.errors import Problem
from app.topups.rules import TopUpStatus, TopUpTerms, is_refusal
from app.wording import counted

COOLDOWN: Final = timedelta(seconds=60)
"""The minimum time between two attempts."""
BACK_OFF: Final = (timedelta(hours=1), timedelta(hours=4), timedelta(hours=24))
"""The wait after the first, second and third failed attempt in a row."""
MAX_DECLINES: Final = 3
MAX_COUNT_PER_DAY: Final = 10
MAX_COUNT_PER_MONTH: Final = 100
"""The highest caps on the number of purchases that owners may set. They are also the defaults."""
MAX_CONSENT_VERSION_LENGTH: Final = 64
NOT_CHARGED: Final = "not_charged"
"""The decline reason of an attempt that did not reach the provider."""
CARD_DELETED: Final = "card_deleted"
"""The decline reason of an attempt whose card was deleted at the provider."""


class SkipReason(StrEnum):
    """The reason why nothing is bought now."""

    DISABLED = "DISABLED"
    ABOVE_THRESHOLD = "ABOVE_THRESHOLD"
    NO_CARD = "NO_CARD"
    OPEN_INTENT = "OPEN_INTENT"
    ACTION_REQUIRED = "ACTION_REQUIRED"
    IN_DEBT = "IN_DEBT"
    DISPUTED = "DISPUTED"
    DECLINED_TOO_OFTEN = "DECLINED_TOO_OFTEN"
    BACKING_OFF = "BACKING_OFF"
    PROVIDER_UNAVAILABLE = "PROVIDER_UNAVAILABLE"
    REFUSED = "REFUSED"
    COOLDOWN = "COOLDOWN"
    DAY_COUNT = "DAY_COUNT"
    MONTH_COUNT = "MONTH_COUNT"
    DAY_CAP = "DAY_CAP"
    MONTH_CAP = "MONTH_CAP"


class AutoTopUpState(StrEnum):
    """The state of auto top-up that users see."""

    OFF = "OFF"
    READY = "READY"
    PENDING = "PENDING"
    COOLING_DOWN = "COOLING_DOWN"
    BACKING_OFF = "BACKING_OFF"
    BLOCKED = "BLOCKED"
    ACTION_REQUIRED = "ACTION_REQUIRED"


_STATES: Final = {
    SkipReason.DISABLED: AutoTopUpState.OFF,
    SkipReason.ABOVE_THRESHOLD: AutoTopUpState.READY,
    SkipReason.OPEN_INTENT: AutoTopUpState.PENDING,
    SkipReason.ACTION_REQUIRED: AutoTopUpState.ACTION_REQUIRED,
    SkipReason.COOLDOWN: AutoTopUpState.COOLING_DOWN,
    SkipReason.BACKING_OFF: AutoTopUpState.BACKING_OFF,
    SkipReason.PROVIDER_UNAVAILABLE: AutoTopUpState.BACKING_OFF,
    SkipReason.REFUSED: AutoTopUpState.BACKING_OFF,
}

_BLOCK_TEXTS: Final = {
    SkipReason.NO_CARD: "no card is saved. Save one with a top-up, or disable auto top-up.",
    SkipReason.ACTION_REQUIRED: "your bank asks you to confirm the payment.",
    SkipReason.IN_DEBT: "the account is in debt. Buy credits manually first.",
    SkipReason.DISPUTED: "a payment is disputed.",
    SkipReason.DECLINED_TOO_OFTEN: "three payments in a row were declined or not confirmed. Save another card, or "
    "buy credits manually.",
    SkipReason.REFUSED: "the payment provider refuses to begin the payment. It is tried again later.",
    SkipReason.DAY_COUNT: "the number of purchases per day is reached.",
    SkipReason.MONTH_COUNT: "the number of purchases per month is reached.",
    SkipReason.DAY_CAP: "the purchase would exceed the credits per day.",
    SkipReason.MONTH_CAP: "the purchase would exceed the credits per month.",
}
"""The reasons about which the owner is notified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoTopUpConfig:
    """The owner's configuration, in credits and counts. Either `amount` or `target` is set.

    `max_per_day` and `max_per_month` are caps in credits; None means no cap. `max_count_...` are caps on the number of
    purchases; None means the default.
    """

    enabled: bool
    threshold: int | None = None
    amount: int | None = None
    target: int | None = None
    max_per_day: int | None = None
    max_per_month: int | None = None
    max_count_per_day: int | None = None
    max_count_per_month: int | None = None


OFF: Final = AutoTopUpConfig(enabled=False)


class Attempt(NamedTuple):
    """An automatic top-up. `action_url` is the page on which the owner has to confirm it."""

    begun_at: datetime
    credits: int
    status: TopUpStatus
    decline_reason: str | None = None
    action_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptHistory:
    """Attempts of an account, newest first: those of this month and the newest of all.

    `declines_reset_at` is the time when the card was saved or a top-up was last paid manually, whichever is later.
    Earlier declines do not count.
    """

    attempts: Sequence[Attempt] = ()
    has_card: bool = True
    declines_reset_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceLevel:
    """The balance of the account, in credits."""

    available: int
    owed: int = 0
    frozen: int = 0


class Buy(NamedTuple):
    """Buy this many credits now."""

    credits: int


class Skip(NamedTuple):
    """Buy nothing. `next_eligible_at` is when the reason ends, or None if time alone does not end it."""

    reason: SkipReason
    next_eligible_at: datetime | None = None


def time_of_attempt(history: AttemptHistory, now: datetime) -> datetime:
    """Return `now`, or a later time if the clock has stepped back.

    The time is later than `declines_reset_at` and not before the newest attempt. Otherwise a decline of the new attempt
    would not count, and the card would be charged again and again.
    """
    known = [now, *(attempt.begun_at for attempt in history.attempts[:1])]
    if history.declines_reset_at is not None:
        known.append(history.declines_reset_at + timedelta(microseconds=1))
    return max(known)


def decide(
    config: AutoTopUpConfig, history: AttemptHistory, balance: BalanceLevel, terms: TopUpTerms, now: datetime
) -> Buy | Skip:
    """Decide whether to buy credits now. A purchase that would exceed a cap is skipped, not reduced."""
    blocked = _find_block(config, history, balance, now)
    if blocked is not None:
        return blocked
    if config.threshold is None or balance.available >= config.threshold:
        return Skip(SkipReason.ABOVE_THRESHOLD)
    credits = purchase_credits(config, balance, terms)
    return _find_cap(config, history.attempts, credits, now) or Buy(credits)


def purchase_credits(config: AutoTopUpConfig, balance: BalanceLevel, terms: TopUpTerms) -> int:
    """Return the credits of one purchase: the fixed amount, or the credits that are missing to reach the target.

    The missing credits are rounded up to a multiple that is sold, at most the largest top-up.
    """
    if config.amount is not None:
        return config.amount
    multiple = terms.multiple_credits
    wanted = max((config.target or 0) - balance.available, terms.minimum_credits)
    largest = terms.maximum_credits // multiple * multiple
    return min(-(-wanted // multiple) * multiple, largest)


def derive_state(decision: Buy | Skip) -> AutoTopUpState:
    """Return the state that users see for a decision."""
    return AutoTopUpState.READY if isinstance(decision, Buy) else _STATES.get(decision.reason, AutoTopUpState.BLOCKED)


def describe_block(reason: SkipReason) -> str | None:
    """Return the text of the notification for a reason, or None if the owner need not do anything."""
    return f"Auto top-up does not buy credits: {_BLOCK_TEXTS[reason]}" if reason in _BLOCK_TEXTS else None


def count_declines(history: AttemptHistory) -> int:
    """Count the latest attempts in a row that were declined or not confirmed by the owner."""
    return sum(_is_decline(attempt.decline_reason) for attempt in _failed_streak(history))


def sum_spent_this_month(attempts: Sequence[Attempt], now: datetime) -> int:
    """Return the credits of all attempts of this month (UTC) except FAILED ones."""
    return sum(attempt.credits for attempt in _since(attempts, _month(now)))


def find_problems(config: AutoTopUpConfig, terms: TopUpTerms, consent_version: str | None) -> list[Problem]:
    """Return the problems of enabling auto top-up with this configuration."""
    found = _find_amount_problems(config, terms)
    for path, most in (("maxPerDay", config.max_per_day), ("maxPerMonth", config.max_per_month)):
        least = config.amount or terms.minimum_credits
        if most is not None and not least <= most <= MAX_CREDITS:
            found.append(Problem(path, f"must be at least one purchase of {counted(least, 'credit')}; it is {most:,}"))
    for path, count, bound in (
        ("maxCountPerDay", config.max_count_per_day, MAX_COUNT_PER_DAY),
        ("maxCountPerMonth", config.max_count_per_month, MAX_COUNT_PER_MONTH),
    ):
        if count is not None and not 1 <= count <= bound:
            found.append(Problem(path, f"must lie between 1 and {bound}; it is {count:,}"))
    version = consent_version or ""
    if not (1 <= len(version) <= MAX_CONSENT_VERSION_LENGTH and version.isprintable() and version.strip() == version):
        found.append(
            Problem(
                "consentVersion",
                "must name the version of the text that the owner has agreed to, in 1 to 64 characters",
            )
        )
    return found


def _find_amount_problems(config: AutoTopUpConfig, terms: TopUpTerms) -> list[Problem]:
    found = []
    if config.threshold is None or not 1 <= config.threshold <= MAX_CREDITS:
        found.append(Problem("threshold", f"must lie between 1 and {MAX_CREDITS:,}"))
    if (config.amount is None) == (config.target is None):
        found.append(Problem("amount", "or target must be given, not both"))
    elif config.amount is not None:
        found += [Problem("amount", problem.message) for problem in terms.find_problems(config.amount, None)]
    elif config.target is not None and not (config.threshold or 0) <= config.target <= MAX_CREDITS:
        found.append(Problem("target", "must not be below the threshold: each purchase would cause the next one"))
    return found


def _find_block(config: AutoTopUpConfig, history: AttemptHistory, balance: BalanceLevel, now: datetime) -> Skip | None:
    """Return a reason to skip that does not depend on the available credits, or None."""
    if not config.enabled:
        return Skip(SkipReason.DISABLED)
    for attempt in history.attempts:
        if attempt.status is TopUpStatus.PENDING:
            return Skip(SkipReason.ACTION_REQUIRED if attempt.action_url else SkipReason.OPEN_INTENT)
    if not history.has_card:
        return Skip(SkipReason.NO_CARD)
    if balance.owed:
        return Skip(SkipReason.IN_DEBT)
    if balance.frozen:
        return Skip(SkipReason.DISPUTED)
    return _find_wait(history, now)


def _find_wait(history: AttemptHistory, now: datetime) -> Skip | None:
    """Return the wait or cooldown after the latest attempts, or None."""
    if count_declines(history) >= MAX_DECLINES:
        return Skip(SkipReason.DECLINED_TOO_OFTEN)
    if failed := _failed_streak(history):
        again_at = failed[0].begun_at + BACK_OFF[min(len(failed), len(BACK_OFF)) - 1]
        if now < again_at:
            return Skip(_find_failure(failed[0].decline_reason), again_at)
    if history.attempts and now < (cooled_down_at := history.attempts[0].begun_at + COOLDOWN):
        return Skip(SkipReason.COOLDOWN, cooled_down_at)
    return None


def _find_failure(decline_reason: str | None) -> SkipReason:
    """Return the reason for the wait after a failed attempt."""
    if decline_reason == NOT_CHARGED:
        return SkipReason.PROVIDER_UNAVAILABLE
    return SkipReason.REFUSED if is_refusal(decline_reason) else SkipReason.BACKING_OFF


def _is_decline(decline_reason: str | None) -> bool:
    """Return whether a failed attempt was declined, or not confirmed by its owner (None)."""
    return decline_reason not in {NOT_CHARGED, CARD_DELETED} and not is_refusal(decline_reason)


def _failed_streak(history: AttemptHistory) -> list[Attempt]:
    """Return the failed attempts, newest first, since the last successful one and since declines were reset."""
    found = []
    for attempt in history.attempts:
        if history.declines_reset_at is not None and attempt.begun_at <= history.declines_reset_at:
            break
        if attempt.status not in {TopUpStatus.FAILED, TopUpStatus.EXPIRED}:
            break
        found.append(attempt)
    return found


def _find_cap(config: AutoTopUpConfig, attempts: Sequence[Attempt], credits: int, now: datetime) -> Skip | None:
    today, this_month = _since(attempts, _day(now)), _since(attempts, _month(now))
    tomorrow = _day(now) + timedelta(days=1)
    next_month = _month(_month(now) + timedelta(days=32))
    if len(this_month) >= (config.max_count_per_month or MAX_COUNT_PER_MONTH):
        return Skip(SkipReason.MONTH_COUNT, next_month)
    if config.max_per_month is not None and _sum(this_month) + credits > config.max_per_month:
        return Skip(SkipReason.MONTH_CAP, next_month)
    if len(today) >= (config.max_count_per_day or MAX_COUNT_PER_DAY):
        return Skip(SkipReason.DAY_COUNT, tomorrow)
    if config.max_per_day is not None and _sum(today) + credits > config.max_per_day:
        return Skip(SkipReason.DAY_CAP, tomorrow)
    return None


def _since(attempts: Sequence[Attempt], start: datetime) -> list[Attempt]:
    return [attempt for attempt in attempts if attempt.begun_at >= start and attempt.status is not TopUpStatus.FAILED]


def _sum(attempts: Sequence[Attempt]) -> int:
    return sum(attempt.credits for attempt in attempts)


def _day(now: datetime) -> datetime:
    return now.replace(hour=0, minute=0, second=0, microsecond=0)


def _month(now: datetime) -> datetime:
    return _day(now).replace(day=1)
