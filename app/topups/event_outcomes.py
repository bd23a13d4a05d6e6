"""What becomes of a notice."""

from dataclasses import dataclass
from enum import StrEnum


class EventOutcome(StrEnum):
    """What became of a notice. The PARKED ones wait in the inbox for a person; nothing was credited.

    WAITING: it tells of a payment that is not settled yet, or of a refund for which an earlier one must have failed;
    it is tried again.
    """

    CREDITED = "CREDITED"
    DECLINED = "DECLINED"
    EXPIRED = "EXPIRED"
    REFUNDED = "REFUNDED"
    REFUND_FAILED = "REFUND_FAILED"
    DISPUTED = "DISPUTED"
    DISPUTE_WON = "DISPUTE_WON"
    DISPUTE_LOST = "DISPUTE_LOST"
    UNCHANGED = "UNCHANGED"
    DUPLICATE = "DUPLICATE"
    WAITING = "WAITING"
    PARKED_UNKNOWN = "PARKED_UNKNOWN"
    PARKED_MISMATCH = "PARKED_MISMATCH"
    PARKED_FAILED = "PARKED_FAILED"


@dataclass(eq=False)
class EventNotApplied(Exception):
    """A notice that does not fit our own rows, said before anything has moved: it is parked with this reason,
    or waits where the outcome says so.
    """

    reason: str
    outcome: EventOutcome = EventOutcome.PARKED_MISMATCH

    def __str__(self) -> str:
        return self.reason
