"""What a mutation is to the trail: every caller's but a user's own leaves a record."""

from app.api.context import ResolverInfo
from app.audit_log.records import AuditContext
from app.auth.caller import Caller, CallerKind


def audit_context(info: ResolverInfo) -> AuditContext | None:
    """The act that this mutation is, for whoever carries it out; None: a user sees to what is its own."""
    viewer = info.context.authenticated_caller
    return None if viewer.kind is CallerKind.USER else _act(viewer, info)


def operator_audit_context(info: ResolverInfo) -> AuditContext | None:
    """The same for what is the ledger's own: only an operator's leaves a record too, also of a stop that it causes.

    A service is named by its key in entry, hold and block run; an operator there has a name, and the key that signed
    its token stands in the record.
    """
    viewer = info.context.authenticated_caller
    return _act(viewer, info) if viewer.kind is CallerKind.OPERATOR else None


def _act(caller: Caller, info: ResolverInfo) -> AuditContext:
    return AuditContext(
        action=info.field_name,
        actor=caller.actor,
        key_id=caller.key_id,
        scope=", ".join(sorted(caller.scopes)) or "none",
        request_id=info.context.request_id,
    )
