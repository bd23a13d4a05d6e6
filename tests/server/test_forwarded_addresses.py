"""Whose word counts for a client's address: a started server, and the proxies that it is told to believe."""

import httpx
import pytest

from tests.command_line import running_server, temporary_directory
from tests.conftest import LEDGER_KEY

TWO_AT_ONCE = "0.4"


@pytest.mark.parametrize(
    ("believed", "second"),
    [
        ({"FORWARDED_ALLOW_IPS": "10.1.2.0/24, 127.0.0.1"}, [200, 200, 429]),
        ({"FORWARDED_ALLOW_IPS": "192.0.2.1"}, [429, 429, 429]),
        ({}, [200, 200, 429]),
    ],
    ids=["its proxy", "another proxy", "the own machine unless it is said"],
)
def test_clients_are_told_apart_by_the_addresses_that_a_believed_proxy_names(
    application_url: str, believed: dict[str, str], second: list[int]
) -> None:
    chosen = {"PORT": "0", "DATABASE_URL": application_url, "LEDGER_KEY": LEDGER_KEY.hex(), **believed}
    with (
        temporary_directory() as place,
        running_server(DATA_DIR=str(place), RATE_PER_ADDRESS=TWO_AT_ONCE, **chosen) as (url, _),
        httpx.Client() as client,
    ):

        def statuses(address: str) -> list[int]:
            """Of three requests that say they come for this address."""
            body, headers = {"query": "{ __typename }"}, {"x-forwarded-for": address}
            return [client.post(f"{url}/graphql", json=body, headers=headers).status_code for _ in range(3)]

        assert statuses("203.0.113.7") == [200, 200, 429]
        assert statuses("203.0.113.8") == second
