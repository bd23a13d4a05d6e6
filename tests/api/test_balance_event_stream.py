"""The balance subscription as an event stream: versions are ids, and reconnecting resumes after the last one."""

from typing import Any

import pytest

from app.engine.transports.http import GraphQLOverHTTP
from tests.api.conftest import ENGINE, Api
from tests.engine.sample_schema import authenticator, token
from tests.engine.transports.sse_client import event_stream
from tests.factories import grant_credits

pytestmark = pytest.mark.anyio

BALANCE = "subscription ($since: Long) { balance(sinceVersion: $since) { available } }"


@pytest.fixture
def balances(api: Api) -> GraphQLOverHTTP:
    """The API over HTTP."""
    return GraphQLOverHTTP(ENGINE, authenticator, api.state, graphiql=False)


async def test_each_balance_has_its_version_as_id_even_if_it_is_not_selected(
    balances: GraphQLOverHTTP,
) -> None:
    async with event_stream(BALANCE, to=balances, bearer=token("alice")) as client:
        await client.expect_start()
        assert await client.item() == ("0", {"data": {"balance": {"available": 0}}})
        await grant_credits("alice", 60)
        assert await client.item() == ("1", {"data": {"balance": {"available": 60}}})
        await grant_credits("alice", 5)
        assert await client.item() == ("2", {"data": {"balance": {"available": 65}}})


@pytest.mark.parametrize(
    ("last_event_id", "since", "first"),
    [
        ("3", None, None),
        ("2", None, "3"),
        (None, 3, None),
        ("3", 1, None),
        ("1", 3, None),
        ("1", 2, "3"),
        ("", None, "3"),
        ("-1", None, "3"),
        ("1e9", None, "3"),
        ("9" * 17, None, "3"),
        ("nonsense", 3, None),
        ("4", None, "3"),
        (None, 500, "3"),
    ],
)
async def test_a_client_that_reconnects_receives_only_versions_it_has_not_seen(
    balances: GraphQLOverHTTP, last_event_id: str | None, since: int | None, first: str | None
) -> None:
    for _ in range(3):
        await grant_credits("alice", 10)
    more: dict[str, Any] = {} if since is None else {"since": since}
    async with event_stream(BALANCE, to=balances, bearer=token("alice"), last_event_id=last_event_id, **more) as client:
        await client.expect_start()
        if first is not None:
            assert await client.item() == (first, {"data": {"balance": {"available": 30}}})
        await grant_credits("alice", 10)
        assert await client.item() == ("4", {"data": {"balance": {"available": 40}}})


async def test_a_version_higher_than_any_of_the_account_is_ignored(
    balances: GraphQLOverHTTP,
) -> None:
    async with event_stream(BALANCE, to=balances, bearer=token("alice"), last_event_id="7") as client:
        await client.expect_start()
        assert await client.item() == ("0", {"data": {"balance": {"available": 0}}})
        await grant_credits("alice", 10)
        assert await client.item() == ("1", {"data": {"balance": {"available": 10}}})
