"""Prices by measurement, rounded once."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.credits import MAX_CREDITS
from app.errors import BalanceLimitReached, InvalidInput, MeasurementMissing
from app.pricing.measurements import MAX_SECONDS, MAX_USD, Measurements, parse_measurements
from app.pricing.quotes import Unit, price, quote
from tests.pricing.cards import a_card

CARD = a_card(
    {"block": "Video", "credits": 3, "unit": "second", "per": 10},
    {"block": "Mail", "credits": 2, "unit": "item"},
    {"block": "Store", "credits": 1, "unit": "byte", "per": 1_000_000},
    {"block": "Resell", "credits": 150, "unit": "usd"},
    {"block": "Gold", "credits": MAX_CREDITS, "unit": "item"},
)


@pytest.mark.parametrize(
    ("block", "measured", "credits"),
    [
        ("Video", Measurements(seconds=Decimal(0)), 0),
        ("Video", Measurements(seconds=Decimal("0.001")), 1),
        ("Video", Measurements(seconds=Decimal("3.3")), 1),
        ("Video", Measurements(seconds=Decimal(10)), 3),
        ("Video", Measurements(seconds=Decimal("10.0000001")), 4),
        ("Mail", Measurements(items=7), 14),
        ("Store", Measurements(bytes=1_000_000), 1),
        ("Store", Measurements(bytes=1_000_001), 2),
        ("Store", Measurements(bytes=MAX_CREDITS), 9_007_199_255),
        ("Resell", Measurements(usd=Decimal("0.01")), 2),
        ("Resell", Measurements(usd=Decimal("0.02")), 3),
        ("Gold", Measurements(items=1), MAX_CREDITS),
    ],
)
def test_a_price_by_measurement_is_rounded_up_once(block: str, measured: Measurements, credits: int) -> None:
    assert quote(CARD, block, {}, measurements=measured).credits == credits


def test_a_quote_by_measurement_has_its_rate_unit_and_rule() -> None:
    quoted = quote(CARD, "Video", {}, measurements=Measurements(seconds=Decimal(61)))

    assert (quoted.credits, quoted.unit, quoted.rate) == (19, Unit.SECOND, Decimal("0.3"))
    assert quoted.rule == {"credits": 3, "unit": "second", "per": 10}


@settings(max_examples=200, deadline=None)
@given(
    credits=st.integers(0, MAX_CREDITS),
    measure=st.one_of(
        st.decimals(0, MAX_SECONDS, allow_nan=False, allow_infinity=False),
        st.decimals(0, 2, places=30),
        st.integers(0, MAX_CREDITS).map(Decimal),
    ),
    per=st.integers(1, MAX_CREDITS),
)
def test_the_price_is_the_exact_quotient_rounded_up(credits: int, measure: Decimal, per: int) -> None:
    exact = -(-Fraction(credits) * Fraction(measure) // per)

    if exact <= MAX_CREDITS:
        assert price(credits, measure, per=per) == exact
    else:
        with pytest.raises(BalanceLimitReached):
            price(credits, measure, per=per)


def test_a_price_beyond_the_bound_is_refused_and_not_clamped() -> None:
    with pytest.raises(BalanceLimitReached, match="The price of this block run would exceed"):
        quote(CARD, "Gold", {}, measurements=Measurements(items=2))


@pytest.mark.parametrize(
    ("block", "name"), [("Video", "seconds"), ("Mail", "items"), ("Store", "bytes"), ("Resell", "usd")]
)
def test_a_missing_measurement_is_an_error_and_not_0(block: str, name: str) -> None:
    others: dict[str, Any] = {"seconds": Decimal(1), "items": 1, "bytes": 1, "usd": Decimal(1)}
    del others[name]

    for measured in (None, Measurements(), Measurements(**others)):
        with pytest.raises(MeasurementMissing) as refusal:
            quote(CARD, block, {}, measurements=measured)
        assert (refusal.value.block, refusal.value.measurement) == (block, name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seconds", Decimal(-1)),
        ("seconds", Decimal("NaN")),
        ("seconds", Decimal("sNaN")),
        ("seconds", Decimal("Infinity")),
        ("seconds", Decimal(MAX_SECONDS) + Decimal("0.1")),
        ("seconds", Decimal("0." + "1" * 41)),
        ("seconds", Decimal("0e999999")),
        ("items", -1),
        ("items", True),
        ("items", MAX_CREDITS + 1),
        ("bytes", -1),
        ("bytes", MAX_CREDITS + 1),
        ("usd", Decimal("-0.01")),
        ("usd", Decimal(MAX_USD + 1)),
    ],
)
def test_measurements_out_of_bounds_are_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as refusal:
        Measurements(**{name: value})

    assert [problem.path for problem in refusal.value.problems] == [f"measurements.{name}"]


def test_input_values_become_exact_decimals() -> None:
    assert parse_measurements(seconds=0.1, items=2, bytes=3, usd="0.30") == Measurements(
        seconds=Decimal("0.1"), items=2, bytes=3, usd=Decimal("0.30")
    )
    assert parse_measurements(usd="1e-7").usd == Decimal("0.0000001")
    assert parse_measurements() == Measurements()


@pytest.mark.parametrize("text", ["", "abc", "1,5", " 1", "1_0", "NaN", "inf", "٣", "1e9999", "9" * 65, "0x1", "1\n"])
def test_us_dollars_that_are_not_plain_decimals_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        parse_measurements(usd=text, path="input.3.measurements")

    assert [problem.path for problem in refusal.value.problems] == ["input.3.measurements.usd"]


def test_every_invalid_measurement_is_reported_under_the_callers_path() -> None:
    with pytest.raises(InvalidInput) as refusal:
        parse_measurements(seconds=float("nan"), items=-1, bytes=-1, usd="-1", path="input.3.measurements")

    assert [problem.path for problem in refusal.value.problems] == [
        f"input.3.measurements.{name}" for name in ("seconds", "items", "bytes", "usd")
    ]
