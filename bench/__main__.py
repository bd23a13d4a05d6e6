"""`python -m bench`: the command line, the rounds, and the tables at the end."""

import asyncio
import json
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import click
import uvloop
from rich.console import Console

from app.db import database_url
from app.settings import get_settings
from bench import charges, environment, growth, live, report
from bench.charges import Contenders, LedgerCheck, Measurement, MeasurementFailed
from bench.databases import FillFailed
from bench.environment import ServerFailed
from bench.http_client import ChargeFailed
from bench.pgbench import PgbenchFailed
from bench.report import Figures, GoalResult, Section
from bench.subscribers import SubscribersFailed
from bench.wrk import ClientFailed

ERRORS: Final = (
    ChargeFailed, ClientFailed, FillFailed, MeasurementFailed, PgbenchFailed, ServerFailed, SubscribersFailed,
)  # fmt: skip
LIVE: Final = "live"
GROWTH: Final = "growth"
POSTGRESQL_SETTINGS: Final = ("server_version", "fsync", "synchronous_commit", "shared_buffers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """`rounds` and `seconds`: of charges and reads."""

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
    rounds=5,
    seconds=5.0,
    live=live.Options(large=live.LARGE),
    growth=growth.Options(entries=(10_000, 100_000, 1_000_000)),
)


@dataclass(slots=True)
class Results:
    """Tables are printed as soon as they are complete; goals and data are collected until the end."""

    out: Console
    goals: list[GoalResult] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    is_exact: bool = True

    def add(self, section: Section) -> None:
        self.out.print(section.table())
        self.out.print(section.caption, width=120, highlight=False)
        self.goals += report.goal_results(section.goals, section.rounds)
        self.data[section.name] = section.as_json()

    def add_checks(self, checks: list[LedgerCheck]) -> None:
        for check in checks:
            verdict = "exact" if check.is_exact else "NOT EXACT"
            self.out.print(f"ledger of {check.contender}: {verdict}. {check.text}", highlight=False)
        self.is_exact = self.is_exact and all(check.is_exact for check in checks)
        self.data.setdefault("ledgers", []).extend(asdict(check) for check in checks)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--quick", is_flag=True, help="About two minutes: one round of what the goals compare, without growth.")
@click.option("--full", is_flag=True, help="About half an hour: longer rounds, 10,000 subscribers, a million entries.")
@click.option("--rounds", type=click.IntRange(1, 100), help="How often everything is measured. Default: 5.")
@click.option(
    "--seconds", type=click.FloatRange(0.5, 600), help="Of each measurement of charges and reads. Default: 1."
)
@click.option(
    "--only",
    metavar="NAME",
    multiple=True,
    help="A contender (server, unbatched, interpreted, workers, batch, stock, route, pgbench), a load (many, hot, "
    "balance, library), one measurement (server-many-256), live or growth. May be repeated. "
    "A ratio needs both of its sides.",
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
    """Measure charges, reads, subscriptions and growth, as ratios against references, in about ten minutes.

    Starts its own PostgreSQL servers in DATA_DIR and every server that it measures, and stops them all. Other settings
    of the server may be set in the environment, for example POSTING_CONNECTIONS=4. Tables go to stdout, progress to
    stderr. Exits with 1 if a ledger does not hold exactly the acknowledged charges.
    """
    if quick and full:
        raise click.UsageError("--quick and --full exclude each other.")
    extent = QUICK if quick else FULL if full else USUAL
    if rounds is not None:
        extent = replace(
            extent,
            rounds=rounds,
            live=replace(extent.live, rounds=rounds),
            growth=replace(extent.growth, rounds=rounds),
        )
    try:
        if only:
            measurements = charges.select([name for name in only if name not in (LIVE, GROWTH)])
        else:
            measurements = charges.needed_for_goals() if quick else list(charges.ALL)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--only") from None
    others = {LIVE, GROWTH} & set(only) if only else {LIVE} if quick else {LIVE, GROWTH}
    environment.exit_on_sigterm()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            extent = replace(extent, seconds=seconds or extent.seconds)
            is_exact = runner.run(run(measurements, extent, others, file))
    except ERRORS as error:
        raise click.ClickException(str(error)) from None
    ctx.exit(0 if is_exact else 1)


async def run(measurements: list[Measurement], extent: Extent, others: Collection[str], file: Path | None) -> bool:
    """Measure and print. `others`: LIVE, GROWTH, both or neither. Returns whether all ledgers were exact."""
    started_at = time.monotonic()
    # A table row that is wrapped is not Markdown, so the width does not depend on the terminal.
    results, err = Results(Console(width=220)), Console(stderr=True)
    results.data["machine"] = environment.machine()
    results.data["machine"] |= get_settings().model_dump(include={"posting_connections", "batch_limit"})

    def progress(text: str) -> None:
        err.print(f"{time.monotonic() - started_at:5.0f} s  {text}", highlight=False, soft_wrap=True)

    with environment.benchmark_directory() as directory:
        if measurements:
            await _measure_charges(measurements, extent, directory, results, progress)
        if LIVE in others:
            rounds = await live.measure(directory, extent.live, progress)
            results.add(live.section(rounds, extent.live))
        if GROWTH in others:
            rounds, checks = await growth.measure(directory, extent.growth, progress)
            results.add(growth.section(rounds, extent.growth))
            results.add_checks(checks)
    if results.goals:
        results.out.print(report.goals_table(results.goals))
    if file:
        results.data["goals"] = [result.as_json() for result in results.goals]
        _write(file, results.data)
        progress(f"written to {file}")
    progress("done")
    return results.is_exact


def _write(file: Path, data: dict[str, Any]) -> None:
    file.write_text(json.dumps(data, indent=2) + "\n")


async def _measure_charges(
    measurements: list[Measurement], extent: Extent, directory: Path, results: Results, progress: Any
) -> None:
    async with charges.started(measurements, directory, progress) as contenders:
        results.data["machine"] |= await _postgresql_settings(contenders)
        rounds: list[dict[str, Figures]] = []
        for number in range(1, extent.rounds + 1):
            measured: dict[str, Figures] = {}
            # Every second round is reversed, so that none always follows the same one.
            for measurement in measurements if number % 2 else reversed(measurements):
                result = await contenders.measure(measurement, number=number, seconds=extent.seconds)
                figures = measured[measurement.name] = result.figures()
                texts = (
                    f"{column.title} {figures.get(column.figure, 0):{column.form}}" for column in charges.COLUMNS[:5]
                )
                progress(f"round {number}  {measurement.name:<18} {'  '.join(texts)}")
            rounds.append(measured)
        progress("verifying the ledgers")
        checks = await contenders.check_ledgers()
    results.add(charges.section(measurements, rounds, seconds=extent.seconds))
    results.out.print(", ".join(f"{name} {value}" for name, value in results.data["machine"].items()), highlight=False)
    results.add_checks(checks)


async def _postgresql_settings(contenders: Contenders) -> dict[str, str]:
    url = next(iter(contenders.urls.values()), None)
    if url is None:
        return {}
    connection = await database_url.connect(url)
    try:
        return {name: await connection.fetchval("SELECT current_setting($1)", name) for name in POSTGRESQL_SETTINGS}
    finally:
        await connection.close()


if __name__ == "__main__":
    command(prog_name="python -m bench")
