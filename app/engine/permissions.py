"""Permissions that a field can require of its caller."""

from enum import Enum

from app.auth.caller import Caller, Scope, has_scope
from app.errors import Forbidden, Unauthenticated


class Permission(Enum):
    """A permission that a field needs. The value completes the error message "This needs ..."."""

    PUBLIC = "anyone, signed in or not"
    INHERITED = "whoever can read the object"
    """Used only by fields of object types. The permission was checked for the field that returned the object."""
    AUTHENTICATED = "a user, a service or an operator"
    SERVICE = "a service key with the scope charge"
    """An operator does not have it: only a key with the scopes admin and charge has both."""
    OPERATOR = "an operator"


class AuditPolicy(Enum):
    """The callers whose calls of a mutation are recorded in the audit log."""

    SERVICES_AND_OPERATORS = "every caller except a user"
    OPERATORS = "operators; what the mutation writes names its actor and request anyway"


def check_permission(caller: Caller | None, needs: Permission) -> None:
    """Raises: Unauthenticated: the caller is anonymous. Forbidden: the caller lacks the permission."""
    if needs is Permission.PUBLIC or needs is Permission.INHERITED:
        return
    if caller is None:
        raise Unauthenticated("Authentication is required: send an Authorization header with a bearer token.")
    if needs is Permission.AUTHENTICATED:
        return
    if has_scope(caller, Scope.CHARGE if needs is Permission.SERVICE else Scope.ADMIN):
        return
    raise Forbidden(f"This needs {needs.value}.")
