"""Which push told of which charge, and how long that took."""

import json
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.pacing import Charge
from bench.tally import percentile


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message of a subscriber, as it came."""

    place: int
    at: float
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What subscribers saw of some charges: from the sending of a charge, and from its answer, to the first push with
    its version or a later one. A push may arrive before the answer: that counts as 0."""

    charges: int
    pushes: int
    unseen: int
    """Charges that no push told of."""
    p50_ms: float
    p99_ms: float
    p50_after_answer_ms: float
    p99_after_answer_ms: float


def told(charges: Sequence[Charge], arrivals: Iterable[Arrival]) -> Told:
    """Arrivals in the order in which they came."""
    seen: dict[int, list[tuple[int, float]]] = {}
    pushes = 0
    for arrival in arrivals:
        pushes += 1
        seen.setdefault(arrival.place, []).append((version_of(arrival.payload), arrival.at))
    after_sending, after_answer = [], []
    for charge in charges:
        of_account = seen.get(charge.place, [])
        found = bisect_left(of_account, charge.version, key=lambda push: push[0])
        if found < len(of_account):
            at = of_account[found][1]
            after_sending.append((at - charge.sent_at) * 1_000)
            after_answer.append(max(at - charge.answered_at, 0.0) * 1_000)
    return Told(
        charges=len(charges),
        pushes=pushes,
        unseen=len(charges) - len(after_sending),
        p50_ms=percentile(after_sending, 50),
        p99_ms=percentile(after_sending, 99),
        p50_after_answer_ms=percentile(after_answer, 50),
        p99_after_answer_ms=percentile(after_answer, 99),
    )


def version_of(payload: bytes) -> int:
    """Of the balance in a `next` message."""
    return int(json.loads(payload)["payload"]["data"]["balance"]["version"])
