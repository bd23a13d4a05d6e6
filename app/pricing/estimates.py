"""Estimates: the cost of planned block runs, and the first of them that the balance cannot pay."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from app.credits import MAX_CREDITS, check_amount
from app.errors import (
    BalanceLimitReached,
    InvalidInput,
    MeasurementMissing,
    MeasurementNeeded,
    OutOfRange,
    PriceNotFound,
    PriceUnavailable,
    Problem,
)
from app.pricing.conditions import JSON
from app.pricing.measurements import Measurements
from app.pricing.quotes import Card, Quote, quote

MAX_LINES: Final = 1_000
MAX_COUNT: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class PlannedBlockRun:
    """`count` runs of one block with the same settings. Each run has the same `measurements`."""

    block: str
    settings: Mapping[str, JSON] | None = field(default_factory=dict)
    uses_own_key: bool = False
    measurements: Measurements | None = None
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateLine:
    """The cost of one planned line. `quote` is the price of one run; `credits` is the cost of all runs."""

    block: str
    count: int
    quote: Quote
    credits: int

    @property
    def credits_each(self) -> int:
        return self.quote.credits


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The cost of a plan.

    `first_unaffordable_line` is the position, from 0, of the first line that cannot be paid in full. None if all can be
    paid.
    """

    credits: int
    available_credits: int
    lines: tuple[EstimateLine, ...]
    first_unaffordable_line: int | None

    @property
    def is_affordable(self) -> bool:
        return self.first_unaffordable_line is None


def estimate_cost(card: Card, planned: Sequence[PlannedBlockRun], *, available_credits: int) -> Estimate:
    """Price the plan line by line, and pay the lines in order from `available_credits`.

    Raises: InvalidInput: more than 1,000 lines, or a count outside 1 to 1,000,000; PriceUnavailable, MeasurementNeeded:
    a line has no price; OutOfRange: a sum would exceed 2^53 - 1. Messages about a line begin with its path.
    """
    check_amount(available_credits, path="availableCredits", minimum=0)
    if len(planned) > MAX_LINES:
        raise InvalidInput.at("blockRuns", f"must be at most {MAX_LINES:,} lines; there are {len(planned):,}")
    problems = [
        Problem(f"blockRuns.{position}.count", f"must lie between 1 and {MAX_COUNT:,}")
        for position, run in enumerate(planned)
        if not 1 <= run.count <= MAX_COUNT
    ]
    if problems:
        raise InvalidInput(problems=problems)
    lines = tuple(_line(card, run, f"blockRuns.{position}") for position, run in enumerate(planned))
    spent = list(accumulate(line.credits for line in lines))
    total = spent[-1] if spent else 0
    if total > MAX_CREDITS:
        raise OutOfRange(BalanceLimitReached(figure="The cost of this plan").message)
    runs_out_at = next((position for position, so_far in enumerate(spent) if so_far > available_credits), None)
    return Estimate(
        credits=total, available_credits=available_credits, lines=lines, first_unaffordable_line=runs_out_at
    )


def _line(card: Card, run: PlannedBlockRun, path: str) -> EstimateLine:
    try:
        each = quote(card, run.block, run.settings, uses_own_key=run.uses_own_key, measurements=run.measurements)
    except PriceNotFound as error:
        raise PriceUnavailable(f"{path}: {error.message}") from None
    except MeasurementMissing as error:
        raise MeasurementNeeded(f"{path}: {error.message}") from None
    except BalanceLimitReached as error:
        raise OutOfRange(f"{path}: {error.message}") from None
    return EstimateLine(block=run.block, count=run.count, quote=each, credits=each.credits * run.count)
