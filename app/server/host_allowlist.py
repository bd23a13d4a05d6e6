"""Host allow-list: protects against DNS rebinding.

An attacker's page can let its own host name resolve to the address of this server. The browser then treats the server
as the same origin. Such requests have the attacker's host name in the Host header. Hosts that are not in the list are
refused: with 400, or with close code 4403 on a WebSocket. Health probes and requests for metrics are exempt, because
they are sent to an IP address.
"""

from collections.abc import Collection
from typing import Final

from starlette.types import Scope, Send

from app.server.responses import send_error

PROBE_PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics"})
HOST_NOT_ALLOWED: Final = "The Host header of the request is not in ALLOWED_HOSTS."


def is_allowed_host(scope: Scope, allowed_hosts: Collection[str]) -> bool:
    """Return whether the request has exactly one Host header, and its name is in `allowed_hosts`.

    The names in `allowed_hosts` are in lower case and without port.
    """
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    return scope["path"] in PROBE_PATHS or (len(hosts) == 1 and _without_port(hosts[0]) in allowed_hosts)


async def reject_host(scope: Scope, send: Send) -> None:
    """Respond to a request whose host is not allowed."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 4403, "reason": "Host not allowed"})
    else:
        await send_error(send, 400, HOST_NOT_ALLOWED)


def _without_port(host: bytes) -> str:
    text = host.decode("latin-1").lower()
    end = text.find("]") + 1 if text.startswith("[") else text.rfind(":")
    return text[:end] if end > 0 else text
