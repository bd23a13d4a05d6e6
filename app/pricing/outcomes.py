"""The cost of a block run that did not succeed: the full price, nothing, or a fee.

A block run is charged before it runs. When it has ended, its executor reports the outcome, and the part of the charge
that exceeds the cost of the outcome is reversed. The rate card sets these costs for all blocks or for one; the default
is the full price.
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
"""The maximum cost of an outcome, in credits. An outcome that is None or missing costs the full price."""


def cost_after_outcome(outcomes: OutcomePrices, outcome: BlockRunOutcome, cost: int) -> int:
    """Return the cost, after its outcome, of a block run that was charged `cost` credits.

    It is never more than `cost`.
    """
    most = outcomes.get(outcome)
    return cost if most is None or outcome is BlockRunOutcome.SUCCEEDED else min(cost, most)
