"""`python -m bench`: the rounds, their progress, and the table at the end."""

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import asyncpg
import click
from rich.console import Console
from rich.progress import Progress

from app.db import pools
from app.settings import get_settings
from bench import charges, environment, growth, live, report, scenarios, stopping, wanted
from bench.audience import AudienceFailed
from bench.client import ClientFailed
from bench.goals import Goal
from bench.growth_books import Unfilled
from bench.growth_rounds import Unequal
from bench.pacing import Unpaced
from bench.pgbench import PgbenchFailed
from bench.scenarios import Measurement
from bench.servers import ServerFailed
from bench.subscribers import Disturbed
from bench.tally import Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much is measured: rounds and seconds of charges and reads; subscriptions and growth by options of theirs."""

    rounds: int
    seconds: float
    live: live.Options
    growth: growth.Options


USUAL: Final = Extent(
    rounds=5, seconds=1.0, live=live.Options(seconds=2.0), growth=growth.Options(seconds=1.5, pages=100)
)
QUICK: Final = Extent(
    rounds=1,
    seconds=1.0,
    live=live.Options(subscribers=200, rounds=1, seconds=2.0),
    growth=growth.Options(entries=(1_000, 10_000), rounds=1, seconds=1.0, pages=20),
)
FULL: Final = Extent(
    rounds=5, seconds=5.0, live=live.Options(large=live.LARGE), growth=growth.Options(entries=growth.FULL)
)
BESIDES: Final = frozenset({scenarios.STOP, scenarios.LIVE, scenarios.GROWTH})
FAULTS: Final = (
    charges.Failed, ClientFailed, ServerFailed, PgbenchFailed, AudienceFailed, Disturbed, Unfilled, Unpaced, Unequal,
)  # fmt: skip
"""Why a run comes to nothing, in words for people."""


@dataclass(slots=True)
class Told:
    """What a run came to: tables are printed as it goes on; goals and data are gathered."""

    goals: list[Goal] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    exact: bool = True
    """Whether all books were exact afterwards."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option(
    "--quick",
    is_flag=True,
    help="About two minutes: one round of what the goals of charges, reads and subscriptions are about. A look, not a "
    "table.",
)
@click.option("--full", is_flag=True, help="About thirty-five minutes: longer, 10,000 subscribers, a million entries.")
@click.option("--rounds", type=click.IntRange(1, 100), help="Of charges and reads, live and growth. Default: 5.")
@click.option(
    "--seconds",
    type=click.FloatRange(0.5, 600),
    help="Of each measurement of charges and reads, after its warm-up (pgbench: whole seconds). Default: 1.",
)
@click.option(
    "--only",
    metavar="NAME",
    multiple=True,
    help="A contender (reference, cached, single, plain, gathered, pair, batch, pgbench, stock, floor), a load (many, "
    "hot, task, budget, balance, library), one measurement (gathered-hot, gathered-many-256), stop, live or growth. "
    "May be given several times. Ratios need both of their sides.",
)
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures to this file.")
@click.pass_context
def command(
    ctx: click.Context,
    *,
    quick: bool,
    full: bool,
    rounds: int | None,
    seconds: float | None,
    only: tuple[str, ...],
    file: Path | None,
) -> None:
    """Measure charges, reads, subscriptions and growth, as ratios against references: a little over ten minutes.

    Starts PostgreSQLs of its own in DATA_DIR, and every server it measures; ends them all. Tables go to stdout,
    progress to stderr. Settings of the server that are in the environment (POSTING_CONNECTIONS=4) hold for it here too. Subscriptions
    and growth can be had alone, with options of theirs: `python -m bench.live`, `python -m bench.growth`.
    """
    if quick and full:
        raise click.UsageError("--quick and --full exclude each other.")
    extent = QUICK if quick else FULL if full else USUAL
    if rounds is not None:
        pushes, sizes = replace(extent.live, rounds=rounds), replace(extent.growth, rounds=rounds)
        extent = replace(extent, rounds=rounds, live=pushes, growth=sizes)
    try:
        measurements = wanted.measurements() if quick and not only else scenarios.chosen(only)
    except ValueError as fault:
        raise click.BadParameter(str(fault), param_hint="--only") from None
    besides = BESIDES & frozenset(only) if only else frozenset({scenarios.LIVE}) if quick else BESIDES
    environment.leave_when_told()
    try:
        whole = asyncio.run(run(measurements, replace(extent, seconds=seconds or extent.seconds), besides, file))
    except FAULTS as fault:
        raise click.ClickException(str(fault)) from None
    ctx.exit(0 if whole else 1)


async def run(measurements: list[Measurement], extent: Extent, besides: Collection[str], file: Path | None) -> bool:
    """Measure and tell. `besides`: which of BESIDES. True: all books were exact afterwards."""
    started = time.monotonic()
    out, err, told = environment.wide(), Console(stderr=True), Told()
    if measurements or scenarios.STOP in besides:
        await _charges(measurements, extent, scenarios.STOP in besides, out=out, err=err, told=told)
    if scenarios.LIVE in besides:
        pushed = await live.measured(extent.live, err)
        live.show(pushed, out)
        told.goals += pushed.goals
        told.data["live"] = pushed.as_json()
    if scenarios.GROWTH in besides:
        grown = await growth.measured(extent.growth, err)
        growth.show(grown, out)
        told.goals += grown.goals
        told.data["growth"] = grown.as_json()
        told.exact = told.exact and grown.exact
    if told.goals:
        out.print(wanted.table(told.goals))
    if file:
        environment.keep(file, told.data | {"goals": [wanted.said(goal) for goal in told.goals]})
        err.print(f"written to {file}")
    err.print(f"{time.monotonic() - started:.0f} s in all")
    return told.exact


async def _charges(
    measurements: list[Measurement], extent: Extent, stops: bool, *, out: Console, err: Console, told: Told
) -> None:
    """Charges and reads. `stops`: also how long it takes to tell an executor to stop."""
    with environment.own_place() as here, environment.progress(err) as progress:
        making = progress.add_task("preparing", total=scenarios.MANY_ACCOUNTS)
        async with charges.opened(
            measurements,
            stops=stops,
            place=here,
            advanced=lambda count: progress.advance(making, count),
            say=lambda text: progress.update(making, description=text),
        ) as ground:
            progress.update(making, visible=False)
            machine = await _machine(ground, rounds=extent.rounds, seconds=extent.seconds)
            measured = await _rounds(ground, measurements, progress, extent)
            delays = await stopping.measure(ground, progress.console.print) if stops else []
            progress.console.print("auditing the books")
            verdicts = await ground.verdicts()
    rows = [report.row(measurement, measured) for measurement in measurements]
    if rows:
        out.print(report.table(rows))
        out.print(report.CAPTION.format(rounds=extent.rounds, seconds=extent.seconds), width=120, highlight=False)
    out.print(f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}, ", end="")
    out.print(
        f"PostgreSQL {machine['postgresql']}, fsync {machine['fsync']}, client {machine['client']}", highlight=False
    )
    if (inside := report.of_budget(measured)) is not None:
        out.print(f"block runs inside one budget, against the same task without: {inside:.2f}x", highlight=False)
    for delay in delays:
        out.print(f"from the last credit to the STOP at an executor on another server, {delay.said}", highlight=False)
    for one in verdicts:
        out.print(f"books of {one.database}: {'exact' if one.exact else 'NOT EXACT'}. {one.said}", highlight=False)
    told.exact = told.exact and all(one.exact for one in verdicts)
    told.goals += wanted.goals(measured)
    told.data |= report.data(machine=machine, rows=rows, rounds=measured, verdicts=verdicts, delays=delays)


async def _rounds(
    ground: charges.Field, measurements: list[Measurement], progress: Progress, extent: Extent
) -> list[dict[str, Tally]]:
    """Every other round goes backwards, so that nobody always follows the same one."""
    measured: list[dict[str, Tally]] = []
    bar = progress.add_task("measuring", total=extent.rounds * len(measurements))
    for number in range(1, extent.rounds + 1):
        found: dict[str, Tally] = {}
        for measurement in measurements if number % 2 else reversed(measurements):
            progress.update(bar, description=f"round {number} of {extent.rounds}: {measurement.name}")
            tally = found[measurement.name] = await ground.measure(measurement, number=number, seconds=extent.seconds)
            progress.advance(bar)
            progress.console.print(
                f"round {number}  {measurement.name:<17} {report.rate(tally):>9,.0f}/s  p50 {tally.p50_ms:>6.1f} ms"
                f"  p99 {tally.p99_ms:>6.1f} ms  server {report.server_micros(tally):>5.0f} µs"
                f"  PostgreSQL {report.database_micros(tally):>5.0f} µs",
                highlight=False,
                soft_wrap=True,
            )
        measured.append(found)
    progress.update(bar, visible=False)
    return measured


async def _machine(ground: charges.Field, **options: Any) -> dict[str, Any]:
    """What the figures depend on."""
    found: dict[str, Any] = {
        **environment.machine(),
        "lanes": get_settings().posting_connections,
        "batch_limit": get_settings().batch_limit,
    }
    if url := next(iter(ground.urls.values()), None):
        connection = await asyncpg.connect(**pools.connection_arguments(url))
        for name in ("server_version", "fsync", "synchronous_commit", "shared_buffers"):
            found[name] = await connection.fetchval("SELECT current_setting($1)", name)
        await connection.close()
    return found | {"postgresql": found.pop("server_version", None)} | options


if __name__ == "__main__":
    command(prog_name="python -m bench")
