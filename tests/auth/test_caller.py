"""What each kind of caller may do."""

import pytest

from app.auth.caller import Caller, CallerKind, Scope, can_read, has_scope, owns

USER = Caller(kind=CallerKind.USER, actor="user:alice", owner_id="alice", organisations=frozenset({"acme"}))
EXECUTOR = Caller(kind=CallerKind.SERVICE, actor="service:1", scopes=frozenset({Scope.CHARGE}))
READER = Caller(kind=CallerKind.SERVICE, actor="service:2", scopes=frozenset({Scope.READ}))
OPERATOR = Caller(kind=CallerKind.OPERATOR, actor="operator:carol", owner_id="carol", scopes=frozenset({Scope.ADMIN}))
WITHOUT_SCOPES = Caller(kind=CallerKind.SERVICE, actor="service:3")


@pytest.mark.parametrize(
    ("caller", "allowed"),
    [
        (None, set()),
        (USER, set()),
        (WITHOUT_SCOPES, set()),
        (READER, {Scope.READ}),
        (EXECUTOR, {Scope.CHARGE, Scope.READ}),
        (OPERATOR, {Scope.ADMIN, Scope.READ}),
    ],
)
def test_charge_and_admin_imply_read_and_nothing_else(caller: Caller | None, allowed: set[Scope]) -> None:
    assert {scope for scope in Scope if has_scope(caller, scope)} == allowed


@pytest.mark.parametrize(
    ("caller", "readable"),
    [
        (None, set()),
        (WITHOUT_SCOPES, set()),
        (USER, {"alice", "acme"}),
        (READER, {"alice", "acme", "bob"}),
        (EXECUTOR, {"alice", "acme", "bob"}),
        (OPERATOR, {"alice", "acme", "bob"}),
    ],
)
def test_a_user_reads_only_its_own_account_and_those_of_its_organisations(
    caller: Caller | None, readable: set[str]
) -> None:
    assert {owner for owner in ("alice", "acme", "bob") if can_read(caller, owner)} == readable


def test_a_member_of_an_organisation_does_not_own_its_account() -> None:
    assert owns(USER, "alice")
    assert not owns(USER, "acme")
    assert not owns(EXECUTOR, "alice")
    assert not owns(None, "alice")
