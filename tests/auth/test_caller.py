"""What each kind of caller may do."""

import pytest

from app.auth.caller import Caller, CallerKind, Scope, can_read, has_scope, owns

USER = Caller(kind=CallerKind.USER, actor="user:alice", owner_id="alice", organisations=frozenset({"acme"}))
EXECUTOR = Caller(kind=CallerKind.SERVICE, actor="service:1", scopes=frozenset({Scope.CHARGE}))
READER = Caller(kind=CallerKind.SERVICE, actor="service:2", scopes=frozenset({Scope.READ}))
OPERATOR = Caller(kind=CallerKind.OPERATOR, actor="operator:carol", owner_id="carol", scopes=frozenset({Scope.ADMIN}))
POWERLESS = Caller(kind=CallerKind.SERVICE, actor="service:3")


@pytest.mark.parametrize(
    ("viewer", "allowed"),
    [
        (None, set()),
        (USER, set()),
        (POWERLESS, set()),
        (READER, {Scope.READ}),
        (EXECUTOR, {Scope.CHARGE, Scope.READ}),
        (OPERATOR, {Scope.ADMIN, Scope.READ}),
    ],
)
def test_a_scope_brings_reading_and_nothing_else(viewer: Caller | None, allowed: set[Scope]) -> None:
    assert {scope for scope in Scope if has_scope(viewer, scope)} == allowed


@pytest.mark.parametrize(
    ("viewer", "readable"),
    [
        (None, set()),
        (POWERLESS, set()),
        (USER, {"alice", "acme"}),
        (READER, {"alice", "acme", "bob"}),
        (EXECUTOR, {"alice", "acme", "bob"}),
        (OPERATOR, {"alice", "acme", "bob"}),
    ],
)
def test_a_user_reads_its_own_and_listed_accounts_only(viewer: Caller | None, readable: set[str]) -> None:
    assert {owner for owner in ("alice", "acme", "bob") if can_read(viewer, owner)} == readable


def test_looking_at_an_organisation_is_not_owning_it() -> None:
    assert owns(USER, "alice")
    assert not owns(USER, "acme")
    assert not owns(EXECUTOR, "alice")
    assert not owns(None, "alice")
