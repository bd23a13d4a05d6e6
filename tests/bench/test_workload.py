"""The requests that clients send, and how responses are counted."""

import json
from typing import Any

import pytest

from bench import workload
from bench.http_client import LoadRun
from bench.workload import Load, LoadPlan, LoadResult, Request


def a_plan(request: Request, load: Load = "many", **more: Any) -> LoadPlan:
    return LoadPlan(
        request=request, load=load, port=1, key="ck", run="run-1", connections=1, seconds=1, server_pids=[],
        database_pids=[], **more,
    )  # fmt: skip


def bodies(plan: LoadPlan, count: int) -> list[Any]:
    """The JSON of the first requests, whose Content-Length is right."""
    next_request = workload.request_factory(plan)
    found = []
    for _ in range(count):
        head, body = next_request().split(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")
        found.append(json.loads(body))
    return found


@pytest.mark.parametrize(("request_kind", "items"), [("charge", 1), ("batch", 100), ("route", 1)])
def test_every_request_charges_another_block_run(request_kind: Request, items: int) -> None:
    inputs = [body["variables"]["input"] for body in bodies(a_plan(request_kind), 3)]

    charges = [charge for one in inputs for charge in (one if isinstance(one, list) else [one])]
    assert {charge["blockRunId"] for charge in charges} == {f"run-1-{number:08d}" for number in range(3 * items)}
    assert all(charge["taskId"].startswith("many-") and len(charge["taskId"]) == 11 for charge in charges)


@pytest.mark.parametrize(("load", "accounts", "tasks"), [("many", 3, 3), ("hot", 10_000, 64)])
def test_only_existing_tasks_are_charged(load: Load, accounts: int, tasks: int) -> None:
    found = bodies(a_plan("charge", load, accounts=accounts), 2_000)

    expected = {workload.task_id(load, number) for number in range(tasks)}
    assert {body["variables"]["input"]["taskId"] for body in found} == expected


def test_balances_are_read_from_different_accounts_that_exist() -> None:
    found = bodies(a_plan("balance", "balance"), 3_000)

    numbers = {int(body["variables"]["ownerId"].removeprefix("owner-")) for body in found}
    assert numbers < set(range(workload.MANY_ACCOUNTS))
    assert len(numbers) > 2_000
    assert {body["query"] for body in found} == {workload.BALANCE}


def test_the_library_page_is_the_same_request_each_time() -> None:
    assert (
        bodies(a_plan("library", "library"), 2)
        == [{"query": workload.LIBRARY, "variables": workload.LIBRARY_VARIABLES}] * 2
    )


@pytest.mark.parametrize(
    ("request_kind", "markers", "acknowledged", "refused"),
    [("library", 50, 1, 0), ("library", 49, 0, 1), ("library", 0, 0, 1), ("batch", 100, 100, 0), ("batch", 97, 97, 3)],
)
def test_a_read_counts_once_if_complete_and_each_charge_of_a_batch_counts(
    request_kind: Request, markers: int, acknowledged: int, refused: int
) -> None:
    run = LoadRun(a_plan(request_kind))

    run.count(workload.MARKERS[request_kind][0].encode() * markers, 0.1)

    assert (run.acknowledged, run.refused, run.refusal is None) == (acknowledged, refused, not refused)


def test_figures_are_per_charge_and_a_server_that_answered_nothing_has_only_a_rate() -> None:
    result = LoadResult(
        charges=1_000, seconds=2.0, p50_ms=4.0, p99_ms=9.0, server_cpu_seconds=0.5, database_cpu_seconds=0.25
    )
    nothing = LoadResult(charges=0, seconds=2.0, p50_ms=0, p99_ms=0, server_cpu_seconds=1, database_cpu_seconds=1)

    assert result.figures() == {
        "per_second": 500.0, "p50_ms": 4.0, "p99_ms": 9.0, "server_micros": 500.0, "database_micros": 250.0,
    }  # fmt: skip
    assert nothing.figures() == {"per_second": 0.0}
