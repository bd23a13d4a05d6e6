"""Whose accounts a viewer may look at. What it may not see is "not found", like what does not exist."""

from app.api.context import Context
from app.auth.caller import Caller, Scope, can_read, has_scope
from app.errors import BadRequest, Forbidden


def resolve_owner(context: Context, owner_id: str | None) -> str | None:
    """The owner whose account is asked for: the viewer's own where none is named; None where it may not look.

    Raises: BadRequest: a service names nobody and has no account of its own.
    """
    viewer = context.authenticated_caller
    if owner_id is None:
        if viewer.owner_id is None:
            raise BadRequest("Name the owner: a service key has no account of its own.")
        return viewer.owner_id
    return owner_id if can_read(viewer, owner_id) else None


def readable_owners(caller: Caller) -> list[str] | None:
    """The owners whose things the viewer may find; None: everybody's."""
    if has_scope(caller, Scope.READ):
        return None
    own = [caller.owner_id] if caller.owner_id is not None else []
    return [*own, *sorted(caller.organisations)]


def writable_owners(caller: Caller) -> list[str] | None:
    """The owners whose accounts the viewer may change (see `check_may_change`); None: everybody's."""
    if has_scope(caller, Scope.CHARGE) or has_scope(caller, Scope.ADMIN):
        return None
    return [caller.owner_id] if caller.owner_id is not None else []


def check_can_change(context: Context, owner_id: str, what: str) -> None:
    """What is an organisation's its members may look at; to change it takes the owner, a service or an operator.

    Raises: Forbidden.
    """
    viewer = context.authenticated_caller
    if viewer.owner_id != owner_id and not has_scope(viewer, Scope.CHARGE) and not has_scope(viewer, Scope.ADMIN):
        raise Forbidden(f"{what} is another's: you may look at it, and not change it.")
