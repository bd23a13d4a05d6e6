"""Permissions: what a field needs from its caller."""

from enum import Enum

from app.auth.caller import Caller, Scope, has_scope
from app.errors import Forbidden, Unauthenticated


class Permission(Enum):
    """What a field needs. The value completes the error message "This needs ..."."""

    PUBLIC = "anyone, signed in or not"
    INHERITED = "whoever can read the object"
    """For fields of object types only: the field that returned the object was checked."""
    AUTHENTICATED = "a user, a service or an operator"
    SERVICE = "a service key with the scope charge, or an operator"
    OPERATOR = "an operator"


class AuditPolicy(Enum):
    """For whose calls a mutation appends a record to the audit log."""

    SERVICES_AND_OPERATORS = "every caller except a user"
    OPERATORS = "operators; what the mutation writes names its actor and request anyway"


def check_permission(caller: Caller | None, needs: Permission) -> None:
    """Raises: Unauthenticated: the caller is anonymous. Forbidden: the caller lacks the permission."""
    if needs is Permission.PUBLIC or needs is Permission.INHERITED:
        return
    if caller is None:
        raise Unauthenticated("Authentication is required: send an Authorization header with a bearer token.")
    if needs is Permission.AUTHENTICATED or has_scope(caller, Scope.ADMIN):
        return
    if needs is Permission.SERVICE and has_scope(caller, Scope.CHARGE):
        return
    raise Forbidden(f"This needs {needs.value}.")
