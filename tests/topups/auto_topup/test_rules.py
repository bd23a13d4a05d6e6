"""The rules of auto top-up: what is bought, and the reason if nothing is, for all kinds of history."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.topups.auto_topup.rules import (
    NOT_CHARGED,
    OFF,
    Attempt,
    AttemptHistory,
    AutoTopUpConfig,
    AutoTopUpState,
    BalanceLevel,
    Buy,
    Skip,
    SkipReason,
    count_declines,
    decide,
    derive_state,
    find_problems,
    sum_spent_this_month,
)
from app.topups.rules import TopUpStatus, TopUpTerms
from tests.soak import sized

TERMS = TopUpTerms(
    minimum_credits=500, maximum_credits=10_000, multiple_credits=100, currency="USD", minor_per_credit=1
)  # fmt: skip
NOW = datetime(2026, 3, 31, 12, 0, tzinfo=UTC)
LOW = BalanceLevel(available=10)


def config(**more: Any) -> AutoTopUpConfig:
    values: dict[str, Any] = {"threshold": 100} | more
    if "target" not in values:
        values.setdefault("amount", 1_000)
    return AutoTopUpConfig(enabled=True, **values)


def attempt(status: TopUpStatus = TopUpStatus.PAID, credits: int = 1_000, **since: float) -> Attempt:
    """An attempt that was begun so long before NOW."""
    return Attempt(NOW - timedelta(**since), credits, status)


def declined_attempt(**since: float) -> Attempt:
    return Attempt(NOW - timedelta(**since), 1_000, TopUpStatus.FAILED, "card_declined")


def decision(*attempts: Attempt, level: BalanceLevel = LOW, now: datetime = NOW, **more: Any) -> Buy | Skip:
    history = {key: more.pop(key) for key in ("has_card", "declines_reset_at") if key in more}
    return decide(config(**more), AttemptHistory(attempts=attempts, **history), level, TERMS, now)


def test_a_balance_below_the_threshold_buys_the_amount_and_one_at_it_buys_nothing() -> None:
    assert decision(level=BalanceLevel(available=99)) == Buy(1_000)
    assert decision(level=BalanceLevel(available=100)) == Skip(SkipReason.ABOVE_THRESHOLD)
    assert decide(OFF, AttemptHistory(), LOW, TERMS, NOW) == Skip(SkipReason.DISABLED)


@pytest.mark.parametrize(
    ("target", "available", "credits"),
    [(1_000, 0, 1_000), (1_000, 1, 1_000), (1_010, 9, 1_100), (150, 0, 500), (10**9, 50, 10_000)],
)
def test_a_target_buys_what_is_missing_rounded_up_within_the_terms(target: int, available: int, credits: int) -> None:
    assert decision(target=target, level=BalanceLevel(available=available)) == Buy(credits)


def test_a_pending_purchase_prevents_the_next_and_says_whether_the_owner_must_act() -> None:
    open_one = attempt(TopUpStatus.PENDING, days=3)
    assert decision(open_one) == Skip(SkipReason.OPEN_INTENT)
    assert decision(open_one._replace(action_url="https://bank.example/")) == Skip(SkipReason.ACTION_REQUIRED)


@pytest.mark.parametrize(
    ("level", "more", "reason"),
    [
        (LOW, {"has_card": False}, SkipReason.NO_CARD),
        (BalanceLevel(available=0, owed=1), {}, SkipReason.IN_DEBT),
        (BalanceLevel(available=0, frozen=1), {}, SkipReason.DISPUTED),
    ],
)
def test_a_missing_card_debt_and_disputes_prevent_purchases(
    level: BalanceLevel, more: dict[str, Any], reason: SkipReason
) -> None:
    assert decision(level=level, **more) == Skip(reason)


def test_two_purchases_are_a_minute_apart() -> None:
    last = attempt(seconds=59.9)
    assert decision(last) == Skip(SkipReason.COOLDOWN, last.begun_at + timedelta(seconds=60))
    assert decision(attempt(seconds=60)) == Buy(1_000)


def test_declines_back_off_one_hour_then_four_and_the_third_stops_purchases() -> None:
    first, second, third = declined_attempt(hours=30), declined_attempt(hours=29), declined_attempt(hours=25)
    assert decision(declined_attempt(minutes=59)) == Skip(SkipReason.BACKING_OFF, NOW + timedelta(minutes=1))
    assert decision(first) == Buy(1_000)
    recent = declined_attempt(hours=3)
    assert decision(recent, declined_attempt(hours=5)) == Skip(SkipReason.BACKING_OFF, NOW + timedelta(hours=1))
    assert decision(second, first) == Buy(1_000)
    assert decision(third, second, first) == Skip(SkipReason.DECLINED_TOO_OFTEN)
    assert decision(third, second, first, now=NOW + timedelta(days=300)) == Skip(SkipReason.DECLINED_TOO_OFTEN)


def test_a_new_card_or_a_manual_payment_resets_the_declines() -> None:
    failed = (declined_attempt(hours=1), declined_attempt(hours=5), declined_attempt(hours=6))
    assert decision(*failed, declines_reset_at=NOW - timedelta(minutes=1)) == Buy(1_000)
    assert decision(*failed, declines_reset_at=NOW - timedelta(hours=2)) == Buy(1_000)
    assert count_declines(AttemptHistory(attempts=failed, declines_reset_at=NOW - timedelta(hours=2))) == 1
    assert (
        count_declines(
            AttemptHistory(attempts=(declined_attempt(hours=1), attempt(hours=3), declined_attempt(hours=5)))
        )
        == 1
    )


def test_an_unconfirmed_payment_counts_as_a_decline_and_one_never_made_does_not() -> None:
    assert (
        count_declines(AttemptHistory(attempts=[attempt(TopUpStatus.EXPIRED, hours=1), declined_attempt(hours=4)])) == 2
    )
    unreached = [attempt(TopUpStatus.FAILED, hours=24 * n)._replace(decline_reason=NOT_CHARGED) for n in range(1, 9)]
    assert decision(*unreached) == Buy(1_000)
    assert decision(*unreached, now=NOW - timedelta(seconds=1)) == Skip(SkipReason.PROVIDER_UNAVAILABLE, NOW)
    mixed = [
        unreached[0],
        declined_attempt(hours=30),
        declined_attempt(hours=40),
        unreached[3],
        declined_attempt(hours=90),
    ]
    assert decision(*mixed) == Skip(SkipReason.DECLINED_TOO_OFTEN)


def test_caps_limit_credits_and_counts_and_reset_at_midnight_utc() -> None:
    tomorrow = datetime(2026, 4, 1, tzinfo=UTC)
    today, yesterday = attempt(hours=11), attempt(hours=13)
    assert decision(today, max_per_day=1_999) == Skip(SkipReason.DAY_CAP, tomorrow)
    assert decision(today, max_per_day=2_000) == Buy(1_000)
    assert decision(yesterday, max_per_day=1_999) == Buy(1_000)
    assert decision(today, max_count_per_day=1) == Skip(SkipReason.DAY_COUNT, tomorrow)
    assert decision(yesterday, max_per_month=1_999) == Skip(SkipReason.MONTH_CAP, tomorrow)
    assert decision(yesterday, max_count_per_month=1) == Skip(SkipReason.MONTH_COUNT, tomorrow)
    assert decision(attempt(days=31), max_count_per_month=1, max_per_month=1_000) == Buy(1_000)
    bought = Attempt(datetime(2026, 12, 9, tzinfo=UTC), 1_000, TopUpStatus.PAID)
    skipped = decision(bought, max_count_per_month=1, now=bought.begun_at + timedelta(days=1))
    assert skipped == Skip(SkipReason.MONTH_COUNT, datetime(2027, 1, 1, tzinfo=UTC))


def test_without_configured_caps_ten_purchases_a_day_are_allowed() -> None:
    bought = [attempt(minutes=2 * number + 1) for number in range(10)]
    assert decision(*bought[1:]) == Buy(1_000)
    assert decision(*bought) == Skip(SkipReason.DAY_COUNT, datetime(2026, 4, 1, tzinfo=UTC))


def test_attempts_that_may_have_been_paid_count_and_declined_ones_do_not() -> None:
    kinds = [
        TopUpStatus.PAID,
        TopUpStatus.EXPIRED,
        TopUpStatus.REFUNDED,
        TopUpStatus.DISPUTED,
        TopUpStatus.PENDING,
        TopUpStatus.FAILED,
    ]
    attempts = [attempt(kind, 10**place, hours=1) for place, kind in enumerate(kinds)]
    assert sum_spent_this_month([*attempts, attempt(days=40)], NOW) == 11_111


@pytest.mark.parametrize(
    ("decision", "state"),
    [
        (Buy(500), AutoTopUpState.READY),
        (Skip(SkipReason.ABOVE_THRESHOLD), AutoTopUpState.READY),
        (Skip(SkipReason.DISABLED), AutoTopUpState.OFF),
        (Skip(SkipReason.OPEN_INTENT), AutoTopUpState.PENDING),
        (Skip(SkipReason.ACTION_REQUIRED), AutoTopUpState.ACTION_REQUIRED),
        (Skip(SkipReason.COOLDOWN), AutoTopUpState.COOLING_DOWN),
        (Skip(SkipReason.BACKING_OFF), AutoTopUpState.BACKING_OFF),
        (Skip(SkipReason.PROVIDER_UNAVAILABLE), AutoTopUpState.BACKING_OFF),
        (Skip(SkipReason.DAY_CAP), AutoTopUpState.BLOCKED),
        (Skip(SkipReason.DECLINED_TOO_OFTEN), AutoTopUpState.BLOCKED),
        (Skip(SkipReason.NO_CARD), AutoTopUpState.BLOCKED),
    ],
    ids=str,
)  # fmt: skip
def test_every_decision_has_a_state(decision: Buy | Skip, state: AutoTopUpState) -> None:
    assert derive_state(decision) is state


@pytest.mark.parametrize(
    ("more", "consent", "paths"),
    [
        ({}, "v1", []),
        ({"target": 100}, "v1", []),
        ({}, None, ["consentVersion"]),
        ({}, " ", ["consentVersion"]),
        ({"amount": None}, "v1", ["amount"]),
        ({"amount": 500, "target": 500}, "v1", ["amount"]),
        ({"amount": 450}, "v1", ["amount"]),
        ({"amount": 550}, "v1", ["amount"]),
        ({"target": 99}, "v1", ["target"]),
        ({"threshold": None}, "v1", ["threshold"]),
        ({"threshold": 0}, "v1", ["threshold"]),
        ({"max_per_day": 999, "max_per_month": 0}, "v1", ["maxPerDay", "maxPerMonth"]),
        ({"max_count_per_day": 11, "max_count_per_month": 0}, "v1", ["maxCountPerDay", "maxCountPerMonth"]),
    ],
    ids=str,
)
def test_the_configuration_is_checked_when_it_is_enabled(
    more: dict[str, Any], consent: str | None, paths: list[str]
) -> None:
    assert [problem.path for problem in find_problems(config(**more), TERMS, consent)] == paths


def random_config(chance: random.Random) -> AutoTopUpConfig:
    return config(
        target=chance.randint(100, 20_000),
        max_per_day=chance.choice([None, chance.randint(500, 20_000)]),
        max_per_month=chance.choice([None, chance.randint(500, 60_000)]),
        max_count_per_day=chance.choice([None, chance.randint(1, 10)]),
        max_count_per_month=chance.choice([None, chance.randint(1, 100)]),
    )


def random_history(config_: AutoTopUpConfig, chance: random.Random) -> list[Attempt]:
    """Attempts of a random history of some months or one day, newest first."""
    now = NOW - timedelta(days=80)
    longest_minutes = chance.choice([10, 600, 10_000])
    becomes = chance.choices(
        [TopUpStatus.PAID, TopUpStatus.FAILED, TopUpStatus.EXPIRED, TopUpStatus.PENDING], [6, 1, 1, 1], k=25
    )
    attempts: list[Attempt] = []
    for status in becomes:
        now += timedelta(minutes=chance.randint(1, longest_minutes))
        if attempts and attempts[0].status is TopUpStatus.PENDING and chance.random() < 0.8:
            attempts[0] = attempts[0]._replace(status=TopUpStatus.PAID)
        level = BalanceLevel(available=chance.randint(0, 150))
        decision = decide(config_, AttemptHistory(attempts=attempts), level, TERMS, now)
        if isinstance(decision, Buy):
            assert level.available < 100
            assert not attempts or now - attempts[0].begun_at >= timedelta(seconds=60)
            attempts.insert(0, Attempt(now, decision.credits, status, "declined"))
    return attempts


def credits_by_period(form: str, attempts: list[Attempt]) -> list[list[int]]:
    """Credits of attempts that may have been paid, by day or month."""
    found: dict[str, list[int]] = {}
    for attempt in attempts:
        if attempt.status is not TopUpStatus.FAILED:
            found.setdefault(attempt.begun_at.strftime(form), []).append(attempt.credits)
    return list(found.values())


@settings(max_examples=sized(100, soak=500), deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_history_exceeds_a_cap(seed: int) -> None:
    """Twenty histories for each example."""
    chance = random.Random(seed)  # noqa: S311  the seed is the example
    for _ in range(20):
        config_ = random_config(chance)
        attempts = random_history(config_, chance)
        for form, most, count in (
            ("%Y%m%d", config_.max_per_day, config_.max_count_per_day or 10),
            ("%Y%m", config_.max_per_month, config_.max_count_per_month or 100),
        ):
            for bought in credits_by_period(form, attempts):
                assert sum(bought) <= (most or 10**9)
                assert len(bought) <= count


@settings(max_examples=200, deadline=None)
@given(steps=st.lists(st.integers(1, 60 * 24 * 5), max_size=20))
def test_a_card_that_always_declines_is_tried_three_times(steps: list[int]) -> None:
    now = NOW
    attempts: list[Attempt] = []
    for minutes in [*steps, *[60 * 24 * 5] * 9]:
        now += timedelta(minutes=minutes)
        if isinstance(decide(config(), AttemptHistory(attempts=attempts), LOW, TERMS, now), Buy):
            attempts.insert(0, Attempt(now, 1_000, TopUpStatus.FAILED, "card_declined"))
    assert len(attempts) == 3
    assert attempts[1].begun_at - attempts[2].begun_at >= timedelta(hours=1)
    assert attempts[0].begun_at - attempts[1].begun_at >= timedelta(hours=4)
