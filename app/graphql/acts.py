"""What a mutation is to the trail: every caller's but a user's own leaves a record."""

from app.callers.rules import Kind, Viewer
from app.graphql.context import Information
from app.trail.records import Act


def act_of(info: Information) -> Act | None:
    """The act that this mutation is, for whoever carries it out; None: a user sees to what is its own."""
    viewer = info.context.caller
    return None if viewer.kind is Kind.USER else _act(viewer, info)


def act_of_operator(info: Information) -> Act | None:
    """The same for what is the ledger's own: only an operator's leaves a record too, also of a stop that it causes.

    A service is named by its key in entry, hold and block run; an operator there has a name, and the key that signed
    its token stands in the record.
    """
    viewer = info.context.caller
    return _act(viewer, info) if viewer.kind is Kind.OPERATOR else None


def _act(viewer: Viewer, info: Information) -> Act:
    return Act(
        action=info.field_name,
        actor=viewer.actor,
        key_id=viewer.key_id,
        scope=", ".join(sorted(viewer.scopes)) or "none",
        request_id=info.context.request_id,
    )
