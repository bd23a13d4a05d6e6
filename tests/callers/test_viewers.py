"""What each kind of caller may do."""

import pytest

from app.callers.rules import Kind, Scope, Viewer, may, may_read, owns

USER = Viewer(kind=Kind.USER, actor="user:alice", owner_id="alice", organisations=frozenset({"acme"}))
EXECUTOR = Viewer(kind=Kind.SERVICE, actor="service:1", scopes=frozenset({Scope.CHARGE}))
READER = Viewer(kind=Kind.SERVICE, actor="service:2", scopes=frozenset({Scope.READ}))
OPERATOR = Viewer(kind=Kind.OPERATOR, actor="operator:carol", owner_id="carol", scopes=frozenset({Scope.ADMIN}))
POWERLESS = Viewer(kind=Kind.SERVICE, actor="service:3")


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
def test_a_scope_brings_reading_and_nothing_else(viewer: Viewer | None, allowed: set[Scope]) -> None:
    assert {scope for scope in Scope if may(viewer, scope)} == allowed


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
def test_a_user_reads_its_own_and_listed_accounts_only(viewer: Viewer | None, readable: set[str]) -> None:
    assert {owner for owner in ("alice", "acme", "bob") if may_read(viewer, owner)} == readable


def test_looking_at_an_organisation_is_not_owning_it() -> None:
    assert owns(USER, "alice")
    assert not owns(USER, "acme")
    assert not owns(EXECUTOR, "alice")
    assert not owns(None, "alice")
