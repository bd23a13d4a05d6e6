"""Values at the bounds of each scalar, and values that exist in the account under test.

A value is JSON, `RawJson` or a `Reference`. `RawJson` is text that Python's JSON cannot express, such as 1e400. A
`Reference` stands for a value of the account that is used when the request is sent, possibly changed.
"""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from app.pricing.rate_card_json import default_rate_card


@dataclass(frozen=True, slots=True)
class RawJson:
    """A value as JSON text. It may be invalid JSON."""

    text: str


@dataclass(frozen=True, slots=True)
class Change:
    """A change of an encoded id or cursor: what is done, where, and with which value."""

    name: str
    position: int = 0
    value: Any = None


@dataclass(frozen=True, slots=True)
class Reference:
    """The value with this name in the account under test, or a value made of it."""

    name: str
    change: Change | None = None


INTEGERS: Final = tuple(
    sign * (2**bits + offset) for bits in (15, 31, 32, 53, 63, 64) for offset in (-1, 0, 1) for sign in (1, -1)
)
RAW_NUMBERS: Final = tuple(
    RawJson(text)
    for text in (
        *("1.0", "-0", "-0.0", "1e3", "1E+2", "0.1", "9007199254740993.0", "12345678901234567890123", "1" + "0" * 400),
        *("9" * 5_000, "-" + "9" * 5_000),
        *("1e400", "-1e400", "1e-400", "5e-324", "1.7976931348623157e308", "NaN", "Infinity", "00", "0x10", "1_000"),
    )
)
NUMBERS: Final = (0, 1, -1, 2, 99, 100, 101, 255, 256, 1000, 1001, *INTEGERS, *RAW_NUMBERS)
OTHER_TYPES: Final[tuple[Any, ...]] = (None, True, "", "1", "x", [], {}, [None], [[1]], {"a": 1})
TEXTS: Final = (
    *(
        "",
        " ",
        "a b",
        "a\nb",
        "\t",
        "x" * 255,
        "x" * 256,
        "é" * 255,
        "😀" * 255,
        "x" * 5_000,
        "\x00",
        "a\x00b",
        "\x1b[0m",
    ),
    *("\u200b", "a\u200bb", "\u202ealice", "\ufeff", "\u3164", "\ufe0f", "\ud800", "a\udfff", "\U0010ffff", "e\u0301"),
    *("'; DROP TABLE account; --", "%s%n{0}", "../../etc/passwd", "null", "NaN", "infinity", "-1", "1e400"),
)
IDS: Final = (*TEXTS, *NUMBERS, True, None, [], {}, 1.5)
INSTANTS: Final = (
    *("2000-01-01T00:00:00Z", "1999-12-31T23:59:59.999999Z", "9999-01-01T00:00:00Z", "9999-01-01T00:00:00.000001Z"),
    *("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-23:59"),
    *("9999-12-31T23:59:59.9999999Z", "9999-01-01T00:00:00+00:01", "9998-12-31T23:59:59.999999-23:59"),
    *("2026-12-31T23:59:60Z", "2016-12-31T24:00:00Z", "2026-02-29T00:00:00Z", "2028-02-29T00:00:00Z", "infinity"),
    *("2027-01-01T00:00:00.1234567Z", "2027-01-01", "2027-01-01T00:00:00", "2027-W01-1T00:00:00Z", "20270101T000000Z"),
    *("2027-01-01T00:00:00+00:00:30", "2027-01-01T00:00:00+24:00", "10000-01-01T00:00:00Z", "-0001-01-01T00:00:00Z"),
    *(
        "now",
        "epoch",
        "2027-01-01T00:00:00z",
        "\uff12027-01-01T00:00:00Z",
        "2027-01-01T00:00:00Z\x00",
        0,
        1e18,
        True,
        None,
    ),
)
VALID_INSTANTS: Final = (
    "2026-01-31T12:00:00Z",
    "2000-01-01T00:00:00Z",
    "9999-01-01T00:00:00Z",
    "2031-01-01T00:00:00+02:00",
)


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = {"a": value} if level % 2 else [value]
    return value


JSON_VALUES: Final = (
    *({}, [], None, True, "", "x" * 9_000, {"a": "x" * 8_000}, {"": 1}, {"a b": 1}, {"\x00": 1}, {"a": "\x00"}),
    *({"a": "\ud800"}, {"\udfff": 1}, nested(7), nested(8), nested(9), {"a": nested(200)}, {"a": list(range(1_000))}),
    *({f"k{number}": number for number in range(500)}, {"model": nested(5)}, {"__proto__": {"a": 1}}),
    *({"model": number} for number in (*INTEGERS, *RAW_NUMBERS)),
    *(RawJson('{"model": "gpt-4o", "model": "o1"}'), RawJson('{"a": NaN}'), RawJson("{1: 2}"), RawJson('{"a": -0}')),
    *({"raw_content": value} for value in (*OTHER_TYPES, 0, 0.0, 1, RawJson("1.0"))),
)
VALID_SETTINGS: Final[tuple[Any, ...]] = (
    {"model": "o3-mini"},
    {"model": "o1", "x": [1.5, {"y": None}]},
    {"raw_content": False},
    {},
    None,
)

DECIMALS: Final = ("0", "0.01", "10000000", "10000000.01", "-1", "1e400", "1e-400", "1e999999999", "NaN", "Infinity",
    ".5", "1" * 64, "0." + "0" * 63 + "1", "1" * 5_000, "1,5", "\u0661", "-0", "1e", "")  # fmt: skip
TIME_ZONES: Final = ("Europe/Zurich", "Pacific/Apia", "America/New_York", "GMT+14", "Etc/GMT-14", "posixrules", "/UTC")
URLS: Final = (
    "https://shop.example/x",
    "http://[",
    "javascript:alert(1)",
    "https://" + "a" * 3_000,
    "//x",
    "https://x:99999",
)

CARD: Final[Mapping[str, Any]] = {
    **default_rate_card(),
    "blocks": [
        *default_rate_card()["blocks"],
        {"block": "ItemBlock", "credits": 1, "unit": "item"},
        {"block": "SecondBlock", "credits": 3, "unit": "second", "per": 10},
        {"block": "ByteBlock", "credits": 1, "unit": "byte", "per": 1_000_000},
        {"block": "DollarBlock", "credits": 120, "unit": "usd"},
        {"block": "OutcomeBlock", "credits": 9, "outcomes": {"failed": {"fee": 2}, "cancelled": "nothing"}},
    ],
}
"""The rate card of the server under test: the default card, and a block with each unit."""


def rate_cards() -> SearchStrategy[Any]:
    """The rate card of the server with one more block, or with a part that is replaced or added."""
    values = st.sampled_from((*NUMBERS, *TEXTS, *OTHER_TYPES, *JSON_VALUES))
    block = {"block": "AddedBlock", "credits": 1, "unit": "item", "per": 5}
    parts = st.sampled_from((*block, "when", "rules", "outcomes", "provider", "x"))
    added = st.one_of(
        st.builds(lambda name, value: block | {name: value}, parts, values),
        st.builds(lambda name, value: {"block": "B", "rules": [{"credits": 1}, block | {name: value}]}, parts, values),
        st.builds(lambda value: {"block": "B", "rules": [{"credits": 1, "when": {"a": value}}]}, values),
    )
    return st.one_of(
        added.map(lambda block: {**CARD, "blocks": [*CARD["blocks"], block]}),
        st.builds(lambda name, value: {**CARD, name: value}, st.sampled_from((*CARD, "x", "")), values),
        st.sampled_from((*OTHER_TYPES, *NUMBERS, RawJson('{"blocks": [], "blocks": []}'))),
    )


SCALARS: Final[Mapping[str, Sequence[Any]]] = {
    "Int": (*NUMBERS, *OTHER_TYPES),
    "Long": (*NUMBERS, *OTHER_TYPES),
    "Credits": (*NUMBERS, *OTHER_TYPES),
    "Float": (*NUMBERS, *OTHER_TYPES, RawJson("31622400.0001"), 31_622_400),
    "Boolean": (0, 1, "true", *OTHER_TYPES),
    "ID": IDS,
    "String": (*TEXTS, *DECIMALS, *TIME_ZONES, *URLS, *NUMBERS[:4], *OTHER_TYPES),
    "DateTime": INSTANTS,
    "JSON": JSON_VALUES,
}
"""Values at and beyond the bounds of each scalar."""

LISTS: Final = (
    *("agents", "statement", "entries", "grants", "holds", "resumableTasks", "notifications", "topUps"),
    *("tasks", "skippedStarts", "children", "blockRuns", "auditLog"),
)
NODES: Final = ("Account", "Agent", "AuditRecord", "Balance", "BlockRun", "Entry", "Grant", "Hold", "Notification",
    "Task", "TaskCost", "TopUp")  # fmt: skip
PARTS: Final = (
    *NUMBERS,
    *OTHER_TYPES,
    *(text for text in INSTANTS if isinstance(text, str)),
    *("x" * 255, "x" * 2_000, "a\x00", "\ud800", "\u200b", "0" * 32, "g" * 32, "Entry", "statement"),
)
CHANGES: Final[SearchStrategy[Change]] = st.one_of(
    st.builds(Change, st.sampled_from(("cut", "flip", "extend")), st.integers(0, 300)),
    st.builds(Change, st.sampled_from(("replace", "insert")), st.integers(0, 6), st.sampled_from(PARTS)),
    st.builds(Change, st.just("remove"), st.integers(0, 6)),
    st.builds(Change, st.just("wrap"), st.just(0), st.sampled_from((None, 1, "a", {}))),
)


def encoded(names: Sequence[str]) -> SearchStrategy[Any]:
    """Ids or cursors with these names: changed ones, those of another kind, and text that is none."""
    reference = st.sampled_from(names)
    return st.one_of(
        st.builds(Reference, reference, CHANGES),
        st.builds(Reference, reference),
        st.sampled_from((*IDS, "AAAA", "bnVsbA")),
    )


def apply_change(text: str, change: Change) -> str:
    """The id or cursor `text`, changed."""
    raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    match change.name:
        case "cut":
            return text[: -1 - change.position % len(text)]
        case "flip":
            flipped = bytearray(raw)
            flipped[change.position // 8 % len(raw)] ^= 1 << change.position % 8
            return encode(bytes(flipped))
        case "extend":
            return text + "A" * change.position
        case "wrap":
            return encode(to_json([json.loads(raw), change.value]).encode())
    parts: list[Any] = json.loads(raw)
    at = change.position % (len(parts) + (change.name == "insert"))
    if change.name != "insert":
        del parts[at]
    if change.name != "remove":
        parts.insert(at, change.value)
    return encode(to_json(parts).encode())


def encode(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def to_json(value: Any) -> str:
    """The JSON text of a value."""
    match value:
        case RawJson():
            return value.text
        case dict():
            return "{" + ",".join(f"{json.dumps(name)}:{to_json(part)}" for name, part in value.items()) + "}"
        case list() | tuple():
            return "[" + ",".join(map(to_json, value)) + "]"
    return json.dumps(value)


def replace_references(value: Any, find: Callable[[str], Any]) -> Any:
    """The value without references. `find` returns the value with a name."""
    match value:
        case Reference(name, None):
            return find(name)
        case Reference(name, Change() as change):
            return apply_change(find(name), change)
        case dict():
            return {name: replace_references(part, find) for name, part in value.items()}
        case list():
            return [replace_references(part, find) for part in value]
    return value
