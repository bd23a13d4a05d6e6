"""The client's reads: what is sent, and what counts as an answer."""

import json

import pytest

from bench import scenarios
from bench.load import load_of
from bench.requests import Kind, Plan, requests_of


def a_plan(kind: Kind, load: scenarios.Load) -> Plan:
    return Plan(
        kind=kind, load=load, port=1, key="ck", run="run-1", connections=1, warm_up_seconds=0, seconds=1,
        server_pids=[], database_pids=[],
    )  # fmt: skip


def test_balances_are_asked_of_different_accounts_that_there_are_in_whole_requests() -> None:
    next_request = requests_of(a_plan("balance", "balance"))
    seen = []

    for _ in range(3_000):
        head, body = next_request().split(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")
        asked = json.loads(body)
        assert asked["query"] == scenarios.BALANCE
        seen.append(int(asked["variables"]["ownerId"].removeprefix("owner-")))

    assert set(seen) < set(range(scenarios.MANY_ACCOUNTS))
    assert len(set(seen)) > 2_000


def test_the_library_page_is_asked_the_same_way_each_time() -> None:
    next_request = requests_of(a_plan("library", "library"))

    head, body = next_request().split(b"\r\n\r\n")

    assert next_request() == next_request() == head + b"\r\n\r\n" + body
    assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")
    assert json.loads(body) == {"query": scenarios.LIBRARY, "variables": scenarios.LIBRARY_ASKED}


@pytest.mark.parametrize(
    ("kind", "marks", "refused"),
    [("library", 50, 0), ("library", 49, 1), ("library", 0, 1), ("batch", 100, 0), ("batch", 97, 3)],
)
def test_a_page_counts_once_and_only_whole_and_each_charge_of_a_list_for_itself(
    kind: Kind, marks: int, refused: int
) -> None:
    load = load_of(a_plan(kind, "library" if kind == "library" else "many"))

    load.answered(load.mark * marks, sent_at=0.0)

    assert load.acknowledged == (marks if kind == "batch" else 1 - refused)
    assert (load.refused, load.refusal is None) == (refused, not refused)
