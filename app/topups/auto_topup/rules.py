"""Pure rules of auto top-up: whether an account buys credits by itself now, how many, and why not.

Everything is decided from the account's own rows, read under its lock: no counter can drift from what was bought. An
automatic top-up counts towards the caps from the instant at which it was begun, whatever its provider has said of it
since, unless it is known that no money moved (FAILED).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

from app.credits import MAX_CREDITS
from app.errors import Problem
from app.topups.rules import TopUpStatus, TopUpTerms

COOLDOWN: Final = timedelta(seconds=60)
"""Between the beginnings of two automatic top-ups."""
BACK_OFF: Final = (timedelta(hours=1), timedelta(hours=4), timedelta(hours=24))
"""After the first, second and third attempt in a row that did not bring credits."""
MAX_DECLINES: Final = 3
MAX_COUNT_PER_DAY: Final = 10
MAX_COUNT_PER_MONTH: Final = 100
"""How many an account may ask for at most, and what counts where it asks for none."""
MAX_CONSENT_VERSION_LENGTH: Final = 64
NOT_CHARGED: Final = "not_charged"
"""The decline reason of an attempt that never reached the provider."""


class SkipReason(StrEnum):
    """Why nothing is bought now."""

    DISABLED = "DISABLED"
    ABOVE_THRESHOLD = "ABOVE_THRESHOLD"
    NO_CARD = "NO_CARD"
    OPEN_INTENT = "OPEN_INTENT"
    ACTION_REQUIRED = "ACTION_REQUIRED"
    IN_DEBT = "OWING"
    DISPUTED = "DISPUTED"
    DECLINED_TOO_OFTEN = "DECLINED_TOO_OFTEN"
    BACKING_OFF = "BACKING_OFF"
    PROVIDER_UNAVAILABLE = "PROVIDER_UNAVAILABLE"
    COOLDOWN = "COOLDOWN"
    DAY_COUNT = "DAY_COUNT"
    MONTH_COUNT = "MONTH_COUNT"
    DAY_CAP = "DAY_CAP"
    MONTH_CAP = "MONTH_CAP"


class AutoTopUpState(StrEnum):
    """How auto top-up stands, for people."""

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
}

_TOLD: Final = {
    SkipReason.NO_CARD: "no card is saved: save one with a top-up, or switch it off.",
    SkipReason.ACTION_REQUIRED: "the bank asks you to confirm the payment.",
    SkipReason.IN_DEBT: "the account owes: pay by hand first.",
    SkipReason.DISPUTED: "a payment is disputed.",
    SkipReason.DECLINED_TOO_OFTEN: "the card was declined three times: save another, or pay by hand.",
    SkipReason.DAY_COUNT: "it has bought as often today as it may.",
    SkipReason.MONTH_COUNT: "it has bought as often this month as it may.",
    SkipReason.DAY_CAP: "it would buy more today than it may.",
    SkipReason.MONTH_CAP: "it would buy more this month than it may.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoTopUpConfig:
    """What an owner has asked for. Credits and counts; `amount` or `up_to`, never both.

    `max_...` None: as much, or as often, as anybody may.
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
    """An automatic top-up. `action_url`: where its owner has to confirm it."""

    begun_at: datetime
    credits: int
    status: TopUpStatus
    decline_reason: str | None = None
    action_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptHistory:
    """What is known of an account. `attempts`: this month's and the newest, newest first.

    `renewed_at`: when the card was saved, or a person last paid by hand, whichever came later: declines before it are
    forgotten.
    """

    attempts: Sequence[Attempt] = ()
    has_card: bool = True
    declines_reset_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceLevel:
    """What the account has: credits."""

    available: int
    owed: int = 0
    frozen: int = 0


class Buy(NamedTuple):
    """Buy that many credits now."""

    credits: int


class Skip(NamedTuple):
    """Buy nothing. `next_eligible_at`: when time alone ends this; None: something else has to happen."""

    reason: SkipReason
    next_eligible_at: datetime | None = None


def decide(
    wishes: AutoTopUpConfig, history: AttemptHistory, level: BalanceLevel, terms: TopUpTerms, now: datetime
) -> Buy | Skip:
    """Whether to buy credits now. A purchase that would pass a cap is not made, not made smaller."""
    hindrance = _hindrance(wishes, history, level, now)
    if hindrance is not None:
        return hindrance
    if wishes.threshold is None or level.available >= wishes.threshold:
        return Skip(SkipReason.ABOVE_THRESHOLD)
    credits = purchase_credits(wishes, level, terms)
    return _over_a_cap(wishes, history.attempts, credits, now) or Buy(credits)


def purchase_credits(wishes: AutoTopUpConfig, level: BalanceLevel, terms: TopUpTerms) -> int:
    """How many credits one purchase has: the fixed amount, or what fills up to the target, rounded up to what is sold
    and never beyond the largest top-up.
    """
    if wishes.amount is not None:
        return wishes.amount
    multiple = terms.multiple_credits
    wanted = max((wishes.target or 0) - level.available, terms.minimum_credits)
    largest = terms.maximum_credits // multiple * multiple
    return min(-(-wanted // multiple) * multiple, largest)


def derive_state(decision: Buy | Skip) -> AutoTopUpState:
    """How that stands, for people."""
    return AutoTopUpState.READY if isinstance(decision, Buy) else _STATES.get(decision.reason, AutoTopUpState.BLOCKED)


def describe_block(reason: SkipReason) -> str | None:
    """What a notice says of auto top-up that is blocked; None where nobody needs to do anything about it."""
    return f"Auto top-up does not buy: {_TOLD[reason]}" if reason in _TOLD else None


def count_declines(history: AttemptHistory) -> int:
    """Attempts in a row that were declined, or never confirmed by the owner, since the last payment or new card."""
    return sum(attempt.decline_reason != NOT_CHARGED for attempt in _in_vain(history))


def sum_spent_this_month(attempts: Sequence[Attempt], now: datetime) -> int:
    """Credits that automatic top-ups have bought since the month began (UTC), or may yet turn out to have bought."""
    return sum(attempt.credits for attempt in _since(attempts, _month(now)))


def find_problems(wishes: AutoTopUpConfig, terms: TopUpTerms, consent_version: str | None) -> list[Problem]:
    """What is wrong with switching on for these wishes. Switching off has no problems."""
    found = _problems_of_amounts(wishes, terms)
    for path, most in (("maxPerDay", wishes.max_per_day), ("maxPerMonth", wishes.max_per_month)):
        least = wishes.amount or terms.minimum_credits
        if most is not None and not least <= most <= MAX_CREDITS:
            found.append(Problem(path, f"must be at least one purchase of {least:,} credits; it is {most:,}"))
    for path, count, bound in (
        ("maxCountPerDay", wishes.max_count_per_day, MAX_COUNT_PER_DAY),
        ("maxCountPerMonth", wishes.max_count_per_month, MAX_COUNT_PER_MONTH),
    ):
        if count is not None and not 1 <= count <= bound:
            found.append(Problem(path, f"must lie between 1 and {bound}; it is {count:,}"))
    version = consent_version or ""
    if not (1 <= len(version) <= MAX_CONSENT_VERSION_LENGTH and version.isprintable() and version.strip() == version):
        found.append(
            Problem("consentVersion", "must name the text that the owner has agreed to, in 1 to 64 characters")
        )
    return found


def _problems_of_amounts(wishes: AutoTopUpConfig, terms: TopUpTerms) -> list[Problem]:
    found = []
    if wishes.threshold is None or not 1 <= wishes.threshold <= MAX_CREDITS:
        found.append(Problem("threshold", f"must lie between 1 and {MAX_CREDITS:,}"))
    if (wishes.amount is None) == (wishes.target is None):
        found.append(Problem("amount", "must be given, or target, and not both"))
    elif wishes.amount is not None:
        found += [Problem("amount", problem.message) for problem in terms.find_problems(wishes.amount, None)]
    elif wishes.target is not None and not (wishes.threshold or 0) <= wishes.target <= MAX_CREDITS:
        found.append(Problem("target", "must not be below the threshold, or every purchase would call for the next"))
    return found


def _hindrance(wishes: AutoTopUpConfig, history: AttemptHistory, level: BalanceLevel, now: datetime) -> Skip | None:
    """What stands in the way whatever the balance is."""
    if not wishes.enabled:
        return Skip(SkipReason.DISABLED)
    for attempt in history.attempts:
        if attempt.status is TopUpStatus.PENDING:
            return Skip(SkipReason.ACTION_REQUIRED if attempt.action_url else SkipReason.OPEN_INTENT)
    if not history.has_card:
        return Skip(SkipReason.NO_CARD)
    if level.owed:
        return Skip(SkipReason.IN_DEBT)
    if level.frozen:
        return Skip(SkipReason.DISPUTED)
    return _waiting(history, now)


def _waiting(history: AttemptHistory, now: datetime) -> Skip | None:
    """How long nothing is bought after the last attempts."""
    if count_declines(history) >= MAX_DECLINES:
        return Skip(SkipReason.DECLINED_TOO_OFTEN)
    if vain := _in_vain(history):
        again_at = vain[0].begun_at + BACK_OFF[min(len(vain), len(BACK_OFF)) - 1]
        if now < again_at:
            unreached = vain[0].decline_reason == NOT_CHARGED
            return Skip(SkipReason.PROVIDER_UNAVAILABLE if unreached else SkipReason.BACKING_OFF, again_at)
    if history.attempts and now < (rested_at := history.attempts[0].begun_at + COOLDOWN):
        return Skip(SkipReason.COOLDOWN, rested_at)
    return None


def _in_vain(history: AttemptHistory) -> list[Attempt]:
    """The newest attempts, newest first, up to the last that brought credits or that was before the card was new."""
    found = []
    for attempt in history.attempts:
        if history.declines_reset_at is not None and attempt.begun_at <= history.declines_reset_at:
            break
        if attempt.status not in {TopUpStatus.FAILED, TopUpStatus.EXPIRED}:
            break
        found.append(attempt)
    return found


def _over_a_cap(wishes: AutoTopUpConfig, attempts: Sequence[Attempt], credits: int, now: datetime) -> Skip | None:
    today, this_month = _since(attempts, _day(now)), _since(attempts, _month(now))
    tomorrow = _day(now) + timedelta(days=1)
    next_month = _month(_month(now) + timedelta(days=32))
    if len(this_month) >= (wishes.max_count_per_month or MAX_COUNT_PER_MONTH):
        return Skip(SkipReason.MONTH_COUNT, next_month)
    if wishes.max_per_month is not None and _sum(this_month) + credits > wishes.max_per_month:
        return Skip(SkipReason.MONTH_CAP, next_month)
    if len(today) >= (wishes.max_count_per_day or MAX_COUNT_PER_DAY):
        return Skip(SkipReason.DAY_COUNT, tomorrow)
    if wishes.max_per_day is not None and _sum(today) + credits > wishes.max_per_day:
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
