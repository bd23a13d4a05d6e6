"""`python -m bench.live`: what live balances cost, against the same subscription on Strawberry's own view.

N subscribers, each with an account and a token of its own, follow their balances over WebSockets, as the header of
every page does, while charges come at a steady rate through another server on the same database. Every round starts
each server anew, so that memory and the rate of acceptance are those of a fresh one.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

from app.auth import development_keys
from bench import databases, environment, live_report, live_rounds, servers, wanted
from bench.audience import AudienceFailed
from bench.client import ClientFailed
from bench.goals import Goal
from bench.live_report import Contender, Row, Sample
from bench.servers import ServerFailed
from bench.subscribers import Disturbed

LARGE: Final = (5_000, 10_000)
SPARE_FILES: Final = 500

Said = Callable[[str], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`large`: counts measured once more, of this server alone, after the rounds."""

    subscribers: int = 1_000
    rounds: int = 5
    seconds: float = 5.0
    per_second: float = 200.0
    large: tuple[int, ...] = ()


QUICK: Final = Options(subscribers=200, rounds=2, seconds=2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Everything that was measured."""

    options: Options
    rows: list[Row]
    goals: list[Goal]
    samples: list[Sample]

    def as_json(self) -> dict[str, Any]:
        return {
            "options": asdict(self.options),
            "table": [asdict(row) for row in self.rows],
            "goals": [asdict(goal) | {"reached": goal.reached, "aimed": goal.aimed} for goal in self.goals],
            "rounds": live_report.as_json(self.samples),
        }


async def run_everything(here: Path, options: Options, *, say: Said, advanced: Said) -> Found:
    """All rounds, on a PostgreSQL of their own in `here`, which DATA_DIR names (`place.own_place`).

    `say`: told of each step; `advanced`: of each figure, as a line. Raises: AudienceFailed. Disturbed. ServerFailed.
    ValueError: so many connections are not allowed here.
    """
    most = max((options.subscribers, *options.large))
    environment.allow_files(most + SPARE_FILES)
    samples: list[Sample] = []
    with environment.postgres(here / "live") as postgres:
        say(f"making {most:,} accounts")
        url = await databases.create_database(postgres.url, "live")
        key = await databases.fill_owners(url, most, lambda _: None)
        await databases.settle(url)
        tokens = [development_keys.user_token(databases.owner_id(number)) for number in range(most)]
        say("starting the server that charges")
        with servers.running("charging", "app", "serve", place=here, **live_rounds.settings_of(url)) as charging:
            await databases.introduce_tasks(charging.url, key, live_rounds.tasks(most))
            field = live_rounds.Field(
                place=here, url=url, key=key, tokens=tokens, charging=charging,
                per_second=options.per_second, seconds=options.seconds,
            )  # fmt: skip
            for name, contender, subscribers, alone_first in _plan(options):
                say(f"{name}: {live_report.TITLES[contender]}, {subscribers:,} subscribers")
                run = name.replace(" ", "-")
                sample = await live_rounds.measure(field, contender, subscribers, run, alone_first=alone_first)
                samples.append(sample)
                advanced(_line(name, sample))
    return Found(
        options=options,
        rows=live_report.rows(samples),
        goals=live_report.goals(samples, options.subscribers),
        samples=samples,
    )


def _plan(options: Options) -> list[tuple[str, Contender, int, bool]]:
    """Name, contender, subscribers, and whether it is without them first. Every other round goes backwards, so that
    nobody always follows the same one."""
    both: tuple[Contender, ...] = ("live", "stock")
    rounds: list[tuple[str, Contender, int, bool]] = [
        (f"{contender} round {number}", contender, options.subscribers, number % 2 == 0)
        for number in range(1, options.rounds + 1)
        for contender in (both if number % 2 else reversed(both))
    ]
    return rounds + [(f"live with {count}", "live", count, False) for count in options.large]


def _line(name: str, one: Sample) -> str:
    kept = "" if one.kept is None else f"  throughput kept {one.kept:.2f}"
    return (
        f"{name:<16} {one.accepted_per_second:>7,.0f} accepted/s  {one.kib_per_subscriber:>5.1f} KiB each"
        f"  {one.micros_per_push:>5.0f} µs a push  p50 {one.p50_ms:>6.1f} ms  p99 {one.p99_ms:>6.1f} ms{kept}"
    )


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--quick", is_flag=True, help="200 subscribers, 2 rounds of 2 seconds. Good for a look, not for a table.")
@click.option("--full", is_flag=True, help="Also 5,000 and 10,000 subscribers, of this server alone, once each.")
@click.option("--subscribers", type=click.IntRange(1, 10_000), help="Default: 1,000.")
@click.option("--rounds", type=click.IntRange(1, 100), help="Times that both servers are measured. Default: 5.")
@click.option("--seconds", type=click.FloatRange(0.5, 600), help="Of each measurement. Default: 5.")
@click.option("--per-second", type=click.FloatRange(1, 5_000), help="Charges while pushes are counted. Default: 200.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures to this file.")
def command(*, quick: bool, full: bool, file: Path | None, **chosen: Any) -> None:
    """Measure live balances against Strawberry's own subscriptions: about 5 minutes.

    Starts a PostgreSQL of its own in DATA_DIR, and every server it measures; ends them all. The table goes to stdout,
    progress to stderr.
    """
    usual = asdict(QUICK if quick else Options()) | {"large": LARGE if full else ()}
    options = Options(**usual | {name: value for name, value in chosen.items() if value is not None})
    environment.leave_when_told()
    started = time.monotonic()
    err = Console(stderr=True)
    try:
        found = asyncio.run(measured(options, err))
    except (AudienceFailed, ClientFailed, Disturbed, ServerFailed, ValueError) as fault:
        raise click.ClickException(str(fault)) from None
    out = environment.wide()
    show(found, out)
    out.print(wanted.table(found.goals))
    if file:
        environment.keep(file, found.as_json())
        err.print(f"written to {file}")
    err.print(f"{time.monotonic() - started:.0f} s in all")


async def measured(options: Options, err: Console) -> Found:
    """All of it in a place of its own, with its progress. Raises: as `run_everything`."""
    with environment.own_place() as here, environment.progress(err) as progress:
        step = progress.add_task("preparing", total=len(_plan(options)))

        def advanced(line: str) -> None:
            progress.advance(step)
            progress.console.print(line, highlight=False, soft_wrap=True)

        return await run_everything(
            here, options, say=lambda text: progress.update(step, description=text), advanced=advanced
        )


def show(found: Found, out: Console) -> None:
    """The table, for people and READMEs."""
    out.print(live_report.table(found.rows))
    caption = live_report.CAPTION.format(clients=live_report.CHARGING_CLIENTS, **asdict(found.options))
    out.print(caption, width=120, highlight=False)


if __name__ == "__main__":
    command(prog_name="python -m bench.live")
