"""`python -m bench.growth`: whether anything costs more because the books have grown.

A charge, with so many entries in its account, and with so many in a ledger of 1,000 accounts; a page of an account's
history, at its beginning and deep in it. Every size is a database of its own with a server of its own, so that a round
can visit all of them in turn.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

from bench import databases, growth_report, growth_rounds, live_rounds, servers, wanted
from bench import environment as place
from bench.databases import Advanced
from bench.goals import Goal
from bench.growth_books import Unfilled, fill
from bench.growth_report import Point, Row, Sample
from bench.growth_rounds import ONE, SPREAD, SPREAD_ACCOUNTS, Books, Unequal, tasks_of
from bench.pacing import Unpaced
from bench.servers import ServerFailed

FULL: Final = (10_000, 100_000, 1_000_000)
UNLIMITED: Final = {"RATE_PER_SERVICE": "0"}
REHEARSAL_SECONDS: Final = 1.0

Said = Callable[[str], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`entries`: the sizes; `pages`: how many times a page is asked for in a round."""

    entries: tuple[int, ...] = FULL[:2]
    rounds: int = 5
    seconds: float = 4.0
    per_second: float = 200.0
    pages: int = 200


QUICK: Final = {"rounds": 2, "seconds": 2.0, "pages": 50}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Everything that was measured. `exact`: what the audit said of the largest books of each kind."""

    options: Options
    rows: list[Row]
    goals: list[Goal]
    rounds: list[list[Sample]]
    audits: dict[str, str]
    exact: bool

    def as_json(self) -> dict[str, Any]:
        return {
            "options": asdict(self.options),
            "table": [asdict(row) for row in self.rows],
            "goals": [asdict(goal) | {"reached": goal.reached, "aimed": goal.aimed} for goal in self.goals],
            "audits": self.audits,
            "exact": self.exact,
            "rounds": [[asdict(one) for one in samples] for samples in self.rounds],
        }


async def run_everything(here: Path, options: Options, *, say: Said, advanced: Advanced) -> Found:
    """All rounds, on a PostgreSQL of their own in `here`, which DATA_DIR names (`place.own_place`).

    `say`: told of each step; `advanced`: of entries filled in. Raises: Unfilled. Unpaced. Unequal. ServerFailed.
    """
    rounds: list[list[Sample]] = []
    async with _opened(here, options, say=say, advanced=advanced) as books:
        for one in books:
            say("rehearsing")
            rehearsed = {"per_second": options.per_second, "seconds": REHEARSAL_SECONDS}
            await growth_rounds.charge(one, run="rehearsed", **rehearsed)
        for number in range(1, options.rounds + 1):
            say(f"round {number} of {options.rounds}")
            rounds.append(await _round(books, options, number))
        say("auditing the largest books")
        audits = {one.point.subject: await asyncio.to_thread(_audit, one.url) for one in _largest(books)}
    return Found(
        options=options,
        rows=growth_report.rows(rounds),
        goals=growth_report.goals(rounds),
        rounds=rounds,
        audits={subject: said for subject, (_, said) in audits.items()},
        exact=all(exact for exact, _ in audits.values()),
    )


@asynccontextmanager
async def _opened(here: Path, options: Options, *, say: Said, advanced: Advanced) -> AsyncIterator[list[Books]]:
    """The books of all sizes, each with its server."""
    with ExitStack() as stack:
        postgres = stack.enter_context(place.postgres(here / "growth"))
        prepared = []
        for subject, prefix in ((ONE, "one"), (SPREAD, "spread")):
            template, key = None, ""
            for entries in sorted(options.entries):
                name = f"{prefix}_{entries}"
                say(f"filling {name}")
                url = await databases.create_database(postgres.url, name, template=template)
                if template is None:
                    key = await _make(url, subject)
                await fill(url, tasks_of(subject), entries, advanced)
                prepared.append((Point(subject, entries), name, url, key))
                template = name
        say("starting the servers")
        books = []
        for point, name, url, key in prepared:
            environment = {**live_rounds.settings_of(url), **UNLIMITED}
            server = stack.enter_context(servers.running(name, "app", "serve", place=here, **environment))
            await databases.introduce_tasks(server.url, key, tasks_of(point.subject))
            pids = [postgres.server.pid]
            books.append(Books(point=point, url=url, key=key, server=server, database_pids=pids))
        yield books


async def _make(url: str, subject: str) -> str:
    if subject == ONE:
        return await databases.fill_product(url, {"hot"}, lambda _: None)
    return await databases.fill_owners(url, SPREAD_ACCOUNTS, lambda _: None)


async def _round(books: list[Books], options: Options, number: int) -> list[Sample]:
    """Every other round goes backwards, so that nobody always follows the same one."""
    step = 1 if number % 2 else -1
    samples = []
    for one in books[::step]:
        pace = {"per_second": options.per_second, "seconds": options.seconds}
        samples.append(await growth_rounds.charge(one, run=f"round-{number:03d}", **pace))
    [history] = [one for one in _largest(books) if one.point.subject == ONE]
    depths = growth_rounds.depths(history.point.size)[::step]
    return samples + [await growth_rounds.page(history, depth, requests=options.pages) for depth in depths]


def _largest(books: list[Books]) -> list[Books]:
    """Of each kind."""
    most = max(one.point.size for one in books)
    return [one for one in books if one.point.size == most]


def _audit(url: str) -> tuple[bool, str]:
    told = servers.run("app", "audit", **servers.settings_of(url))
    return told.returncode == 0, (told.stdout.strip() or told.stderr.strip())[-2000:]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--quick", is_flag=True, help="2 rounds of 2 seconds. Good for a look, not for a table.")
@click.option("--full", is_flag=True, help="Also 1,000,000 entries, and the page 10,000 of that history.")
@click.option("--entries", type=click.IntRange(1, 10_000_000), multiple=True, help="Sizes instead of the usual.")
@click.option("--rounds", type=click.IntRange(1, 100), help="Times that everything is measured. Default: 5.")
@click.option("--seconds", type=click.FloatRange(0.5, 600), help="Of charges at each size. Default: 4.")
@click.option("--per-second", type=click.FloatRange(1, 5_000), help="Charges. Default: 200.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures to this file.")
@click.pass_context
def command(ctx: click.Context, /, *, quick: bool, full: bool, file: Path | None, **chosen: Any) -> None:
    """Measure whether charges and pages of history cost more as the books grow: about 4 minutes.

    Starts a PostgreSQL of its own in DATA_DIR, and a server for each size; ends them all. Every entry is made by the
    charge path itself, and the largest books are audited at the end. The table goes to stdout, progress to stderr.
    """
    usual = asdict(Options()) | (QUICK if quick else {}) | ({"entries": FULL} if full else {})
    options = Options(**usual | {name: value for name, value in chosen.items() if value})
    place.leave_when_told()
    started = time.monotonic()
    err = Console(stderr=True)
    try:
        found = asyncio.run(measured(options, err))
    except (Unfilled, Unpaced, Unequal, ServerFailed) as fault:
        raise click.ClickException(str(fault)) from None
    out = place.wide()
    show(found, out)
    out.print(wanted.table(found.goals))
    if file:
        place.keep(file, found.as_json())
        err.print(f"written to {file}")
    err.print(f"{time.monotonic() - started:.0f} s in all")
    ctx.exit(0 if found.exact else 1)


async def measured(options: Options, err: Console) -> Found:
    """All of it in a place of its own, with its progress. Raises: as `run_everything`."""
    with place.own_place() as here, place.progress(err) as progress:
        step = progress.add_task("preparing", total=2 * max(options.entries))

        def say(text: str) -> None:
            progress.update(step, description=text)
            if not err.is_terminal:
                err.print(text, highlight=False)

        return await run_everything(here, options, say=say, advanced=lambda count: progress.advance(step, count))


CAPTION: Final = (
    "Medians of {rounds} interleaved rounds; charges come at {per_second:g}/s for {seconds:g} s, a page of 50 entries "
    "is asked for {pages} times. µs are the CPU of the server's and of PostgreSQL's processes for one of them. A ratio "
    "is the median of the rounds' own, to the smallest size."
)


def show(found: Found, out: Console) -> None:
    """The table, for people and READMEs, and what the audits said."""
    out.print(growth_report.table(found.rows))
    out.print(CAPTION.format(**asdict(found.options)), width=120, highlight=False)
    for subject, said in found.audits.items():
        out.print(f"largest books of {subject!r}: {said}", highlight=False)


if __name__ == "__main__":
    command(prog_name="python -m bench.growth")
