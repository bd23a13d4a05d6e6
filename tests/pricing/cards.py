"""Small rate cards for tests, parsed from documents like all rate cards."""

from datetime import UTC, datetime
from typing import Any

from app.pricing import rate_card_document
from app.pricing.quotes import Card

EFFECTIVE_AT = datetime(2025, 1, 1, tzinfo=UTC)


def a_card(*blocks: dict[str, Any], **parts: Any) -> Card:
    return rate_card_document.parse_rate_card({"blocks": list(blocks), **parts}, version=7, effective_at=EFFECTIVE_AT)


def a_card_with_rules(*rules: dict[str, Any]) -> Card:
    """A card whose one block, `Block`, has these rules."""
    return a_card({"block": "Block", "rules": list(rules)})


def matches(when: Any, settings: Any) -> bool:
    """The specification of matching, written for readability instead of speed."""
    for name, wanted in when.items():
        if isinstance(wanted, dict):
            inner = settings.get(name, {})  # under a missing object everything is missing
            if not isinstance(inner, dict) or not matches(wanted, inner):
                return False
        else:
            value = settings.get(name, False)  # false also matches a missing setting
            if value != wanted or isinstance(value, bool) != isinstance(wanted, bool):
                return False
    return True


def leaf_count(when: Any) -> int:
    return sum(leaf_count(wanted) if isinstance(wanted, dict) else 1 for wanted in when.values())
