"""What planned block runs cost, and which of them the balance cannot pay."""

from decimal import Decimal

import pytest

from app.credits import MAX_CREDITS
from app.errors import InvalidInput, MeasurementNeeded, OutOfRange, PriceUnavailable, RequestError
from app.pricing.estimates import PlannedBlockRun, estimate_cost
from app.pricing.measurements import Measurements
from tests.pricing.cards import a_card

CARD = a_card(
    {"block": "Ten", "credits": 10},
    {"block": "Video", "credits": 3, "unit": "second", "per": 10},
    {"block": "Gold", "credits": MAX_CREDITS},
    {"block": "Golden", "credits": MAX_CREDITS, "unit": "second"},
    free_blocks=["Note"],
)
PLAN = [
    PlannedBlockRun("Note", count=1_000),
    PlannedBlockRun("Ten", count=3),
    PlannedBlockRun("Video", measurements=Measurements(seconds=Decimal(11)), count=2),
    PlannedBlockRun("Ten", uses_own_key=True, count=5),
]


def test_each_run_of_a_line_is_rounded_separately() -> None:
    estimated = estimate_cost(CARD, PLAN, available_credits=38)

    assert [(line.block, line.count, line.credits_each, line.credits) for line in estimated.lines] == [
        ("Note", 1_000, 0, 0),
        ("Ten", 3, 10, 30),
        ("Video", 2, 4, 8),
        ("Ten", 5, 0, 0),
    ]
    assert (estimated.credits, estimated.is_affordable, estimated.first_unaffordable_line) == (38, True, None)


@pytest.mark.parametrize(("available", "runs_out_at"), [(0, 1), (29, 1), (30, 2), (37, 2), (38, None)])
def test_the_first_line_that_the_balance_cannot_pay(available: int, runs_out_at: int | None) -> None:
    estimated = estimate_cost(CARD, PLAN, available_credits=available)

    assert estimated.first_unaffordable_line == runs_out_at
    assert estimated.is_affordable is (runs_out_at is None)


def test_an_empty_plan_costs_nothing() -> None:
    estimated = estimate_cost(CARD, [], available_credits=0)

    assert (estimated.credits, estimated.lines, estimated.is_affordable) == (0, (), True)


def test_a_plan_is_estimated_within_its_bounds_and_refused_beyond_them() -> None:
    full = [PlannedBlockRun("Ten", count=1_000_000)] * 1_000
    assert estimate_cost(CARD, full, available_credits=0).credits == 10_000_000_000

    with pytest.raises(InvalidInput, match="at most 1,000 lines"):
        estimate_cost(CARD, [*full, PlannedBlockRun("Ten")], available_credits=0)
    counted = [PlannedBlockRun("Ten", count=count) for count in (0, 1, 1_000_001, -1)]
    with pytest.raises(InvalidInput) as refusal:
        estimate_cost(CARD, counted, available_credits=0)
    assert [problem.path for problem in refusal.value.problems] == [f"blockRuns.{n}.count" for n in (0, 2, 3)]


@pytest.mark.parametrize(
    "plan", [[PlannedBlockRun("Gold", count=2)], [PlannedBlockRun("Gold"), PlannedBlockRun("Ten")]]
)
def test_a_sum_beyond_the_bound_is_refused(plan: list[PlannedBlockRun]) -> None:
    with pytest.raises(OutOfRange, match="The cost of this plan would exceed"):
        estimate_cost(CARD, plan, available_credits=MAX_CREDITS)


@pytest.mark.parametrize(
    ("run", "kind", "message"),
    [
        (
            PlannedBlockRun("Then"),
            PriceUnavailable,
            (
                'blockRuns.1: Rate card 7 has no price for block "Then". The block is not in the rate card. '
                'Did you mean "Ten"?'
            ),
        ),
        (
            PlannedBlockRun("Video"),
            MeasurementNeeded,
            'blockRuns.1: Block "Video" is priced by measurement: send measurements.seconds.',
        ),
        (
            PlannedBlockRun("Golden", measurements=Measurements(seconds=Decimal(10**6))),
            OutOfRange,
            (
                "blockRuns.1: The price of this block run would exceed 9,007,199,254,740,991 (2^53 - 1). Nothing was "
                "changed."
            ),
        ),
    ],
)
def test_a_line_without_a_price_refuses_the_plan_and_is_named(
    run: PlannedBlockRun, kind: type[RequestError], message: str
) -> None:
    with pytest.raises(kind) as refusal:
        estimate_cost(CARD, [PlannedBlockRun("Ten"), run], available_credits=100)

    assert str(refusal.value) == message
