"""What a block run that did not succeed costs: the full price, nothing, or a fee.

A block run is charged before it runs. When it has ended, its executor reports the outcome, and the charge above the
cost of the outcome is given back. The rate card sets these costs for all blocks or for one; the default is the full
price.
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
"""The most that an outcome costs, in credits; None, and outcomes that are missing: the full price."""


def cost_after_outcome(outcomes: OutcomePrices, outcome: BlockRunOutcome, cost: int) -> int:
    """What a block run that was charged `cost` credits costs after its outcome: never more than `cost`."""
    most = outcomes.get(outcome)
    return cost if most is None or outcome is BlockRunOutcome.SUCCEEDED else min(cost, most)
