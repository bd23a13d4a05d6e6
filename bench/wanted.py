"""The goals of charges and reads: what each contender should be of another, and what these rounds say of it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from rich import box
from rich.table import Table

from bench import report, scenarios
from bench.goals import Goal
from bench.report import Figure, Rounds, rate, server_micros
from bench.tally import Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """`name`'s figure, where `other`'s of the same round is 1, should be at least so much (`lower_is_better`: at
    most)."""

    text: str
    name: str
    other: str
    at_least: float
    aim: float
    figure: Figure = rate
    lower_is_better: bool = False


def p50_ms(tally: Tally) -> float:
    """The median latency of a request."""
    return tally.p50_ms


WANTED: Final[tuple[Wanted, ...]] = (
    Wanted(
        text="single charges, 10,000 accounts, against pgbench's minimal charge",
        name="gathered-many", other="pgbench-many", at_least=0.5, aim=0.8,
    ),
    Wanted(
        text="the same, of a crowd",
        name=f"gathered-many-{scenarios.CROWD}", other="pgbench-many", at_least=0.65, aim=1.0,
    ),
    Wanted(
        text="single charges, one hot account, against pgbench on one row",
        name="gathered-hot", other="pgbench-hot", at_least=3.5, aim=6,
    ),
    Wanted(
        text="chargeBatch(100), charges/s over 10,000 accounts, against pgbench",
        name="batch-many", other="pgbench-many", at_least=1.2, aim=2,
    ),
    Wanted(
        text="chargeBatch(100), charges/s on one account, against pgbench on one row",
        name="batch-hot", other="pgbench-hot", at_least=8, aim=13,
    ),
    Wanted(
        text="single charges, 10,000 accounts, against the reference with Strawberry's caches",
        name="gathered-many", other="cached-many", at_least=8, aim=15,
    ),
    Wanted(
        text="single charges, 10,000 accounts, against list size 1",
        name="gathered-many", other="single-many", at_least=1.5, aim=1.5,
    ),
    Wanted(
        text="single charges, one hot account, against list size 1",
        name="gathered-hot", other="single-hot", at_least=4, aim=4,
    ),
    Wanted(
        text="server CPU of a charge, against a plain Starlette route",
        name="gathered-many", other="floor-many", at_least=2.5, aim=1.5, figure=server_micros, lower_is_better=True,
    ),
    Wanted(
        text="idle latency of a charge, p50, against pgbench with one client",
        name=f"gathered-many-{scenarios.ALONE}", other=f"pgbench-many-{scenarios.ALONE}",
        at_least=5, aim=2.5, figure=p50_ms, lower_is_better=True,
    ),
    Wanted(
        text="balance query, against pgbench's read by primary key",
        name="gathered-balance", other="pgbench-balance", at_least=0.25, aim=0.4,
    ),
    Wanted(
        text="library page of 50 tasks, against the same on stock Strawberry",
        name="gathered-library", other="stock-library", at_least=4, aim=10,
    ),
)  # fmt: skip


def measurements() -> list[scenarios.Measurement]:
    """Those that the goals are about."""
    named = {name for wanted in WANTED for name in (wanted.name, wanted.other)}
    return [one for one in scenarios.ALL if one.name in named]


def goals(rounds: Rounds) -> list[Goal]:
    """The goals that these rounds can tell of: both sides were measured."""
    named = {measurement.name: measurement for measurement in scenarios.ALL}
    return [
        Goal(
            text=wanted.text,
            clients=named[wanted.name].clients,
            at_least=wanted.at_least,
            aim=wanted.aim,
            found=found,
            lower_is_better=wanted.lower_is_better,
        )
        for wanted in WANTED
        if (found := report.ratio(_telling(rounds, wanted), wanted.name, wanted.other, wanted.figure)) is not None
    ]


def _telling(rounds: Rounds, wanted: Wanted) -> Rounds:
    """Where less is better, a round in which nothing was answered is not the best of all."""
    if not wanted.lower_is_better:
        return rounds
    return [measured for measured in rounds if wanted.name in measured and measured[wanted.name].charges]


def verdict(goal: Goal) -> str:
    """In two words, for the table and the file."""
    return "aim reached" if goal.aimed else "reached" if goal.reached else "not reached"


def said(goal: Goal) -> dict[str, Any]:
    """As data."""
    return asdict(goal) | {"verdict": verdict(goal)}


def table(told: Sequence[Goal]) -> Table:
    """Markdown, as `report.table` is."""
    shown = Table(box=box.MARKDOWN)
    shown.add_column("goal", no_wrap=True)
    for title in ("clients", "at least", "aim", "found", "verdict"):
        shown.add_column(title, justify="right", no_wrap=True)
    for goal in told:
        bound = "≤ " if goal.lower_is_better else ""
        figures = f"{bound}{goal.at_least:g}", f"{bound}{goal.aim:g}", f"{goal.found:.3g}"
        shown.add_row(goal.text, f"{goal.clients:,}", *figures, verdict(goal))
    return shown
