"""Whose accounts a viewer may look at. What it may not see is "not found", like what does not exist."""

from app.callers.rules import Scope, Viewer, may, may_read
from app.errors import BadRequest, Forbidden
from app.graphql.context import Context


def owner_asked(context: Context, owner_id: str | None) -> str | None:
    """The owner whose account is asked for: the viewer's own where none is named; None where it may not look.

    Raises: BadRequest: a service names nobody and has no account of its own.
    """
    viewer = context.caller
    if owner_id is None:
        if viewer.owner_id is None:
            raise BadRequest("Name the owner: a service key has no account of its own.")
        return viewer.owner_id
    return owner_id if may_read(viewer, owner_id) else None


def owners_seen(viewer: Viewer) -> list[str] | None:
    """The owners whose things the viewer may find; None: everybody's."""
    if may(viewer, Scope.READ):
        return None
    own = [viewer.owner_id] if viewer.owner_id is not None else []
    return [*own, *sorted(viewer.organisations)]


def owners_changed(viewer: Viewer) -> list[str] | None:
    """The owners whose accounts the viewer may change (see `check_may_change`); None: everybody's."""
    if may(viewer, Scope.CHARGE) or may(viewer, Scope.ADMIN):
        return None
    return [viewer.owner_id] if viewer.owner_id is not None else []


def check_may_change(context: Context, owner_id: str, what: str) -> None:
    """What is an organisation's its members may look at; to change it takes the owner, a service or an operator.

    Raises: Forbidden.
    """
    viewer = context.caller
    if viewer.owner_id != owner_id and not may(viewer, Scope.CHARGE) and not may(viewer, Scope.ADMIN):
        raise Forbidden(f"{what} is another's: you may look at it, and not change it.")
