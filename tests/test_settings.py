"""Bounds of the settings: every number fits the column, the scalar or the calculation that it goes into."""

import pytest
from pydantic import ValidationError

from app.settings import Settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOW_BALANCE_THRESHOLD", "9007199254740992"),
        ("LOW_BALANCE_THRESHOLD", "99999999999999999999"),
        ("LOW_BALANCE_THRESHOLD", "1e3"),
        ("MINOR_PER_CREDIT", "1000001"),
        ("TOP_UP_MAXIMUM", "1000000001"),
        ("TOP_UP_MINIMUM", "0"),
        ("RATE_PER_USER", "inf"),
        ("RATE_PER_ADDRESS", "nan"),
        ("RATE_PER_SERVICE", "1e400"),
        ("OPERATION_SECONDS", "inf"),
        ("SWEEP_SECONDS", "nan"),
    ],
)
def test_a_number_out_of_bounds_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ValidationError) as refused:
        Settings()

    assert [error["loc"] for error in refused.value.errors()] == [(name.lower(),)]


def test_the_largest_price_of_a_top_up_is_an_exact_number_of_json(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LOW_BALANCE_THRESHOLD": 2**53 - 1, "MINOR_PER_CREDIT": 10**6, "TOP_UP_MAXIMUM": 10**9}.items():
        monkeypatch.setenv(name, str(value))

    settings = Settings()

    assert settings.low_balance_threshold == 2**53 - 1
    assert settings.top_up_maximum * settings.minor_per_credit < 2**53
