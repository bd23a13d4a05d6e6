"""Whom a request addresses: a server that answers to any name can be reached through a page of somebody else's.

Probes of the machine's keeper come by an address nobody lists, and say nothing: they are always let in.
"""

from collections.abc import Collection
from typing import Final

from starlette.types import Scope, Send

PROBE_PATHS: Final = frozenset({"/healthz", "/readyz"})
HOST_NOT_ALLOWED: Final = "This server is not known by that name."
_REFUSAL: Final = f'{{"errors":[{{"message":"{HOST_NOT_ALLOWED}","extensions":{{"code":"BAD_REQUEST"}}}}]}}'.encode()


def is_allowed_host(scope: Scope, allowed_hosts: Collection[str]) -> bool:
    """Whether the request names one of `hosts` (lower case, without port), and no other beside it."""
    named = [value for name, value in scope["headers"] if name == b"host"]
    return scope["path"] in PROBE_PATHS or (len(named) == 1 and _without_port(named[0]) in allowed_hosts)


async def reject_host(scope: Scope, send: Send) -> None:
    """Answer a request that addresses somebody else."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 4403, "reason": "Host not allowed"})
        return
    headers = [
        (b"content-type", b"application/json; charset=utf-8"),
        (b"content-length", b"%d" % len(_REFUSAL)),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": _REFUSAL})


def _without_port(host: bytes) -> str:
    text = host.decode("latin-1").lower()
    end = text.find("]") + 1 if text.startswith("[") else text.rfind(":")
    return text[:end] if end > 0 else text
