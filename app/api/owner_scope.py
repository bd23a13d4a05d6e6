"""Decides which accounts a caller may read and change.

An account that the caller may not read is reported like one that does not exist.
"""

from app.api.context import Context
from app.api.input_checks import check_ids
from app.auth.caller import Caller, Scope, can_read, has_scope
from app.errors import BadRequest, Forbidden
from app.wording import quote_value


def resolve_owner(context: Context, owner_id: str | None) -> str | None:
    """Return the requested owner, or the caller's own id if none is given.

    Returns None if the caller may not read that account.

    Raises: BadRequest: a service key did not name an owner.
    """
    caller = context.authenticated_caller
    if owner_id is None:
        if caller.owner_id is None:
            raise BadRequest("ownerId is required: a service key has no account of its own.")
        return caller.owner_id
    return owner_id if can_read(caller, owner_id) else None


def require_readable_owner(context: Context, owner_id: str | None, *, path: str = "ownerId") -> str:
    """Like `resolve_owner`, for fields that cannot be null. Raises: BadRequest; Forbidden: not readable."""
    check_ids(**{path: owner_id})
    owner = resolve_owner(context, owner_id)
    if owner is None:
        raise Forbidden("You may not read the account of this owner.")
    return owner


def require_writable_owner(context: Context, owner_id: str | None) -> str:
    """Return the owner whose account a mutation with `input.ownerId` changes. Raises: BadRequest, Forbidden."""
    owner = require_readable_owner(context, owner_id, path="input.ownerId")
    check_can_change(context, owner, f"The account of {quote_value(owner)}")
    return owner


def readable_owners(caller: Caller) -> list[str] | None:
    """Return the owners whose objects the caller may read, or None for all owners."""
    if has_scope(caller, Scope.READ):
        return None
    own = [caller.owner_id] if caller.owner_id is not None else []
    return [*own, *sorted(caller.organisations)]


def writable_owners(caller: Caller) -> list[str] | None:
    """Return the owners whose accounts the caller may change (see `check_can_change`), or None for all owners."""
    if has_scope(caller, Scope.CHARGE) or has_scope(caller, Scope.ADMIN):
        return None
    return [caller.owner_id] if caller.owner_id is not None else []


def check_can_change(context: Context, owner_id: str, what: str) -> None:
    """Check that the caller may change an account. The error message begins with `what`.

    The owner, operators and services that may charge may change it. Members of an organisation may only read it.

    Raises: Forbidden.
    """
    caller = context.authenticated_caller
    if caller.owner_id != owner_id and not has_scope(caller, Scope.CHARGE) and not has_scope(caller, Scope.ADMIN):
        raise Forbidden(f"{what} belongs to another owner: you may read it, but not change it.")
