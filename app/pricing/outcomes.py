"""What a block run costs that did not succeed: in full, nothing, or a fee. The card says so, for all blocks or for one.

A block run is charged before it runs. Once it has ended its executor says how, and what it was charged above what the
outcome costs goes back. Where a card says nothing an outcome costs what success does.
"""

from collections.abc import Mapping
from enum import StrEnum


class BlockRunOutcome(StrEnum):
    """How a block run ended."""

    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    PROVIDER_FAILED = "PROVIDER_FAILED"


OutcomePrices = Mapping[BlockRunOutcome, int | None]
"""The most that an outcome costs, in credits: 0 is nothing, None is in full. An outcome that is not named: in full."""


def cost_after_outcome(outcomes: OutcomePrices, outcome: BlockRunOutcome, cost: int) -> int:
    """What a block run costs that was charged `cost` and ended so: never more than it was charged."""
    most = outcomes.get(outcome)
    return cost if most is None or outcome is BlockRunOutcome.SUCCEEDED else min(cost, most)
