"""Sends one delivery: signs it by the Standard Webhooks specification and posts it to its endpoint.

The request goes to an address that was resolved and checked for this request. Redirects are not followed, proxies of
the environment are not used, and at most 16 KiB of the response are read.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import httpx
from standardwebhooks import Webhook

from app.outgoing_webhooks import addresses
from app.outgoing_webhooks.addresses import AddressRefused
from app.wording import reason_of

REQUEST_SECONDS: Final = 15.0
"""The time limit of an attempt, including the DNS query."""
MAX_RESPONSE_BYTES: Final = 16 * 1024
MAX_RETRY_AFTER_SECONDS: Final = 24 * 3_600
GONE: Final = 410
"""The receiver wants no further events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """The result of an attempt. `status`: None without a response. `error`: None if the event was delivered."""

    status: int | None
    error: str | None
    retry_after_seconds: float | None = None

    @property
    def is_delivered(self) -> bool:
        return self.error is None

    @property
    def is_gone(self) -> bool:
        return self.status == GONE


def sign(event_id: str, payload: str, keys: Sequence[bytes], *, at: datetime) -> dict[str, str]:
    """Return the headers that identify and sign a payload. While a secret is rotated, both secrets sign."""
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(math.floor(at.timestamp())),
        "webhook-signature": " ".join(Webhook(key).sign(event_id, at, payload) for key in keys),
    }


class Sender:
    """Makes the requests. `allow_private` allows http and private addresses, in development."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._client = httpx.AsyncClient(
            timeout=REQUEST_SECONDS,
            follow_redirects=False,
            trust_env=False,
            # No connection is reused, because the address is resolved and checked for each request.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            headers={"user-agent": "agent-credits-webhooks/1", "content-type": "application/json"},
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def send(self, url: str, event_id: str, payload: str, keys: Sequence[bytes]) -> Attempt:
        """Make one attempt. Errors that a receiver can cause are results, not exceptions."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                target = await addresses.resolve(url, allow_private=self._allow_private)
                return await self._post(url, target, payload, sign(event_id, payload, keys, at=datetime.now(UTC)))
        except AddressRefused as error:
            return Attempt(status=None, error=f"The address {error}.")
        except (TimeoutError, httpx.TimeoutException):
            return Attempt(status=None, error=f"No response within {REQUEST_SECONDS:g} s.")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            return Attempt(
                status=None, error=f"The request failed: {reason_of(error) or 'the connection was closed'}"[:500]
            )

    async def _post(self, url: str, target: addresses.Target, payload: str, headers: dict[str, str]) -> Attempt:
        parts = urlsplit(url)
        address = f"[{target.address}]" if ":" in target.address else target.address
        pinned = urlunsplit((parts.scheme, f"{address}:{target.port}", parts.path or "/", parts.query, ""))
        request = self._client.build_request(
            "POST",
            pinned,
            content=payload.encode(),
            headers=headers | {"host": parts.netloc},
            extensions={"sni_hostname": target.host},
        )
        response = await self._client.send(request, stream=True)
        try:
            received = 0
            async for chunk in response.aiter_raw():
                received += len(chunk)
                if received > MAX_RESPONSE_BYTES:
                    break
        finally:
            await response.aclose()
        if response.is_success:
            return Attempt(status=response.status_code, error=None)
        return Attempt(
            status=response.status_code,
            error=f"The response had status {response.status_code}.",
            retry_after_seconds=_retry_after(response.headers.get("retry-after")),
        )


def _retry_after(value: str | None) -> float | None:
    """Return the seconds in a Retry-After header. Dates are ignored."""
    if value is None or not value.isascii() or not value.isdigit() or len(value) > 9:
        return None
    return float(min(int(value), MAX_RETRY_AFTER_SECONDS))
