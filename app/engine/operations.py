"""Information about operations: kind and name, counts of executions, and the entry for the request log."""

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from graphql import FieldNode, OperationDefinitionNode, OperationType

from app.engine.context import RequestContext
from app.server.request_log import LoggedRequest

MAX_NAME: Final = 64
_CODE: Final = re.compile(r"[A-Z0-9_]{1,40}")
_REFERENCE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class OperationInfo:
    kind: str
    """One of query, mutation and subscription."""
    field: str
    """Its first field, or `fragment`."""
    name: str
    """The operation's name, or that of its first field. It has at most 64 letters, digits and underscores."""
    is_unlimited: bool
    """Whether all its fields are mutations that rate limits do not count."""


@dataclass(slots=True)
class ExecutionCounts:
    """How operations were executed since the process started."""

    compiled: int = 0
    interpreted: Counter[str] = field(default_factory=Counter)
    """The number of operations that graphql-core executed instead, by reason."""


UNKNOWN_OPERATION: Final = OperationInfo(kind="request", field="-", name="-", is_unlimited=False)


def operation_info(operation: OperationDefinitionNode, unlimited_mutations: frozenset[str]) -> OperationInfo:
    fields = [node.name.value if isinstance(node, FieldNode) else None for node in operation.selection_set.selections]
    first_field = next((name for name in fields if name is not None), "fragment")
    return OperationInfo(
        kind=operation.operation.value,
        field=first_field,
        name=(operation.name.value if operation.name is not None else first_field)[:MAX_NAME],
        is_unlimited=operation.operation is OperationType.MUTATION and unlimited_mutations.issuperset(fields),
    )


def outcome_of(errors: Sequence[Mapping[str, Any]] | None) -> str:
    """Return `ok`, or the code of the first error. `errors` are in the form in which they are sent."""
    if not errors:
        return "ok"
    return _matching(_CODE, (errors[0].get("extensions") or {}).get("code")) or "INTERNAL"


def logged_request(
    context: RequestContext[Any],
    operation: OperationInfo,
    errors: Sequence[Mapping[str, Any]] | None,
    *,
    outcome: str,
    reason: str | None = None,
) -> LoggedRequest:
    """Return the entry for the request log. It contains no text that a caller can choose freely.

    `reason` says why a credential was rejected.
    """
    reference = _matching(_REFERENCE, (errors[0].get("extensions") or {}).get("reference")) if errors else None
    return LoggedRequest(
        transport=context.transport,
        caller=context.caller.kind if context.caller is not None else "anonymous",
        request_id=context.request_id,
        outcome=outcome,
        seconds=time.perf_counter() - context.started_seconds,
        kind=operation.kind,
        name=operation.name,
        reference=reference,
        reason=reason,
    )


def _matching(pattern: re.Pattern[str], text: object) -> str | None:
    return str(text) if isinstance(text, str) and pattern.fullmatch(text) else None
