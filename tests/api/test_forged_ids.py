"""Forged and damaged cursors and ids: every list and every id argument refuses them, or finds nothing.

The lists and the arguments are read from the schema. Ids and cursors are not signed, so a client can put any value into
their parts, including values that no column of the database can be compared with.
"""

import asyncio
import json
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from graphql import GraphQLObjectType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.engine.execution import OperationFailed
from app.engine.global_ids import decode_parts, encode_parts
from app.engine.pagination import filtered_list_name
from app.pricing.rate_card_cache import RateCardCache
from tests.api.callers import SCHEMA, document_of
from tests.api.conftest import ALICE, OPERATOR, SERVICE, Api
from tests.api.populated_account import KINDS, PopulatedAccount, populate_account
from tests.api.test_owner_scope import ARGUMENTS, variables_for

pytestmark = pytest.mark.anyio

INTEGERS = [
    0, 1, -1, 2**31 - 1, 2**31, -(2**31) - 1, 2**32, 2**53 - 1, 2**53, 2**63 - 1, -(2**63), 2**63, 2**64, -(2**64),
]  # fmt: skip
TIMES = [
    "2026-01-31T00:00:00", "2026-01-31T00:00:00+00:00", "2026-01-31T00:00:00+23:59", "1999-12-31T23:59:59.999999+00:00",
    "0001-01-01T00:00:00+00:00", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999+00:00",
    "9999-12-31T23:59:59.999999-23:59", "10000-01-01T00:00:00+00:00", "infinity", "-infinity",
]  # fmt: skip
TEXTS = [
    "", "x", "a b", "a\x00b", "\x00", "\ud800", "\u200b", "\u202e", "%00", "f" * 32, "x" * 65, "x" * 256, "x" * 1_900,
]  # fmt: skip
OTHERS = [None, True, 1.5, 1e308, [], [1], {"a": 1}]
VALUES: list[Any] = [*INTEGERS, *TIMES, *TEXTS, *OTHERS]

REACHED_BY = {
    "Query": "query($after: String) {{ {field} }}",
    "Account": 'query($after: String) {{ account(ownerId: "alice") {{ {field} }} }}',
    "Agent": 'query($after: String) {{ agent(ownerId: "alice", agentId: "alice-agent") {{ {field} }} }}',
    "Task": "query($after: String, $task: ID!) {{ task(taskId: $task) {{ {field} }} }}",
}
"""For each type with lists of an account, a document that reads one of them."""


def lists() -> Iterator[tuple[str, str, str]]:
    """Every field with a cursor, and each of its orders: the type, the name and its arguments."""
    for kind in SCHEMA.type_map.values():
        if isinstance(kind, GraphQLObjectType) and kind.name in REACHED_BY:
            for name, field in kind.fields.items():
                if "after" in field.args:
                    yield kind.name, name, "after: $after"
                if {"after", "order"} <= field.args.keys():
                    yield kind.name, name, "after: $after, order: HIGHEST_COST"


LISTS = list(lists())


def forge(parts: list[Any]) -> str:
    """Encode any parts as `encode_parts` does, or as JSON with escapes if they are not valid Unicode or too large."""
    try:
        return encode_parts(*parts)
    except TypeError:
        return urlsafe_b64encode(json.dumps(parts, separators=(",", ":")).encode()).decode().rstrip("=")


def with_each_part_replaced(text: str) -> Iterator[str]:
    """Ids or cursors like this one, in which one part has another value, is missing or is doubled."""
    parts = list(decode_parts(text) or ())
    for place in range(1, len(parts)):
        for value in VALUES:
            yield forge([*parts[:place], value, *parts[place + 1 :]])
        yield forge([*parts[:place], *parts[place + 1 :]])
        yield forge([*parts[:place], parts[place], *parts[place:]])


def codes(response: Mapping[str, Any]) -> set[str]:
    return {error["extensions"]["code"] for error in response.get("errors", ())}


@pytest.fixture
async def alice(api: Api, rate_cards: RateCardCache) -> PopulatedAccount:
    return await populate_account(api, rate_cards, "alice")


async def read_list(api: Api, alice: PopulatedAccount, listed: tuple[str, str, str], after: str | None) -> Any:
    kind, name, arguments = listed
    field = f"{name}({arguments}) {{ pageInfo {{ startCursor hasPreviousPage }} }}"
    variables = {"task": alice.platform_ids["taskId"]} if kind == "Task" else {}
    return await api.execute(OPERATOR, REACHED_BY[kind].format(field=field), after=after, **variables)


async def start_cursor(api: Api, alice: PopulatedAccount, listed: tuple[str, str, str]) -> str:
    """The cursor of the first item. The audit log and a few lists of this account have one page only."""
    [found] = (await read_list(api, alice, listed, None))["data"].values()
    while "pageInfo" not in found:
        [found] = found.values()
    cursor: str = found["pageInfo"]["startCursor"]
    assert cursor is not None, listed
    return cursor


FILTERS = {
    "kinds": "[GRANT]", "from": '"2020-01-01T00:00:00Z"', "to": '"2090-01-01T00:00:00Z"', "spendableOnly": "true",
    "openOnly": "false", "unreadOnly": "true", "status": "[RUNNING]", "order": "OLDEST", "ownerId": '"alice"',
    "actor": '"operator:otto"', "action": '"grantCredits"', "onlyFailed": "true",
}  # fmt: skip
"""For each argument that selects the items of a list, a value that is not its default."""


async def test_a_cursor_is_refused_with_any_other_filter(api: Api, alice: PopulatedAccount) -> None:
    await api.data(OPERATOR, GRANT, input=GRANTED)
    tried = set()
    for kind, name, arguments in LISTS:
        if arguments != "after: $after":
            continue
        cursor = await start_cursor(api, alice, (kind, name, arguments))
        for other in SCHEMA.type_map[kind].fields[name].args.keys() - {"first", "after"}:  # type: ignore[attr-defined]  # it has fields
            response = await read_list(api, alice, (kind, name, f"{arguments}, {other}: {FILTERS[other]}"), cursor)
            tried.add(f"{kind}.{name}({other})")
            [error] = response["errors"]
            assert error["extensions"]["code"] == "BAD_USER_INPUT", (kind, name, other)
            assert error["message"].endswith("use pageInfo.endCursor of the previous page, with the same filters.")
        assert codes(await read_list(api, alice, (kind, name, arguments), cursor)) == set()
    assert tried == {
        "Account.entries(kinds)", "Account.grants(spendableOnly)", "Account.holds(openOnly)",
        "Account.notifications(unreadOnly)", "Account.statement(from)", "Account.statement(kinds)",
        "Account.statement(to)", "Agent.tasks(order)", "Agent.tasks(status)", "Query.auditLog(action)",
        "Query.auditLog(actor)", "Query.auditLog(ownerId)",
    }  # fmt: skip


async def test_a_cursor_fits_filters_with_the_same_meaning(api: Api, alice: PopulatedAccount) -> None:
    first = ("Account", "statement", 'after: $after, kinds: [GRANT, CHARGE], from: "2020-01-01T00:00:00Z"')
    same = ("Account", "statement", 'after: $after, kinds: [CHARGE, GRANT, GRANT], from: "2020-01-01T01:00:00+01:00"')
    cursor = await start_cursor(api, alice, first)
    assert codes(await read_list(api, alice, same, cursor)) == set()


async def test_a_forged_cursor_of_any_list_is_refused_or_reads_a_page(api: Api, alice: PopulatedAccount) -> None:
    await api.data(OPERATOR, GRANT, input=GRANTED)
    assert {name for _, name, _ in LISTS} == {
        "agents", "auditLog", "blockRuns", "children", "entries", "grants", "holds", "notifications", "resumableTasks",
        "skippedStarts", "statement", "tasks", "topUps",
    }  # fmt: skip
    for listed in LISTS:
        genuine = await start_cursor(api, alice, listed)
        refused = 0
        for after in with_each_part_replaced(genuine):
            response = await read_list(api, alice, listed, after)
            assert codes(response) <= {"BAD_USER_INPUT"}, (listed, decode_parts(after), response)
            refused += bool(codes(response))
        assert refused > len(VALUES), listed
        assert codes(await read_list(api, alice, listed, genuine)) == set()


DEFAULT_FILTERS: Mapping[str, Mapping[str, object]] = {
    "auditLog": {"ownerId": None, "actor": None, "action": None},
    "entries": {"kinds": None},
    "grants": {"spendableOnly": False},
    "holds": {"openOnly": True},
    "notifications": {"unreadOnly": False},
    "statement": {"kinds": None, "from": None, "to": None},
    "tasks": {"order": "NEWEST", "status": None},
}

GRANT = "mutation($input: GrantCreditsInput!) { grantCredits(input: $input) { __typename } }"
GRANTED = {"ownerId": "alice", "credits": 1, "reason": "for the audit log", "idempotencyKey": "k"}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    listed=st.sampled_from(LISTS),
    position=st.lists(st.one_of(st.sampled_from(VALUES), st.integers(), st.text(max_size=40)), max_size=3),
)
async def test_a_cursor_with_any_position_is_refused_or_reads_a_page(
    api: Api, alice: PopulatedAccount, listed: tuple[str, str, str], position: list[Any]
) -> None:
    kind, name, _ = listed
    filters = DEFAULT_FILTERS.get(name)
    lists_of = {"Account": name, "Agent": f"{name}.alice-agent", "Task": f"{name}.{alice.platform_ids['taskId']}"}
    named = {"resumableTasks": "resumable", "skippedStarts": "skipped.alice-agent"}
    list_name = named.get(name) or lists_of.get(kind, name)
    if filters is not None:
        list_name = filtered_list_name(list_name, filters)
    account = 0 if kind == "Query" else alice.account_id
    response = await read_list(api, alice, listed, forge([list_name, account, *position]))
    assert codes(response) <= {"BAD_USER_INPUT"}, response


async def test_a_forged_id_of_any_node_is_null(api: Api, alice: PopulatedAccount) -> None:
    genuine = {**alice.node_ids, "AuditRecord": encode_parts("AuditRecord", 1)}
    assert set(genuine) == {*KINDS, "AuditRecord"}
    for text in [text for one in genuine.values() for text in with_each_part_replaced(one)]:
        for caller in (ALICE, OPERATOR):
            response = await api.execute(caller, "query($id: ID!) { node(id: $id) { __typename id } }", id=text)
            assert codes(response) == set(), (caller.actor, decode_parts(text), response)
            found = response["data"]["node"]
            assert found is None or found["id"] == text
            if any(isinstance(part, int) and part > 2**53 - 1 for part in decode_parts(text) or (2**63,)):
                assert found is None


async def test_a_forged_id_in_any_argument_is_not_a_fault(api: Api, alice: PopulatedAccount) -> None:
    roots = {"query": SCHEMA.query_type, "mutation": SCHEMA.mutation_type}
    node_types = {"grantId": "Grant", "topUpId": "TopUp", "notificationIds": "Notification", "id": "TopUp"}
    asked: set[str] = set()
    for kind, name, path in ARGUMENTS:
        if (root := roots.get(kind)) is None:
            continue
        node_type = node_types.get(path[-1])
        forged = with_each_part_replaced(alice.node_ids[node_type]) if node_type else ()
        for text in [*TEXTS, *forged]:
            variables = variables_for(root.fields[name], path, text)
            response = await api.execute(OPERATOR, document_of(kind, name, root.fields[name], variables), **variables)
            assert codes(response).isdisjoint({"INTERNAL", "UNAVAILABLE", "TIMED_OUT"}), (name, path, text, response)
            assert "InternalError" not in repr(response.get("data")), (name, path, text)
        asked.add(name)
    assert asked >= {"agent", "markNotificationsRead", "node", "refundTopUp", "revokeGrant", "task", "topUp"}


async def test_a_forged_id_in_a_subscription_is_refused(api: Api, alice: PopulatedAccount) -> None:
    assert SCHEMA.subscription_type is not None
    asked: set[str] = set()
    for kind, name, path in ARGUMENTS:
        if kind != "subscription":
            continue
        field = SCHEMA.subscription_type.fields[name]
        for text in [text for text in TEXTS if not (text.isascii() and text.isprintable() and 1 <= len(text) <= 255)]:
            variables = variables_for(field, path, text)
            caller = SERVICE if name == "taskSignals" else OPERATOR
            stream = api.subscribe(caller, document_of(kind, name, field, variables), **variables)
            with pytest.raises(OperationFailed) as refused:
                async with asyncio.timeout(2):
                    await anext(stream)
            assert {error["extensions"]["code"] for error in refused.value.errors} == {"BAD_USER_INPUT"}, (name, text)
        asked.add(name)
    assert asked >= {"balance", "notifications", "taskCost", "taskSignals"}
