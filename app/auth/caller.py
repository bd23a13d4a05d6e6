"""Callers and what they may do. Pure functions over values."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final


class CallerKind(StrEnum):
    """How the caller authenticated. Its scopes say what it may do."""

    USER = "user"
    SERVICE = "service"
    OPERATOR = "operator"


class Scope(StrEnum):
    CHARGE = "charge"
    """Open and finish tasks, and charge. Implies READ."""
    READ = "read"
    """Read any account."""
    ADMIN = "admin"
    """For operators: grants, reversals, refunds, prices. Implies READ, but not CHARGE."""


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
    """Its name in the ledger: `user:alice`, `service:<key id>`, `operator:carol`."""
    owner_id: str | None = None
    """The owner of its own account: the `sub` of its token. None for a service."""
    organisations: frozenset[str] = frozenset()
    """Other owners whose accounts it may read, but not change."""
    scopes: frozenset[Scope] = frozenset()
    expires_at: datetime | None = None
    """When its credential expires. Its live connections are closed then. None: never."""
    key_id: str | None = None
    """The id of the service key, or of the key that signed the token."""


def has_scope(caller: Caller | None, scope: Scope) -> bool:
    """Whether the caller has a scope that is or implies `scope`. Users have none."""
    if caller is not None:
        for held in caller.scopes:
            if scope in _IMPLIED[held]:
                return True
    return False


def can_read(caller: Caller | None, owner_id: str) -> bool:
    """Whether the caller may read this owner's account. To other callers it does not exist."""
    return (
        owns(caller, owner_id)
        or has_scope(caller, Scope.READ)
        or (caller is not None and owner_id in caller.organisations)
    )


def owns(caller: Caller | None, owner_id: str) -> bool:
    """Whether it is the caller's own account. Topping up and cancelling tasks need no scope then."""
    return caller is not None and caller.owner_id == owner_id
