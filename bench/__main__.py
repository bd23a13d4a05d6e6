"""`python -m bench`: the rounds, their progress, and the table at the end."""

import asyncio
import os
import platform
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import asyncpg
import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from app import database
from app.commands.reach import use_settings
from app.settings import data_directory, settings
from bench import measure, report, scenarios, stopping, wanted
from bench.goals import Goal
from bench.load import Tally
from bench.pgbench import PgbenchFailed
from bench.scenarios import Measurement
from bench.servers import ServerFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much is measured. `full`: the large counts too, where something has them."""

    rounds: int
    seconds: float
    full: bool = False


USUAL: Final = Extent(rounds=5, seconds=1.5)
QUICK: Final = Extent(rounds=1, seconds=1.0)
FULL: Final = Extent(rounds=5, seconds=5.0, full=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--quick", is_flag=True, help="About two minutes: 1 round of 1 second. Good for a look, not for a table.")
@click.option("--full", is_flag=True, help="About twenty minutes: 5 rounds of 5 seconds, and the large counts.")
@click.option("--rounds", type=click.IntRange(1, 100), help="Times that everything is measured. Default: 5.")
@click.option(
    "--seconds",
    type=click.FloatRange(0.5, 600),
    help="Of each measurement, after its warm-up (pgbench: whole seconds). Default: 1.5.",
)
@click.option(
    "--only",
    metavar="NAME",
    multiple=True,
    help="A contender (reference, cached, single, plain, gathered, batch, pgbench, stock, floor), a load (many, hot, "
    "task, budget, balance, library), one measurement (gathered-hot, gathered-many-256), or stop. May be given several "
    "times. Ratios need both of their sides.",
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
    """Measure charges and reads, as ratios against references: about 10 minutes.

    Starts a PostgreSQL of its own in DATA_DIR, and every server it measures; ends them all. The table goes to stdout,
    progress to stderr. Settings of the server that are in the environment (LANES=4) hold for it here too.
    """
    if quick and full:
        raise click.UsageError("--quick and --full exclude each other.")
    usual = QUICK if quick else FULL if full else USUAL
    extent = replace(usual, rounds=rounds or usual.rounds, seconds=seconds or usual.seconds)
    try:
        measurements = scenarios.chosen(only)
        stops = not only or scenarios.STOP in only
    except ValueError as fault:
        raise click.BadParameter(str(fault), param_hint="--only") from None
    signal.signal(signal.SIGTERM, _leave)
    try:
        whole = asyncio.run(run(measurements, extent, stops=stops, file=file))
    except (measure.Failed, ServerFailed, PgbenchFailed) as fault:
        raise click.ClickException(str(fault)) from None
    ctx.exit(0 if whole else 1)


async def run(measurements: list[Measurement], extent: Extent, *, stops: bool, file: Path | None) -> bool:
    """Measure and tell. `stops`: also how long it takes to tell an executor to stop. True: all books were exact
    afterwards."""
    started = time.monotonic()
    err = Console(stderr=True)
    with _place() as place:
        use_settings(data_dir=str(place), environment="development", jwks_url="")
        with _progress(err) as progress:
            making = progress.add_task("preparing", total=scenarios.MANY_ACCOUNTS)
            async with measure.opened(
                measurements,
                stops=stops,
                place=place,
                advanced=lambda count: progress.advance(making, count),
                say=lambda text: progress.update(making, description=text),
            ) as field:
                progress.update(making, visible=False)
                machine = await _machine(field, **asdict(extent))
                measured = await _rounds(field, measurements, progress, extent)
                delays = await stopping.measure(field, progress.console.print) if stops else []
                progress.console.print("auditing the books")
                verdicts = await field.verdicts()
    rows = [report.row(measurement, measured) for measurement in measurements]
    # Wide, whatever the terminal: a row that is broken in two is no row of a table.
    out = Console(width=220)
    if rows:
        out.print(report.table(rows))
        out.print(report.CAPTION.format(rounds=extent.rounds, seconds=extent.seconds), width=120, highlight=False)
    out.print(f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}, ", end="")
    out.print(f"PostgreSQL {machine['postgresql']}, fsync {machine['fsync']}", highlight=False)
    if told := _goals(measured):
        out.print(wanted.table(told))
    if (inside := report.of_budget(measured)) is not None:
        out.print(f"block runs inside one budget, against the same task without: {inside:.2f}x", highlight=False)
    for delay in delays:
        out.print(f"from the last credit to the STOP at an executor on another server, {delay.said}", highlight=False)
    for one in verdicts:
        out.print(f"books of {one.database}: {'exact' if one.exact else 'NOT EXACT'}. {one.said}", highlight=False)
    if file:
        goals = [wanted.said(goal) for goal in told]
        report.write(file, machine=machine, rows=rows, rounds=measured, goals=goals, verdicts=verdicts, delays=delays)
        err.print(f"written to {file}")
    err.print(f"{time.monotonic() - started:.0f} s in all")
    return all(one.exact for one in verdicts)


def _goals(measured: Sequence[dict[str, Tally]]) -> list[Goal]:
    """Every goal that this run can tell of, in the order of the table."""
    return [*wanted.goals(measured)]


async def _rounds(
    field: measure.Field, measurements: list[Measurement], progress: Progress, extent: Extent
) -> list[dict[str, Tally]]:
    """Every other round goes backwards, so that nobody always follows the same one."""
    measured: list[dict[str, Tally]] = []
    bar = progress.add_task("measuring", total=extent.rounds * len(measurements))
    for number in range(1, extent.rounds + 1):
        found: dict[str, Tally] = {}
        for measurement in measurements if number % 2 else reversed(measurements):
            progress.update(bar, description=f"round {number} of {extent.rounds}: {measurement.name}")
            tally = found[measurement.name] = await field.measure(measurement, number=number, seconds=extent.seconds)
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


def _leave(_signal: int, _frame: object) -> None:
    """Through every `with`, so that what was started is ended."""
    raise SystemExit(143)


@contextmanager
def _place() -> Iterator[Path]:
    """A new directory on the disk where this installation keeps its data: a memory file system would flatter fsync."""
    home = data_directory(settings())
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=home, ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)
        try:
            yield Path(directory)
        finally:
            cluster = Path(directory, "postgres", "cluster")
            if cluster.is_symlink():  # for root it lies elsewhere, in a directory of its own: app.postgres_programs
                shutil.rmtree(cluster.resolve().parent, ignore_errors=True)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


async def _machine(field: measure.Field, **options: Any) -> dict[str, Any]:
    """What the figures depend on."""
    found: dict[str, Any] = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "lanes": settings().lanes,
        "batch_limit": settings().batch_limit,
    }
    if url := next(iter(field.urls.values()), None):
        connection = await asyncpg.connect(**database.credentials(url))
        for name in ("server_version", "fsync", "synchronous_commit", "shared_buffers"):
            found[name] = await connection.fetchval("SELECT current_setting($1)", name)
        await connection.close()
    return found | {"postgresql": found.pop("server_version", None)} | options


if __name__ == "__main__":
    command(prog_name="python -m bench")
