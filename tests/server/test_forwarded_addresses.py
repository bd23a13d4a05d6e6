"""Client addresses behind a proxy: X-Forwarded-For is trusted from the addresses in FORWARDED_ALLOW_IPS only."""

import httpx
import pytest

from tests.command_line import running_server, temporary_directory
from tests.conftest import LEDGER_KEY

BURST_OF_TWO = "0.4"


@pytest.mark.parametrize(
    ("settings", "statuses_of_second_client"),
    [
        ({"FORWARDED_ALLOW_IPS": "10.1.2.0/24, 127.0.0.1"}, [200, 200, 429]),
        ({"FORWARDED_ALLOW_IPS": "192.0.2.1"}, [429, 429, 429]),
        ({}, [200, 200, 429]),
    ],
    ids=["trusted proxy", "another proxy", "default: this machine"],
)
def test_clients_are_distinguished_by_the_addresses_that_a_trusted_proxy_sends(
    application_url: str, settings: dict[str, str], statuses_of_second_client: list[int]
) -> None:
    chosen = {"PORT": "0", "DATABASE_URL": application_url, "LEDGER_KEY": LEDGER_KEY.hex(), **settings}
    with (
        temporary_directory() as place,
        running_server(DATA_DIR=str(place), RATE_PER_ADDRESS=BURST_OF_TWO, **chosen) as (url, _),
        httpx.Client() as client,
    ):

        def statuses(address: str) -> list[int]:
            """Of three requests that are forwarded for this address."""
            body, headers = {"query": "{ __typename }"}, {"x-forwarded-for": address}
            return [client.post(f"{url}/graphql", json=body, headers=headers).status_code for _ in range(3)]

        assert statuses("203.0.113.7") == [200, 200, 429]
        assert statuses("203.0.113.8") == statuses_of_second_client
