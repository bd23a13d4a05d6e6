"""`python -m bench`: the command line, the rounds, and the tables at the end."""

import asyncio
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import click
import uvloop
from rich.console import Console

from app.settings import get_settings
from bench import charges, databases, environment, growth, live, report
from bench.charges import Measurement
from bench.environment import BenchmarkFailed, progress
from bench.report import Figures, Goal, Section
from bench.workload import Extent

LIVE: Final = "live"
GROWTH: Final = "growth"
SETTINGS: Final = (
    "SELECT string_agg(name || ' ' || current_setting(name), ', ') FROM pg_settings "
    "WHERE name IN ('server_version', 'fsync', 'synchronous_commit', 'shared_buffers')"
)

QUICK: Final = Extent(rounds=1, subscribers=200, entries=(1_000, 10_000), pages=20)
FULL: Final = Extent(
    seconds=5.0, live_seconds=5.0, more_subscribers=(5_000, 10_000), growth_seconds=4.0, pages=200,
    entries=(10_000, 100_000, 1_000_000),
)  # fmt: skip


@dataclass(slots=True)
class Results:
    """Tables are printed as soon as they are complete; goals and data are collected until the end."""

    out: Console
    goals: list[tuple[Goal, float]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    is_exact: bool = True

    def add(self, section: Section) -> None:
        self.out.print(section.table())
        self.out.print(section.caption, width=120, highlight=False)
        self.goals += report.goal_results(section.goals, section.rounds)
        self.data[section.name] = section.rounds

    def add_ledger(self, name: str, is_exact: bool, text: str) -> None:
        """Add the verification of a ledger. `is_exact`: it is valid and contains exactly the acknowledged charges."""
        self.out.print(f"ledger of {name}: {'exact' if is_exact else 'NOT EXACT'}. {text}", highlight=False)
        self.is_exact = self.is_exact and is_exact
        self.data.setdefault("ledgers", {})[name] = text


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--quick", is_flag=True, help="About two minutes: one round of what the goals compare, without growth.")
@click.option("--full", is_flag=True, help="About half an hour: longer rounds, 10,000 subscribers, a million entries.")
@click.option("--rounds", type=click.IntRange(1, 100), help="How often everything is measured. Default: 5.")
@click.option("--seconds", type=click.FloatRange(0.5, 600), help="Of each measurement of charges and reads.")
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
    extent = QUICK if quick else FULL if full else Extent()
    extent = replace(extent, rounds=rounds or extent.rounds, seconds=seconds or extent.seconds)
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
            results = runner.run(run(measurements, extent, others))
    except BenchmarkFailed as error:
        raise click.ClickException(str(error)) from None
    if file:
        file.write_text(json.dumps(results.data, indent=2) + "\n")
    ctx.exit(0 if results.is_exact else 1)


async def run(measurements: list[Measurement], extent: Extent, others: Collection[str]) -> Results:
    """Measure, and print the tables. `others` contains LIVE, GROWTH, both or neither."""
    # A table row that is wrapped is not Markdown, so the width does not depend on the terminal.
    results = Results(Console(width=220))
    results.data["machine"] = environment.machine()
    results.data["machine"] |= get_settings().model_dump(include={"posting_connections", "batch_limit"})

    with environment.benchmark_directory() as directory:
        if measurements:
            await _measure_charges(measurements, extent, directory, results)
        if LIVE in others:
            results.add(live.section(await live.measure(directory, extent), extent))
        if GROWTH in others:
            rounds, verified = await growth.measure(directory, extent)
            results.add(growth.section(rounds, extent))
            results.add_ledger(GROWTH, *verified)
    if results.goals:
        results.out.print(report.goals_table(results.goals))
    results.data["goals"] = [asdict(goal) | {"found": found} for goal, found in results.goals]
    progress("done")
    return results


async def _measure_charges(measurements: list[Measurement], extent: Extent, directory: Path, results: Results) -> None:
    async with charges.started(measurements, directory) as contenders:
        if contenders.urls:
            [url, *_] = contenders.urls.values()
            results.data["machine"]["PostgreSQL"] = await databases.fetch(url, SETTINGS)
        rounds: list[dict[str, Figures]] = []
        for number in range(1, extent.rounds + 1):
            measured: dict[str, Figures] = {}
            # Every second round is reversed, so that a measurement does not always follow the same one.
            for measurement in measurements if number % 2 else reversed(measurements):
                result = await contenders.measure(measurement, number=number, seconds=extent.seconds)
                measured[measurement.name] = result.figures()
                latencies = f"p50 {result.p50_ms:.1f} ms  p99 {result.p99_ms:.1f} ms"
                progress(f"round {number}  {measurement.name:<18} {result.per_second:,.0f}/s  {latencies}")
            rounds.append(measured)
        progress("verifying the ledgers")
        verified = await contenders.verify_ledgers()
    results.add(charges.section(measurements, rounds, seconds=extent.seconds))
    results.out.print(", ".join(f"{name} {value}" for name, value in results.data["machine"].items()), highlight=False)
    for name, (is_exact, text) in verified.items():
        results.add_ledger(name, is_exact, text)


if __name__ == "__main__":
    command(prog_name="python -m bench")
