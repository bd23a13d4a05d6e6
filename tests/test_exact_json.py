"""JSON is parsed without rounding a number."""

import struct
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.exact_json import InexactNumber, is_exact, loads

EXACT: list[tuple[str, Any]] = [
    ("0", 0),
    ("9007199254740993", 2**53 + 1),
    ("18446744073709551615", 2**64 - 1),
    ("-9223372036854775808", -(2**63)),
    ("0.1", 0.1),
    ("0.10000000000000001", 0.1),  # as C prints it with %.17g
    ("0.30000000000000004", 0.1 + 0.2),
    ("1.0000000000000000", 1.0),
    ("1e3", 1000.0),
    ("1e100", 1e100),
    ("5e-324", 5e-324),
    ("1.7976931348623157e308", 1.7976931348623157e308),
]
INEXACT = [
    "18446744073709551616",
    "-9223372036854775809",
    "12345678901234567890123",
    "9007199254740993.0",
    "9007199254740991.4",
    "1.00000000000000001",
    "0.1000000000000000055",
    "1e-400",
    "4.9e-324",
    "1.2345678901234567890",
    "1234567890.12345678901",
    "9" * 300,
    "0." + "0" * 200 + "1",
]


@pytest.mark.parametrize(("text", "number"), EXACT)
def test_an_exact_number_is_parsed(text: str, number: float) -> None:
    for document in (f'{{"n":{text}}}', f'{{"n": {text} }}'):
        for found in (loads(document)["n"], loads(document.encode())["n"]):
            assert (found, type(found)) == (number, type(number))


@pytest.mark.parametrize("text", INEXACT)
@pytest.mark.parametrize("template", ['{"n":%s}', '{"n": \n%s}', '{"n":[0,%s]}', '{"n":[%s]}'])
def test_a_number_that_would_be_rounded_is_marked(text: str, template: str) -> None:
    for document in (template % text, (template % text).encode()):
        found = loads(document)["n"]
        assert (found[-1] if isinstance(found, list) else found) == InexactNumber(text)


@pytest.mark.parametrize(
    "text", ["1e400", "-1e999", "9" * 5_000, "NaN", "Infinity", "01", "1.", "[" * 2000, '"\\ud800"', ""]
)
def test_what_orjson_refuses_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        loads(text)


@pytest.mark.parametrize("text", ['" 12345678901234567890"', '{":1e999": "a:1e999"}', '"é: 1e100"'])
def test_digits_in_a_string_are_unchanged(text: str) -> None:
    assert loads(text) == loads(text.encode()) == orjson.loads(text)


def test_digits_of_a_deeply_nested_document_are_no_fault() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        loads("[" * 1000 + " 12345678901234567890123" + "]" * 1000)


@given(st.integers(-(2**70), 2**70))
def test_every_integer_is_exact_or_marked(number: int) -> None:
    found = loads(f"[{number}]")[0]
    assert found == (number if -(2**63) <= number < 2**64 else InexactNumber(str(number)))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_double_is_parsed_from_its_shortest_and_its_longest_text(number: float) -> None:
    for text in (repr(number), f"{number:.17g}", orjson.dumps(number).decode()):
        assert struct.pack("d", float(loads(f"[{text}]")[0])) == struct.pack("d", number) or number == 0


@given(st.decimals(allow_nan=False, allow_infinity=False, places=20))
def test_the_fast_path_accepts_only_exact_numbers(number: Any) -> None:
    text = f"{number:f}"
    assert isinstance(loads(f"[{text}]")[0], InexactNumber) == (not is_exact(text))


@given(st.integers(0, 10**15 - 1), st.integers(-99, 99))
def test_fifteen_digits_with_a_short_exponent_are_exact(digits: int, exponent: int) -> None:
    assert is_exact(f"{digits}e{exponent}")
