"""What a mutation is to the trail: every caller's but a user's own leaves a record."""

from app.callers.rules import Kind
from app.graphql.context import Information
from app.trail.records import Act


def act_of(info: Information) -> Act | None:
    """The act that this mutation is, for whoever carries it out; None: a user sees to what is its own."""
    viewer = info.context.caller
    if viewer.kind is Kind.USER:
        return None
    return Act(
        action=info.field_name,
        actor=viewer.actor,
        key_id=viewer.key_id,
        scope=", ".join(sorted(viewer.scopes)) or "none",
        request_id=info.context.request_id,
    )
