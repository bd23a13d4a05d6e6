"""Callers, their scopes, and the accounts that they may read. These functions do no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final


class CallerKind(StrEnum):
    """The kind of a caller. A user has no scopes, an operator has ADMIN, and a service has the scopes of its key."""

    USER = "user"
    SERVICE = "service"
    OPERATOR = "operator"


class Scope(StrEnum):
    CHARGE = "charge"
    """Allows charging, holds, and changing tasks and accounts of any owner (see `check_can_change`). Implies READ."""
    READ = "read"
    """Allows reading any account."""
    ADMIN = "admin"
    """Allows granting, reversing, refunding, publishing prices, changing any account, and everything that READ allows.

    It does not imply CHARGE: charges and holds belong to services, so that each names the key of its executor.
    """


_IMPLIED: Final[Mapping[Scope, frozenset[Scope]]] = {
    Scope.CHARGE: frozenset({Scope.CHARGE, Scope.READ}),
    Scope.READ: frozenset({Scope.READ}),
    Scope.ADMIN: frozenset({Scope.ADMIN, Scope.READ}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """An authenticated caller. An anonymous one is `None`."""

    kind: CallerKind
    actor: str
    """The name of the caller in the ledger: `user:alice`, `service:<key id>` or `operator:carol`."""
    owner_id: str | None = None
    """The owner of the caller's account: the `sub` of the token. It is None for a service."""
    organisations: frozenset[str] = frozenset()
    """Other owners whose accounts the caller may read, even without the scope READ."""
    scopes: frozenset[Scope] = frozenset()
    expires_at: datetime | None = None
    """When the credential expires and open connections are closed. It is None if the credential never expires."""
    key_id: str | None = None
    """The id of the service key, or of the key that signed the token."""


def has_scope(caller: Caller | None, scope: Scope) -> bool:
    """Return whether the caller has `scope` or a scope that implies it. Users have no scopes."""
    if caller is not None:
        for held in caller.scopes:
            if scope in _IMPLIED[held]:
                return True
    return False


def can_read(caller: Caller | None, owner_id: str) -> bool:
    """Return whether the caller may read this owner's account. For other callers the account does not exist."""
    return (
        owns(caller, owner_id)
        or has_scope(caller, Scope.READ)
        or (caller is not None and owner_id in caller.organisations)
    )


def owns(caller: Caller | None, owner_id: str) -> bool:
    """Return whether `owner_id` is the owner of the caller's own account."""
    return caller is not None and caller.owner_id == owner_id
