"""The table's arithmetic."""

import json

import pytest
from rich.console import Console

from bench import report, scenarios
from bench.charges import Verdict
from bench.load import is_whole
from bench.requests import Plan, requests_of
from bench.scenarios import Measurement
from bench.stopping import Delays
from bench.tally import Tally, percentile

SINGLE, GATHERED, ROUTE = scenarios.chosen(("single-many", "gathered-many", "floor"))


def a_tally(charges: int, *, p50_ms: float = 4.0) -> Tally:
    """Of 2 seconds; 0.5 s of CPU in the server, 0.25 s in PostgreSQL."""
    return Tally(
        charges=charges, seconds=2.0, p50_ms=p50_ms, p99_ms=9.0, server_cpu_seconds=0.5, database_cpu_seconds=0.25
    )


def test_a_row_shows_medians_and_the_medians_of_the_rounds_own_ratios() -> None:
    rounds = [
        {"single-many": a_tally(1_000), "gathered-many": a_tally(2_000), "floor-many": a_tally(10_000)},
        {"single-many": a_tally(500, p50_ms=8.0), "gathered-many": a_tally(1_500), "floor-many": a_tally(10_000)},
        {"single-many": a_tally(4_000), "gathered-many": a_tally(4_000), "floor-many": a_tally(10_000)},
    ]

    row = report.row(GATHERED, rounds)

    assert (row.per_second, row.p50_ms, row.p99_ms) == (1_000.0, 4.0, 9.0)
    assert (row.server_micros, row.database_micros) == (250.0, 125.0)
    assert row.of_single == 2.0  # of 2, 3 and 1; the ratio of the medians happens to be the same
    assert row.of_floor_cpu == 5.0  # of 250, 333 and 125 µs to 50
    assert (row.of_reference, row.of_pgbench) == (None, None)
    assert report.row(SINGLE, rounds).of_single is None
    assert report.row(ROUTE, rounds).of_single is None


def test_without_both_sides_there_is_no_ratio() -> None:
    rounds = [{"gathered-many": a_tally(1_000)}]

    assert report.row(GATHERED, rounds).of_single is None


def test_the_table_is_markdown_with_a_line_for_each_row() -> None:
    rounds = [{"single-many": a_tally(1_000), "gathered-many": a_tally(2_000)}]
    console = Console(width=220)

    with console.capture() as captured:
        console.print(report.table([report.row(SINGLE, rounds), report.row(GATHERED, rounds)]))

    lines = [line for line in captured.get().splitlines() if line.strip()]
    assert len(lines) == 4
    cells = [cell.strip() for cell in lines[-1].strip("|").split("|")]
    assert cells == ["this server", "10,000", "64", "1,000", "4.0", "9.0", "250", "125", "", "", "2.00", "", ""]


def test_the_data_hold_the_table_the_books_and_every_round() -> None:
    rounds = [{"single-many": a_tally(1_000), "gathered-many": a_tally(2_000)}]
    rows = [report.row(GATHERED, rounds)]
    verdicts = [Verdict("gathered", exact=True, said="the books are whole")]
    delays = [Delays(title="servers idle", milliseconds=[7.0, 30.0, 8.0])]

    found = report.data(machine={"cores": 2}, rows=rows, rounds=rounds, verdicts=verdicts, delays=delays)

    assert found["machine"] == {"cores": 2}
    assert [row["of_single"] for row in found["table"]] == [2.0]
    assert found["books"] == [{"database": "gathered", "exact": True, "said": "the books are whole"}]
    assert found["rounds"][0]["gathered-many"]["charges"] == 2_000
    assert found["stop"] == [
        {"title": "servers idle", "milliseconds": [7.0, 30.0, 8.0], "median_ms": 8.0, "worst_ms": 30.0}
    ]
    assert found["budget"] is None


def test_who_is_alone_is_compared_with_who_is_alone_and_a_crowd_with_the_usual_ones() -> None:
    crowd, alone, pgbench = scenarios.chosen(("gathered-many-256", "gathered-many-1", "pgbench-many-1"))
    rounds = [
        {
            "gathered-many-256": a_tally(3_000), "gathered-many-1": a_tally(100), "pgbench-many-1": a_tally(400),
            "pgbench-many": a_tally(6_000), "floor-many": a_tally(10_000),
        }
    ]  # fmt: skip

    rows = [report.row(one, rounds) for one in (crowd, alone, pgbench)]

    assert [(row.clients, row.of_pgbench, row.of_floor_cpu) for row in rows] == [
        (256, 0.5, pytest.approx(10 / 3)), (1, 0.25, 100.0), (1, None, None),
    ]  # fmt: skip


def test_a_read_says_whose_accounts_it_reads() -> None:
    balance, row_read, page, stock = scenarios.chosen(("balance", "library"))
    rounds = [{one.name: a_tally(1_000) for one in (balance, row_read, page, stock)}]

    rows = [report.row(one, rounds) for one in (balance, row_read, page, stock)]

    assert [(row.name, row.accounts, row.clients, row.of_pgbench) for row in rows] == [
        ("gathered-balance", "10,000", 64, 1.0),
        ("pgbench-balance", "10,000", 32, None),
        ("gathered-library", "1", 16, None),
        ("stock-library", "1", 16, None),
    ]


def test_block_runs_in_a_budget_are_told_as_a_share_of_those_without() -> None:
    rounds = [
        {"gathered-task": a_tally(1_000), "gathered-budget": a_tally(900)},
        {"gathered-task": a_tally(100), "gathered-budget": a_tally(100)},
        {"gathered-task": a_tally(1_000), "gathered-budget": a_tally(800)},
    ]

    assert report.of_budget(rounds) == 0.9
    assert report.of_budget([{"gathered-task": a_tally(1_000)}]) is None
    task, budget = scenarios.chosen(("task", "budget"))
    assert [(one.clients, one.database, report.row(one, rounds).accounts) for one in (task, budget)] == [
        (200, "gathered", "1"), (200, "gathered", "1"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "p50", "p99"), [([], 0.0, 0.0), ([3.0], 3.0, 3.0), ([float(n) for n in range(101)], 50.0, 99.0)]
)
def test_percentiles(values: list[float], p50: float, p99: float) -> None:
    assert (percentile(values, 50), percentile(values, 99)) == (p50, p99)


def test_a_contender_a_load_or_one_measurement_can_be_chosen() -> None:
    def names(*wanted: str) -> list[str]:
        return [measurement.name for measurement in scenarios.chosen(wanted)]

    assert names("batch", "floor") == ["batch-many", "batch-hot", "floor-many"]
    assert names("gathered-hot") == ["gathered-hot"]
    assert names("gathered-many-256", "cached-hot") == ["cached-hot", "gathered-many-256"]
    assert names("stop") == []
    assert names("stop", "task", "budget") == ["gathered-task", "gathered-budget"]
    assert all(name.endswith("-hot") for name in names("hot"))
    assert names() == [measurement.name for measurement in scenarios.ALL]
    with pytest.raises(ValueError, match="There is no nonsense; there are balance, batch, "):
        names("nonsense", "hot")


@pytest.mark.parametrize("kind", ["charge", "batch"])
def test_every_request_is_whole_json_of_the_length_it_says_and_charges_another_block_run(kind: str) -> None:
    plan = Plan(
        kind="batch" if kind == "batch" else "charge", load="many", port=1, key="ck", run="run-1", connections=1,
        warm_up_seconds=0, seconds=1, server_pids=[], database_pids=[],
    )  # fmt: skip
    next_request = requests_of(plan)
    seen: list[str] = []

    for _ in range(3):
        head, body = next_request().split(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")
        asked = json.loads(body)["variables"]["input"]
        items = asked if isinstance(asked, list) else [asked]
        assert all(item["taskId"].startswith("many-") and len(item["taskId"]) == 11 for item in items)
        seen += [item["blockRunId"] for item in items]

    assert len(set(seen)) == len(seen) == (300 if kind == "batch" else 3)


def test_a_reply_in_pieces_is_whole_with_its_last_byte() -> None:
    reply = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 4\r\n\r\ntrue"

    assert [is_whole(reply[:end]) for end in range(len(reply) + 1)] == [False] * len(reply) + [True]
    with pytest.raises(ValueError, match="without content-length"):
        is_whole(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ntrue\r\n")


def test_the_measurements_are_named_once_and_know_their_books() -> None:
    assert len({measurement.name for measurement in scenarios.ALL}) == len(scenarios.ALL) == 27
    batch = Measurement("batch", "hot", "")
    assert (batch.server, batch.database, batch.charges) == ("gathered", "gathered", True)
    [stock] = scenarios.chosen(("stock",))
    assert (stock.server, stock.database, stock.charges) == ("stock", "gathered", False)
    assert (ROUTE.server, ROUTE.database, ROUTE.charges) == ("floor", None, False)


def test_who_reads_balances_needs_the_accounts_that_have_them() -> None:
    assert scenarios.books_of(scenarios.chosen(("gathered-balance",))) == {"many"}
    assert scenarios.books_of(scenarios.chosen(("library",))) == set()
    assert scenarios.books_of(scenarios.chosen(("batch", "budget"))) == {"many", "hot", "budget"}
