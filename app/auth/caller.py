"""Who a caller is and what it may do: values in, answers out (DESIGN section 1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final


class CallerKind(StrEnum):
    """How the caller proved itself; what it may do is said by its scopes."""

    USER = "user"
    SERVICE = "service"
    OPERATOR = "operator"


class Scope(StrEnum):
    CHARGE = "charge"
    """Open and finish tasks, charge; reading comes with it."""
    READ = "read"
    """Read any account."""
    ADMIN = "admin"
    """The operator's: grants, reversals, refunds, prices; reading comes with it, charging does not."""


_IMPLIED: Final[Mapping[Scope, frozenset[Scope]]] = {
    Scope.CHARGE: frozenset({Scope.CHARGE, Scope.READ}),
    Scope.READ: frozenset({Scope.READ}),
    Scope.ADMIN: frozenset({Scope.ADMIN, Scope.READ}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A caller that has proved itself. Nobody (anonymous) is `None`, never a Viewer."""

    kind: CallerKind
    actor: str
    """What the ledger records: `user:alice`, `service:<key id>`, `operator:carol`."""
    owner_id: str | None = None
    """The owner of its own account: the token's `sub`, an operator's too; None for a service."""
    organisations: frozenset[str] = frozenset()
    """Other owners it may look at. Looking only: what changes an account needs `owns`."""
    scopes: frozenset[Scope] = frozenset()
    expires_at: datetime | None = None
    """When the proof ends (a live connection closes then); None: it has no end."""
    key_id: str | None = None
    """The service key's public id, or the id of the key that signed the token."""


def has_scope(caller: Caller | None, scope: Scope) -> bool:
    """Whether one of the viewer's scopes is, or brings with it, `scope`. A user has none."""
    if caller is not None:
        for held in caller.scopes:
            if scope in _IMPLIED[held]:
                return True
    return False


def can_read(caller: Caller | None, owner_id: str) -> bool:
    """Whether the viewer may look at this owner's account; if not, the account is "not found" to it."""
    return (
        owns(caller, owner_id)
        or has_scope(caller, Scope.READ)
        or (caller is not None and owner_id in caller.organisations)
    )


def owns(caller: Caller | None, owner_id: str) -> bool:
    """Whether it is the viewer's own account: needed to top up, or to cancel a task, without a scope."""
    return caller is not None and caller.owner_id == owner_id
