"""What a block run that did not succeed costs: outcome prices in rate cards, and their effect."""

from typing import Any

import pytest

from app.pricing.outcomes import BlockRunOutcome, cost_after_outcome
from app.pricing.rate_card_json import default_rate_card
from tests.pricing.cards import a_card
from tests.pricing.test_rate_card_document import problems_of

FAILED, CANCELLED, PROVIDER_FAILED = BlockRunOutcome.FAILED, BlockRunOutcome.CANCELLED, BlockRunOutcome.PROVIDER_FAILED


def test_an_outcome_costs_the_full_price_nothing_or_a_fee() -> None:
    card = a_card(
        {"block": "Any", "credits": 9},
        {"block": "Own", "credits": 9, "outcomes": {"failed": "full", "cancelled": "nothing"}},
        {"block": "Ruled", "rules": [{"credits": 9}], "outcomes": {"provider_failed": {"fee": 5}}},
        free_blocks=["Note"],
        outcomes={"failed": {"fee": 2}, "provider_failed": "nothing"},
    )

    assert card.outcomes == {FAILED: 2, PROVIDER_FAILED: 0}
    assert (
        card.outcome_prices_of("Any")
        == card.outcome_prices_of("Note")
        == card.outcome_prices_of("unknown")
        == card.outcomes
    )
    assert card.outcome_prices_of("Own") == {FAILED: None, CANCELLED: 0, PROVIDER_FAILED: 0}
    assert card.outcome_prices_of("Ruled") == {FAILED: 2, PROVIDER_FAILED: 5}
    assert a_card({"block": "Any", "credits": 9}).outcome_prices_of("Any") == {}


@pytest.mark.parametrize(
    ("outcome", "cost", "found"),
    [
        (BlockRunOutcome.SUCCEEDED, 9, 9),
        (FAILED, 9, 2),
        (FAILED, 1, 1),
        (FAILED, 0, 0),
        (CANCELLED, 9, 9),
        (PROVIDER_FAILED, 9, 0),
    ],
)
def test_an_outcome_never_costs_more_than_the_charge_and_success_costs_the_charge(
    outcome: BlockRunOutcome, cost: int, found: int
) -> None:
    assert cost_after_outcome({BlockRunOutcome.SUCCEEDED: 0, FAILED: 2, PROVIDER_FAILED: 0}, outcome, cost) == found


@pytest.mark.parametrize(
    ("outcomes", "path", "message"),
    [
        ("full", "outcomes", "must be an object"),
        ({"succeeded": "nothing"}, "outcomes", 'has the unknown key "succeeded"; known are'),
        ({"FAILED": "full"}, "outcomes", 'has the unknown key "FAILED"; known are'),
        ({"failed": "half"}, "outcomes.failed", 'must be "full", "nothing" or {"fee": credits}'),
        ({"failed": 3}, "outcomes.failed", 'must be "full", "nothing" or {"fee": credits}'),
        ({"failed": {"fee": 0}}, "outcomes.failed.fee", "must be a whole number from 1"),
        ({"failed": {"fee": 1.5}}, "outcomes.failed.fee", "must be a whole number from 1"),
        ({"failed": {}}, "outcomes.failed", 'lacks "fee"'),
        ({"failed": {"fee": 1, "per": 2}}, "outcomes.failed", 'has the unknown key "per"'),
    ],
)
def test_an_invalid_outcome_is_reported_with_its_path(outcomes: Any, path: str, message: str) -> None:
    [(found, actual)] = problems_of({"blocks": [{"block": "A", "credits": 1}], "outcomes": outcomes})
    assert (found, actual[: len(message)]) == (path, message)
    [(found, actual)] = problems_of({"blocks": [{"block": "A", "credits": 1, "outcomes": outcomes}]})
    assert (found, actual[: len(message)]) == (f"blocks.0.{path}", message)


def test_a_failed_provider_costs_nothing_by_the_default_card() -> None:
    document = default_rate_card()
    assert document["outcomes"] == {"failed": "full", "cancelled": "full", "provider_failed": "nothing"}
