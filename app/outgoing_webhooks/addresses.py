"""Checks which URLs and addresses may receive webhooks.

Without these checks, a URL, or a DNS record of its host, could make the server send requests to services of its own
network (server-side request forgery, SSRF).
"""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import urlsplit

MAX_URL_LENGTH: Final = 2048
_NAT64: Final = IPv6Network("64:ff9b::/96")
"""IPv6 addresses that contain an IPv4 address. A NAT64 gateway sends their packets to that address."""
_IPV4_COMPATIBLE: Final = IPv6Network("::/96")


class AddressRefused(Exception):
    """The URL or its address may not be called. The message says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """The target of a request. `address` was checked, and the request is sent to no other address."""

    host: str
    port: int
    address: str


def check_url(url: str, *, allow_private: bool) -> str:
    """Return the URL. With `allow_private` (in development), http and private addresses are allowed.

    Raises: AddressRefused.
    """
    if len(url) > MAX_URL_LENGTH or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise AddressRefused(f"must be a URL with at most {MAX_URL_LENGTH:,} ASCII characters and no spaces")
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        raise AddressRefused("is not a URL") from None
    if parts.scheme not in ({"https", "http"} if allow_private else {"https"}):
        raise AddressRefused("must begin with https://")
    if not host or port == 0:
        raise AddressRefused("must have a host, such as https://hooks.example.com/credits")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise AddressRefused("must have no user, password or fragment: receivers verify the signature instead")
    if not allow_private:
        if host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
            raise AddressRefused("must be an address of the public internet")
        if (literal := _parse_address(host)) is not None:
            check_address(literal)
    return url


async def resolve(url: str, *, allow_private: bool) -> Target:
    """Resolve the host once, and check every address. The request is sent to the first one (DNS pinning).

    Raises: AddressRefused: an address is not public; OSError: the host cannot be resolved.
    """
    check_url(url, allow_private=allow_private)
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses: Sequence[str] = [str(entry[4][0]) for entry in found]
    if not addresses:
        raise OSError(f"{host} has no address")
    if not allow_private:
        for address in addresses:
            check_address(ip_address(address.partition("%")[0]))
    return Target(host, port, addresses[0])


def check_address(address: IPv4Address | IPv6Address) -> None:
    """Raises: AddressRefused: `address` does not belong to the public internet."""
    embedded = _embedded_ipv4(address)
    for one in (address, embedded) if embedded is not None else (address,):
        if not one.is_global or one.is_multicast or one.is_reserved or one.is_unspecified:
            raise AddressRefused(f"must be an address of the public internet, not {address}")


def _embedded_ipv4(address: IPv4Address | IPv6Address) -> IPv4Address | None:
    if isinstance(address, IPv4Address):
        return None
    if address in _NAT64 or address in _IPV4_COMPATIBLE:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


def _parse_address(host: str) -> IPv4Address | IPv6Address | None:
    """Parse an IP address in any form that resolvers accept (such as 2130706433 and 0x7f.1). None: a host name."""
    try:
        return ip_address(host)
    except ValueError:
        try:
            return IPv4Address(socket.inet_aton(host))
        except OSError:
            return None
