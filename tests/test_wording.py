"""How values of callers are spelled in messages."""

from typing import Any

import pytest

from app.exact_json import InexactNumber
from app.wording import MAX_QUOTED_LENGTH, quote_value, reason_of, shorten_words


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (7, "7"),
        (0.5, "0.5"),
        ("text", '"text"'),
        ('a "quoted" one', r'"a \"quoted\" one"'),
        ("é 日本", '"é 日本"'),
        ("a\nb\x00", r'"a\nb\u0000"'),
        ("right\u202eleft", r'"right\u202eleft"'),
        ("\ud800", r'"\ud800"'),
        ({"$ne": None}, '{"$ne": null}'),
        ({"a": [1, True, {"b": "c"}], "d": {}}, '{"a": [1, true, {"b": "c"}], "d": {}}'),
        (("a", None), '["a", null]'),
        ([], "[]"),
        (InexactNumber("1e400"), "1e400"),
    ],
)
def test_a_value_is_spelled_as_json(value: Any, quoted: str) -> None:
    assert quote_value(value) == quoted


@pytest.mark.parametrize(
    "value",
    [
        "x" * 100_000,
        {"key": "x" * 100_000},
        {f"key {number}": number for number in range(100_000)},
        [[[[0] * 100_000] * 100]],
        10**4_000,
        InexactNumber("9" * 6_000),
    ],
    ids=["text", "text in an object", "many keys", "nested lists", "digits", "an inexact number"],
)
def test_a_long_value_is_cut(value: Any) -> None:
    quoted = quote_value(value)

    assert len(quoted) <= MAX_QUOTED_LENGTH + 2
    assert "…" in quoted


def test_a_value_of_any_depth_is_quoted() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]

    assert quote_value(deep) == "[" * (MAX_QUOTED_LENGTH - 1) + "…"


def test_only_long_words_of_a_message_are_cut() -> None:
    long = "x" * 1_000

    assert shorten_words(f"Cannot query field '{long}' on type 'Query'.") == (
        f"Cannot query field '{'x' * (MAX_QUOTED_LENGTH - 1)}…' on type 'Query'."
    )
    assert shorten_words("Short words stay. " * 20) == "Short words stay. " * 20


def test_a_number_of_more_digits_than_python_converts_is_described() -> None:
    assert quote_value({"a": 10**5_000}) == '{"a": a number with thousands of digits}'


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 5432)"), "Connect call failed"),
        (OSError("Both: [Errno 111] Connect call failed ('::1', 1, 0, 0)"), "Both: Connect call failed"),
        (ConnectionError("The server closed the connection"), "The server closed the connection"),
        (TimeoutError(), ""),
    ],
)
def test_the_reason_of_a_failed_connection_has_nothing_that_python_adds(failure: Exception, reason: str) -> None:
    assert reason_of(failure) == reason
