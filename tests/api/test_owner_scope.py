"""Owner scope: for every argument that takes an id, objects of another owner are reported like missing ones.

The response and the SQL statements must be the same. The arguments are read from the schema; Alice sends ids of Bob's
objects and ids that do not exist.
"""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
from graphql import GraphQLField, GraphQLInputObjectType, get_named_type, is_required_input_field

from app.api import owner_scope as api_owner_scope
from app.api.accounts import account, balance
from app.api.tasks import agents, lifecycle
from app.api.topups import mutations as top_up_mutations
from app.db import pools
from app.engine.global_ids import decode_parts, encode_id
from app.errors import Forbidden, TaskNotFound
from app.ledger import accounts as ledger_accounts
from app.ledger import low_balance, owner_scope
from app.pricing.rate_card_cache import RateCardCache
from app.settings import Settings
from app.tasks import queries as tasks
from app.tasks import stop_and_resume
from app.tasks.stop_and_resume import ResumeTaskRequest
from app.topups import queries as top_ups
from app.topups.auto_topup import configuration
from app.topups.auto_topup.configuration import ConfigureRequest
from app.topups.auto_topup.rules import AutoTopUpConfig
from app.topups.rules import TopUpTerms
from tests.api.callers import (
    SCHEMA,
    TRANSPORTS,
    Transports,
    arguments_of,
    document_of,
    open_transports,
    operations,
    value_of,
)
from tests.api.conftest import ALICE, BOB, OPERATOR, Api
from tests.api.populated_account import KINDS, PopulatedAccount, populate_account, record_statements

pytestmark = pytest.mark.anyio
__all__ = ["record_statements"]

ID_TYPES = {"ID"}


def ids_of(field: GraphQLField) -> Iterator[tuple[str, ...]]:
    """The path of every argument and input field that takes an id."""
    for name, argument in field.args.items():
        kind = get_named_type(argument.type)
        if kind.name in ID_TYPES:
            yield (name,)
        elif isinstance(kind, GraphQLInputObjectType):
            for inner, member in kind.fields.items():
                if get_named_type(member.type).name in ID_TYPES:
                    yield (name, inner)


ARGUMENTS = [
    (kind, name, path)
    for kind, name, field in operations()
    for path in ids_of(field)
    if path[-1] != "endpointId"  # webhook endpoints belong to no owner
]
NAMED = {".".join((name, *path)) for _, name, path in ARGUMENTS}


def ids_for(world: PopulatedAccount, name: str, path: tuple[str, ...]) -> list[str]:
    """The ids of this account that the argument can take."""
    if name == "node":
        return [world.node_ids[kind] for kind in KINDS]
    if name == "resumeTask":
        return [world.platform_ids["stopped"]]
    others = {"taskIds": "taskId", "parentTaskId": "taskId", "ownerIds": "ownerId"}
    by_node = {"id": "TopUp", "topUpId": "TopUp", "notificationIds": "Notification", "grantId": "Grant"}
    argument = path[-1]
    return [
        world.node_ids[by_node[argument]] if argument in by_node else world.platform_ids[others.get(argument, argument)]
    ]


def absent(found: str, own: PopulatedAccount) -> list[str]:
    """Ids of the same form that do not exist: of an unknown account and, if possible, of the caller's own account."""
    parts = decode_parts(found)
    if parts is None:
        return [f"no-such-{len(found)}"]
    kind, *rest = parts
    if isinstance(rest[0], str):
        return [encode_id(str(kind), "nobody", *rest[1:])]
    last = rest[-1]
    missing = 10**6 if isinstance(last, int) else "f" * len(last)
    return [encode_id(str(kind), 10**9, *rest[1:]), encode_id(str(kind), own.account_id, missing)]


def variables_for(field: GraphQLField, path: tuple[str, ...], value: str) -> dict[str, Any]:
    """The required variables of a field, with this id at `path`."""
    variables = arguments_of(field)
    if len(path) == 1:
        listed = "[" in str(field.args[path[0]].type)
        variables[path[0]] = [value] if listed else value
        return variables
    kind = get_named_type(field.args[path[0]].type)
    assert isinstance(kind, GraphQLInputObjectType)
    many = "[" in str(field.args[path[0]].type)
    input = {one: value_of(member.type) for one, member in kind.fields.items() if is_required_input_field(member)}
    input[path[1]] = [value] if "[" in str(kind.fields[path[1]].type) else value
    variables[path[0]] = [input] if many else input
    return variables


def without(answer: Any, *ids: str) -> str:
    """The response as text, without the requested ids."""
    text = repr(answer)
    for one in ids:
        text = text.replace(one, "ID")
    return text


@pytest.fixture
async def transports(api: Api) -> AsyncIterator[Transports]:
    async with open_transports(api) as made:
        yield made


@pytest.fixture
async def alice(api: Api, rate_cards: RateCardCache) -> PopulatedAccount:
    return await populate_account(api, rate_cards, "alice")


@pytest.fixture
async def bob(api: Api, rate_cards: RateCardCache) -> PopulatedAccount:
    return await populate_account(api, rate_cards, "bob")


def test_every_id_argument_of_the_schema_is_covered() -> None:
    assert {path[-1] for _, _, path in ARGUMENTS} == {
        "id", "ownerId", "ownerIds", "agentId", "taskId", "taskIds", "parentTaskId", "blockRunId", "topUpId", "grantId",
        "notificationIds",
    }  # fmt: skip
    assert len(NAMED) >= 38


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_objects_of_another_owner_are_reported_like_missing_ones_by_the_same_statements(
    transports: Transports, alice: PopulatedAccount, bob: PopulatedAccount, transport: str, record_statements: Any
) -> None:
    asked_the_database = set()
    fields = {(kind, name): field for kind, name, field in operations()}
    for kind, name, path in ARGUMENTS:
        if kind == "subscription" and transport == "HTTP":
            continue
        field = fields[kind, name]

        async def ask(value: str) -> tuple[str, list[str]]:
            variables = variables_for(field, path, value)  # noqa: B023  awaited at once
            document = document_of(kind, name, field, variables)  # noqa: B023  as above
            with record_statements() as sent:
                if kind == "subscription" and transport == "WebSocket":  # noqa: B023  as above
                    answer: Any = await transports.read_subscription("user", document, **variables)
                else:
                    answer = await transports.execute(transport, "user", document, **variables)
            return without(answer, value), sent

        for foreign_id in ids_for(bob, name, path):
            found, statements = await ask(foreign_id)
            assert "INTERNAL" not in found
            if statements:
                asked_the_database.add(name)
            for missing in absent(foreign_id, alice):
                assert await ask(missing) == (found, statements), (kind, name, path, foreign_id)
    assert asked_the_database >= {
        "node", "task", "tasks", "topUp", "cancelTask", "resumeTask", "confirmTopUp", "markNotificationsRead",
    }  # fmt: skip


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_aliases_and_fragments_in_one_request_reveal_no_difference(
    transports: Transports, alice: PopulatedAccount, bob: PopulatedAccount, transport: str, record_statements: Any
) -> None:
    async def ask(query: str, **variables: str) -> tuple[Any, list[str]]:
        with record_statements() as sent:
            return await transports.execute(transport, "user", query, **variables), sent

    for kind in KINDS:
        foreign_id = bob.node_ids[kind]
        for missing in absent(foreign_id, alice):
            query = """query($foreign: ID!, $missing: ID!) {
                foreign: node(id: $foreign) { ...Seen } missing: node(id: $missing) { ...Seen } ...Again }
                fragment Seen on Node { __typename id }
                fragment Again on Query { again: node(id: $foreign) { ... on Node { id } } }"""
            answer, statements = await ask(query, foreign=foreign_id, missing=missing)
            assert answer == {"data": {"foreign": None, "missing": None, "again": None}}, kind
            assert await ask(query, foreign=missing, missing=missing) == (answer, statements), kind
    query = """query($foreign: ID!) { foreign: task(taskId: $foreign) { ...Seen }
        missing: task(taskId: "no") { ...Seen }
        both: tasks(taskIds: [$foreign, "no"]) { ...Seen } } fragment Seen on Task { taskId cost { total } }"""
    answer, statements = await ask(query, foreign=bob.platform_ids["taskId"])
    assert answer == {"data": {"foreign": None, "missing": None, "both": [None, None]}}
    assert statements
    assert await ask(query, foreign="another") == (answer, statements)


async def test_the_owner_and_an_operator_find_every_node(
    transports: Transports, bob: PopulatedAccount, api: Api
) -> None:
    """Makes sure that the tests above compare objects that exist."""
    for kind in KINDS:
        query = "query($id: ID!) { node(id: $id) { __typename id } }"
        assert (await api.data(BOB, query, id=bob.node_ids[kind]))["node"] == {
            "__typename": kind,
            "id": bob.node_ids[kind],
        }
        assert (await api.data(OPERATOR, query, id=bob.node_ids[kind]))["node"]["id"] == bob.node_ids[kind]


# Cursors


IN_ACCOUNT = {
    "agents": "agents", "statement": "statement", "entries": "entries", "grants": "grants", "holds": "holds",
    "resumableTasks": "resumableTasks", "topUps": "topUps", "notifications": "notifications",
}  # fmt: skip
LISTS = {
    **{f"Account.{name}": f"query($after: String) {{ account {{ page: {name}(first: 1, after: $after) PAGE }} }}"
       for name in IN_ACCOUNT},
    "Agent.tasks": "query($after: String) { agent(agentId: AGENT) { page: tasks(first: 1, after: $after) PAGE } }",
    "Agent.skippedStarts":
        "query($after: String) { agent(agentId: AGENT) { page: skippedStarts(first: 1, after: $after) PAGE } }",
    "Task.children": "query($after: String) { task(taskId: TASK) { page: children(first: 1, after: $after) PAGE } }",
    "Task.blockRuns": "query($after: String) { task(taskId: TASK) { page: blockRuns(first: 1, after: $after) PAGE } }",
}  # fmt: skip
"""A query for the first page of every list that a user can read."""


def listed(name: str, world: PopulatedAccount) -> str:
    return (
        LISTS[name]
        .replace("PAGE", "{ pageInfo { endCursor hasNextPage } edges { cursor } }")
        .replace("AGENT", f'"{world.platform_ids["agentId"]}"')
        .replace("TASK", f'"{world.platform_ids["taskId"]}"')
    )


def test_every_list_of_the_schema_is_covered() -> None:
    found = {
        f"{kind.name}.{name}"
        for kind in SCHEMA.type_map.values()
        for name, field in getattr(kind, "fields", {}).items()
        if "after" in getattr(field, "args", {})
    }
    assert found == set(LISTS) | {"Query.auditLog", "WebhookEndpoint.deliveries"}  # for operators only


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_cursor_of_another_account_or_a_changed_cursor_is_refused(
    transports: Transports, api: Api, alice: PopulatedAccount, bob: PopulatedAccount, transport: str
) -> None:
    for name in LISTS:
        [foreign_id] = (await api.data(BOB, listed(name, bob))).values()
        [own_page] = (await api.data(ALICE, listed(name, alice))).values()
        assert own_page["page"]["pageInfo"]["hasNextPage"], name
        cursor = own_page["page"]["pageInfo"]["endCursor"]
        again = await transports.execute(transport, "user", listed(name, alice), after=cursor)
        assert "errors" not in again, name
        flipped = cursor[:-1] + ("A" if cursor[-1] != "A" else "B")
        for changed in (foreign_id["page"]["pageInfo"]["endCursor"], flipped, cursor[:-1], cursor + "A", "", "x", "é"):
            answer = await transports.execute(transport, "user", listed(name, alice), after=changed)
            [error] = answer["errors"]
            assert error["extensions"]["code"] == "BAD_USER_INPUT", (name, changed)
            assert error["message"].startswith("after is "), (name, changed)


# The second check: SQL statements are limited to the caller's owners


async def test_a_query_without_its_permission_check_still_finds_nothing(
    api: Api, bob: PopulatedAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (account, agents, balance, api_owner_scope):
        monkeypatch.setattr(module, "resolve_owner", lambda _context, owner_id: owner_id)
    monkeypatch.setattr(api_owner_scope, "check_can_change", lambda *_: None)
    query = """{ account(ownerId: "bob") { balance { posted version } entries { edges { cursor } }
        grants { edges { cursor } } topUps { edges { cursor } } agents { edges { cursor } } }
        agent(ownerId: "bob", agentId: "bob-agent") { agentId } }"""
    nothing: dict[str, Any] = {"edges": []}
    assert await api.data(ALICE, query) == {
        "account": {
            "balance": {"posted": 0, "version": 0}, "entries": nothing, "grants": nothing, "topUps": nothing,
            "agents": nothing,
        },
        "agent": None,
    }  # fmt: skip
    for kind in set(KINDS) - {"Account", "Balance"}:
        node = "query($id: ID!) { node(id: $id) { id } }"
        assert (await api.data(ALICE, node, id=bob.node_ids[kind]))["node"] is None, kind
    mark = """mutation { markNotificationsRead(input: {ownerId: "bob"}) {
        ... on MarkNotificationsReadSuccess { notifications { id } } } }"""
    assert await api.data(ALICE, mark) == {"markNotificationsRead": {"notifications": []}}
    stream = api.subscribe(ALICE, 'subscription { balance(ownerId: "bob") { posted version } }')
    assert (await anext(stream))["data"] == {"balance": {"posted": 0, "version": 0}}
    await stream.aclose()


async def test_a_task_mutation_without_its_permission_check_changes_nothing(
    api: Api, bob: PopulatedAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def find_owner(_context: object, _input: object) -> str:
        return "alice"

    monkeypatch.setattr(lifecycle, "_find_owner", find_owner)
    member = replace(ALICE, organisations=frozenset({"bob"}))  # may read, but not change
    for caller, name, task in (
        (ALICE, "cancelTask", bob.platform_ids["taskId"]),
        (ALICE, "resumeTask", bob.platform_ids["stopped"]),
        (member, "cancelTask", bob.platform_ids["taskId"]),
        (member, "resumeTask", bob.platform_ids["stopped"]),
    ):
        kind = name[0].upper() + name[1:]
        answer = await api.data(
            caller,
            f"mutation($input: {kind}Input!) {{ {name}(input: $input) {{ __typename }} }}",
            input={"taskId": task},
        )
        assert answer == {name: {"__typename": "TaskNotFoundError"}}
    found = await tasks.find_tasks([bob.platform_ids["taskId"], bob.platform_ids["stopped"]], owner_ids=None)
    assert {owned.task.status for owned in found.values() if isinstance(owned, tasks.OwnedTask)} == {
        "RUNNING",
        "STOPPED",
    }


async def test_an_account_mutation_without_its_permission_check_is_refused_by_the_ledger(
    api: Api, bob: PopulatedAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_owner_scope, "resolve_owner", lambda _context, owner_id: owner_id)
    monkeypatch.setattr(api_owner_scope, "check_can_change", lambda *_: None)
    monkeypatch.setattr(top_up_mutations, "_owner_to_configure", lambda _context, input: input.owner_id)
    before = await everything_of(bob)
    on = {"threshold": 100, "amount": 500, "maxPerDay": 500, "consentVersion": "1"}
    for owner in ("bob", "nobody"):
        for name, input in (
            ("setLowBalanceThreshold", {"credits": 1, "idempotencyKey": "k"}),
            ("setAutoTopUp", {"enabled": False}),
            ("setAutoTopUp", {"enabled": True, **on}),
        ):
            kind = name[0].upper() + name[1:]
            mutation = f"mutation($input: {kind}Input!) {{ {name}(input: $input) {{ __typename }} }}"
            for caller in (ALICE, replace(ALICE, organisations=frozenset({owner}))):
                answer = await api.execute(caller, mutation, input={"ownerId": owner, **input})
                [error] = answer["errors"]
                assert error["extensions"]["code"] == "FORBIDDEN", (name, owner, input)
    assert await everything_of(bob) == before
    assert await owner_scope.find_account_id("nobody", owner_ids=None) is None
    operator = 'mutation { setAutoTopUp(input: {ownerId: "bob", enabled: false}) { __typename } }'
    assert await api.data(OPERATOR, operator) == {"setAutoTopUp": {"__typename": "SetAutoTopUpSuccess"}}


async def test_a_stale_account_cache_cannot_change_the_account_of_another_owner(bob: PopulatedAccount) -> None:
    """As after the database was restored from a backup while this process kept its cache."""
    ledger_accounts._cache("alice", bob.account_id)
    before = await everything_of(bob)
    config = AutoTopUpConfig(enabled=True, threshold=100, amount=500, max_per_day=500)
    on = ConfigureRequest(owner_id="alice", config=config, consent_version="1", actor="user:alice", owner_ids=["alice"])
    off = replace(on, config=AutoTopUpConfig(enabled=False))
    with pytest.raises(Forbidden):
        await low_balance.set_low_balance_threshold("alice", 1, key="k", actor="user:alice", owner_ids=["alice"])
    for request in (on, off):
        with pytest.raises(Forbidden):
            await configuration.configure(request, TopUpTerms.from_settings(Settings()))
    assert await everything_of(bob) == before


async def everything_of(world: PopulatedAccount) -> list[tuple[Any, ...]]:
    """The rows that setLowBalanceThreshold and setAutoTopUp change."""
    found = [
        *await pools.fetch("SELECT version, low_balance_threshold FROM account WHERE id = $1", world.account_id),
        *await pools.fetch("SELECT enabled, changed_at FROM auto_top_up WHERE account_id = $1", world.account_id),
        *await pools.fetch("SELECT count(*) FROM operation WHERE account_id = $1", world.account_id),
    ]
    return [tuple(record) for record in found]


async def test_the_scoped_reads_find_nothing_of_other_owners(bob: PopulatedAccount) -> None:
    number, owners = bob.account_id, ["alice"]
    top_up = str((decode_parts(bob.node_ids["TopUp"]) or ())[-1])
    run = bob.platform_ids["blockRunId"]
    notification = int((decode_parts(bob.node_ids["Notification"]) or ())[-1])

    async def all_of(owner_ids: list[str] | None) -> list[object]:
        return [
            await owner_scope.find_account_id("bob", owner_ids=owner_ids),
            await owner_scope.find_entry(number, 1, owner_ids=owner_ids),
            await owner_scope.find_grant(number, 1, owner_ids=owner_ids),
            await owner_scope.find_hold(number, 1, owner_ids=owner_ids),
            await owner_scope.find_notification(number, notification, owner_ids=owner_ids),
            await tasks.find_block_run(number, run, owner_ids=owner_ids),
            await top_ups.find_top_up_in_scope(number, top_up, owner_ids=owner_ids),
        ]

    assert await all_of(owners) == await all_of([]) == [None] * 7
    assert None not in await all_of(["bob"])
    assert await all_of(["bob"]) == await all_of(None)
    with pytest.raises(TaskNotFound):
        await stop_and_resume.resume_task(
            ResumeTaskRequest(task_id=bob.platform_ids["stopped"], actor="user:alice", owner_ids=owners)
        )
