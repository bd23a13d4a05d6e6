"""What the request log is told of an operation: nothing that a caller can fill with words of its own."""

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from app.api.context import Context
from app.engine.operation_info import OperationInfo
from app.server.request_log import LoggedRequest

_CODE: Final = re.compile(r"[A-Z0-9_]{1,40}")
_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_UNKNOWN: Final = OperationInfo(kind="request", name="-", is_unlimited=False)


def operation_record(
    context: Context, traits: OperationInfo | None, errors: Sequence[Mapping[str, Any]] | None
) -> LoggedRequest:
    """`traits`: none, it ended before its operation was known. `errors`: as they were sent; the first one is told."""
    found = traits or _UNKNOWN
    outcome, reference = "ok", None
    if errors:
        extensions = errors[0].get("extensions") or {}
        outcome = _kept(_CODE, extensions.get("code")) or "INTERNAL"
        reference = _kept(_ID, extensions.get("reference"))
    caller = context.caller.kind if context.caller is not None else "nobody"
    seconds = time.perf_counter() - context.started_seconds
    return LoggedRequest(
        context.transport, caller, context.request_id, outcome, seconds, found.kind, found.name, reference
    )


def _kept(shape: re.Pattern[str], text: object) -> str | None:
    return str(text) if isinstance(text, str) and shape.fullmatch(text) else None
