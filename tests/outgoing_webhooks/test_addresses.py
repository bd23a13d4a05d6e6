"""Which URLs may receive webhooks: in production only https on the public internet."""

import asyncio

import pytest

from app.outgoing_webhooks import addresses
from app.outgoing_webhooks.addresses import AddressRefused

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com/credits",
        "https://hooks.example.com:8443/a?b=c",
        "https://93.184.215.14/hook",
        "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/hook",
    ],
)
def test_a_public_https_url_is_accepted(url: str) -> None:
    assert addresses.check_url(url, allow_private=False) == url


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/",
        "ftp://hooks.example.com/",
        "file:///etc/passwd",
        "hooks.example.com",
        "https://",
        "https://user:password@hooks.example.com/",
        "https://hooks.example.com/#fragment",
        "https://hooks.example.com:0/",
        "https://hooks.example.com:99999/",
        "https://hooks.example.com/a b",
        "https://hooks.example.com\\@127.0.0.1/",
        "https://hööks.example.com/",
        "https://hooks.example.com/" + "x" * 2048,
        "https://localhost/",
        "https://app.localhost/",
        "https://db.internal/",
        "https://printer.local/",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0/",
        "https://10.0.0.1/",
        "https://172.16.0.1/",
        "https://192.168.1.1/",
        "https://100.64.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://224.0.0.1/",
        "https://255.255.255.255/",
        "https://[::1]/",
        "https://[::]/",
        "https://[fe80::1]/",
        "https://[fc00::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[::127.0.0.1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[2002:7f00:1::]/",
        "https://[ff02::1]/",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(AddressRefused):
        addresses.check_url(url, allow_private=False)


async def test_a_host_with_a_private_address_is_refused_when_it_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "93.184.215.14", "10.0.0.5")  # one of several is enough
    with pytest.raises(AddressRefused, match=r"must be an address of the public internet, not 10\.0\.0\.5"):
        await addresses.resolve("https://rebinding.example.com/", allow_private=False)


async def test_the_request_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "93.184.215.14")
    target = await addresses.resolve("https://hooks.example.com/", allow_private=False)
    assert (target.host, target.port, target.address) == ("hooks.example.com", 443, "93.184.215.14")


def resolve_to(monkeypatch: pytest.MonkeyPatch, *found: str) -> None:
    """Let every host have these addresses."""

    class Loop:
        async def getaddrinfo(self, _host: str, port: int, **_more: object) -> list[object]:
            return [(2, 1, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(asyncio, "get_running_loop", Loop)


def test_in_development_http_and_private_addresses_are_allowed() -> None:
    assert addresses.check_url("http://localhost:9000/hook", allow_private=True) == "http://localhost:9000/hook"
