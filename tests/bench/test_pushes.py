"""Which push told of which charge."""

import json

import pytest

from bench.pacing import Charge
from bench.pushes import Arrival, told


def a_push(place: int, at: float, version: int) -> Arrival:
    message = {"id": "1", "type": "next", "payload": {"data": {"balance": {"available": 5, "version": version}}}}
    return Arrival(place, at, json.dumps(message).encode())


def test_a_charge_is_told_of_by_the_first_push_with_its_version_or_a_later_one() -> None:
    charges = [
        Charge(3, sent_at=10.0, answered_at=10.25, version=7),
        Charge(3, sent_at=10.125, answered_at=10.25, version=8),
    ]
    arrivals = [a_push(3, 9.0, 6), a_push(3, 10.5, 8), a_push(3, 11.0, 9)]

    found = told(charges, arrivals)

    assert (found.charges, found.pushes, found.unseen) == (2, 3, 0)
    assert found.p50_ms == 437.5  # of 500 and 375
    assert found.p99_ms == pytest.approx(498.75)
    assert (found.p50_after_answer_ms, found.p99_after_answer_ms) == (250.0, 250.0)


def test_another_accounts_push_tells_nothing() -> None:
    found = told([Charge(3, sent_at=10.0, answered_at=10.25, version=7)], [a_push(4, 10.5, 7), a_push(3, 10.5, 6)])

    assert (found.charges, found.pushes, found.unseen, found.p50_ms) == (1, 2, 1, 0.0)


def test_a_push_before_the_answer_took_no_time_after_it() -> None:
    found = told([Charge(3, sent_at=10.0, answered_at=10.5, version=7)], [a_push(3, 10.25, 7)])

    assert (found.p50_ms, found.p50_after_answer_ms) == (250.0, 0.0)
