"""Pagination, cursors and global ids."""

from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.execution import GraphQLRequest
from app.engine.global_ids import (
    INSTANT,
    INT32,
    KEY,
    LONG,
    UUID_HEX,
    PartType,
    decode_id,
    decode_parts,
    encode_id,
    encode_parts,
)
from app.engine.pagination import before_number, decode_cursor, encode_cursor, paginate
from app.errors import BadRequest
from tests.engine.sample_schema import ACCOUNT, USER, context, engine, utc

pytestmark = pytest.mark.anyio

INVALID = [
    "",
    "x",
    "%%%",
    "=",
    "WzFd\n",
    "A" * 5000,
    "é",
    "bnVsbA",  # null
    "e30",  # {}
    "W10",  # []
    "WzEuNV0",  # [1.5]
    "W3RydWVd",  # [true]
    urlsafe_b64encode(b'["Toy",7,"a\\u0000b"]').decode().rstrip("="),
    urlsafe_b64encode(b'["Toy", 7, "spaced"]').decode().rstrip("="),
    urlsafe_b64encode(b'["Toy",99999999999999999999999,"x"]').decode().rstrip("="),
    urlsafe_b64encode(b"[" * 500).decode().rstrip("="),
    urlsafe_b64encode(b"\xff\xfe").decode().rstrip("="),
]

PARTS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=60),
)


@settings(max_examples=60)
@given(st.lists(PARTS, min_size=1, max_size=5))
def test_encoded_parts_are_decoded_unchanged(parts: list[int | str]) -> None:
    assert decode_parts(encode_parts(*parts)) == tuple(parts)


@pytest.mark.parametrize("text", INVALID)
def test_an_invalid_text_is_not_decoded(text: str) -> None:
    assert decode_parts(text) is None


@settings(max_examples=60)
@given(st.text(max_size=60))
def test_any_text_is_decoded_or_rejected_without_an_error(text: str) -> None:
    found = decode_parts(text)
    assert found is None or encode_parts(*found) == text


def test_ids_of_the_maximum_length_fit() -> None:
    longest = "\U0001d4b3" * 255  # four bytes each in UTF-8
    assert decode_parts(encode_parts("BlockRun", 2**63 - 1, longest, longest[:100])) is not None


def test_a_cursor_is_decoded_to_its_position() -> None:
    assert decode_cursor(encode_cursor("entries", 7, 12, "x"), "entries", 7, (INT32, KEY)) == (12, "x")
    assert decode_cursor(encode_cursor("entries", 7, utc(2026, 1, 31)), "entries", 7, (INSTANT,)) == (utc(2026, 1, 31),)
    assert decode_cursor(None, "entries", 7, (INT32,)) is None


LONGEST_KEY = "\U0001d4b3" * 255
BOUNDS: list[tuple[PartType, list[int | str], list[int | str]]] = [
    (INT32, [0, 1, 2**31 - 1], [-1, 2**31, 2**53, 2**63 - 1, -(2**63), "1"]),
    (LONG, [0, 2**31, 2**53 - 1], [-1, 2**53, 2**63 - 1, -(2**63), "1"]),
    (KEY, ["x", "Ü-1", LONGEST_KEY], ["", "x" * 256, "a b", "a\x00b", "a\nb", "\u200b", 7]),
    (UUID_HEX, ["0123456789abcdef" * 2], ["", "0" * 31, "0" * 33, "G" * 32, "A" * 32, "0" * 31 + "\n", 7]),
]
"""For each type the parts that it accepts, and those that it refuses."""
REFUSED_TIMES = [
    "", "yesterday", "2026-01-31", "2026-01-31T00:00:00", "1999-12-31T23:59:59+00:00",
    "9999-01-01T00:00:00.000001+00:00", "9999-12-31T23:59:59.999999+00:00", "9999-12-31T23:59:59-23:59",
    "0001-01-01T00:00:00+00:00", "0001-01-01T00:00:00+23:59", "2026-01-31T00:00:00+00:00\x00",
]  # fmt: skip


@pytest.mark.parametrize(("part_type", "accepted", "refused"), BOUNDS, ids=[bound[0].name for bound in BOUNDS])
def test_a_cursor_contains_only_values_within_the_bounds_of_their_types(
    part_type: PartType, accepted: list[int | str], refused: list[int | str]
) -> None:
    for part in accepted:
        assert decode_cursor(encode_cursor("entries", 7, part), "entries", 7, (part_type,)) == (part,)
    for part in refused:
        with pytest.raises(BadRequest, match="after is not a cursor of this list"):
            decode_cursor(encode_cursor("entries", 7, part), "entries", 7, (part_type,))


@pytest.mark.parametrize("time", REFUSED_TIMES)
def test_a_cursor_with_an_invalid_time_is_refused(time: str) -> None:
    with pytest.raises(BadRequest, match="after is not a cursor of this list"):
        decode_cursor(encode_cursor("entries", 7, time), "entries", 7, (INSTANT,))


def test_a_time_of_another_offset_is_encoded_in_utc() -> None:
    local = datetime(2026, 1, 31, 13, tzinfo=timezone(timedelta(hours=1)))
    [found] = decode_cursor(encode_cursor("entries", 7, local), "entries", 7, (INSTANT,)) or ()
    assert (found, found.tzinfo) == (datetime(2026, 1, 31, 12, tzinfo=UTC), UTC)


@pytest.mark.parametrize(
    "foreign",
    [
        encode_cursor("grants", 7, 12),
        encode_cursor("entries", 8, 12),
        encode_cursor("entries", "7", 12),
        encode_cursor("entries", 7, "12"),
        encode_cursor("entries", 7, 12, 13),
        encode_cursor("entries", 7),
        *INVALID,
    ],
)
def test_a_cursor_of_another_list_or_account_is_refused(foreign: str) -> None:
    with pytest.raises(BadRequest, match="after is not a cursor of this list"):
        decode_cursor(foreign, "entries", 7, (INT32,))


@pytest.mark.parametrize(
    "text",
    [
        encode_id("Toy", 2**53, "x"),
        encode_id("Toy", -1, "x"),
        encode_id("Toy", 7, "x" * 256),
        encode_id("Toy", 7, "a b"),
        encode_id("Toy", 7, 8),
        encode_id("Toy", "7", "x"),
        encode_id("Toy", 7),
        encode_id("Toy", 7, "x", 1),
        encode_id("Ghost", 7, "x"),
        *INVALID,
    ],
)
def test_an_id_is_decoded_only_to_parts_of_its_node_type(text: str) -> None:
    assert decode_id(text, "Toy") is None
    assert decode_id(encode_id("Toy", 7, "x"), "Toy") == (7, "x")


async def execute(query: str, **variables: Any) -> Any:
    return (await engine.execute(GraphQLRequest(query, variables), context(USER))).payload


PAGE = """query ($first: Int!, $after: String) { toys(first: $first, after: $after) {
    edges { cursor node { name } } pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }"""


async def test_a_list_is_read_page_by_page() -> None:
    names: list[list[str]] = []
    ends: list[tuple[bool, bool]] = []
    after = None
    for _ in range(3):
        found = (await execute(PAGE, first=2, after=after))["data"]["toys"]
        names.append([edge["node"]["name"] for edge in found["edges"]])
        ends.append((found["pageInfo"]["hasPreviousPage"], found["pageInfo"]["hasNextPage"]))
        assert found["pageInfo"]["startCursor"] == found["edges"][0]["cursor"]
        after = found["pageInfo"]["endCursor"]
        assert after == found["edges"][-1]["cursor"]
    assert names == [["toy0", "toy1"], ["toy2", "toy3"], ["toy4"]]
    assert ends == [(False, True), (True, True), (True, False)]
    empty = (await execute(PAGE, first=2, after=after))["data"]["toys"]
    assert empty == {
        "edges": [],
        "pageInfo": {"hasNextPage": False, "hasPreviousPage": True, "startCursor": None, "endCursor": None},
    }


@pytest.mark.parametrize("first", [0, -1, 101, 2**31 - 1])
async def test_a_page_has_1_to_100_items(first: int) -> None:
    payload = await execute(PAGE, first=first)
    assert payload["errors"][0]["message"] == f"first must lie between 1 and 100; it is {first}."
    assert payload["errors"][0]["extensions"] == {"code": "BAD_USER_INPUT"}


async def test_an_invalid_cursor_is_bad_input() -> None:
    payload = await execute(PAGE, first=2, after="invalid")
    assert payload["errors"][0]["extensions"] == {"code": "BAD_USER_INPUT"}


NODE = "query ($id: ID!) { node(id: $id) { __typename id ... on Toy { name } } }"


async def test_a_node_is_fetched_by_its_id() -> None:
    bear = encode_id("Toy", ACCOUNT, "bear")
    assert await execute(NODE, id=bear) == {"data": {"node": {"__typename": "Toy", "id": bear, "name": "bear"}}}


@pytest.mark.parametrize(
    "text",
    [
        encode_id("Toy", ACCOUNT + 1, "bear"),
        encode_id("Ghost", ACCOUNT, "bear"),
        encode_id("Toy", ACCOUNT),
        encode_id("Toy", "7", "bear"),
        encode_parts(5, "bear"),
        *INVALID,
    ],
)
async def test_node_is_null_for_invalid_unknown_and_forbidden_ids(text: str) -> None:
    assert await execute(NODE, id=text) == {"data": {"node": None}}


async def test_a_page_is_read_from_the_position_in_the_cursor() -> None:
    first_at = datetime(2026, 1, 31, 12, tzinfo=UTC)
    rows = [(first_at + timedelta(seconds=number), f"row{number}") for number in range(5)]

    async def read(limit: int, position: tuple[datetime, str] | None) -> list[tuple[datetime, str]]:
        return [row for row in rows if position is None or row > position][:limit]

    async def page(after: str | None) -> Any:
        return await paginate(
            "rows",
            7,
            (INSTANT, KEY),
            first=3,
            after=after,
            read=read,
            position_of=lambda row: row,
            node_of=lambda row: row,
        )

    first = await page(None)
    rest = await page(first.page_info.end_cursor)
    assert [edge.node for edge in first.edges + rest.edges] == rows
    assert (first.page_info.has_next_page, rest.page_info.has_next_page) == (True, False)
    for made_up in (encode_cursor("rows", 7, "yesterday", "row1"), encode_cursor("rows", 7, "2026-01-31", "row1")):
        with pytest.raises(BadRequest, match="after is not a cursor of this list"):
            await page(made_up)


def test_a_first_page_in_descending_order_begins_below_the_maximum() -> None:
    assert [before_number(position, 10) for position in (None, (7,), (0,))] == [10, 7, 0]
