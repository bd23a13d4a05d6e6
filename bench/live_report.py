"""The table of pushes: medians over rounds, ratios of what was measured in the same round, goals."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from rich import box
from rich.table import Table

from bench.goals import Goal

Contender = Literal["live", "stock"]

TITLES: Final[dict[Contender, str]] = {"live": "this server", "stock": "stock Strawberry subscription"}
CHARGING_CLIENTS: Final = 64
MICROS: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one round found of one server with so many subscribers."""

    contender: Contender
    subscribers: int
    accepted_per_second: float
    kib_per_subscriber: float
    idle_cpu: float
    """The part of a core that the server uses with the subscribers connected and nothing going on."""
    seconds: float
    charging_seconds: float
    """Of those: without the time in which what was on its way arrived."""
    server_cpu_seconds: float
    charges: int
    pushes: int
    unseen: int
    p50_ms: float
    p99_ms: float
    p50_after_answer_ms: float
    p99_after_answer_ms: float
    charges_without: float | None = None
    """Charges a second that the server takes when nobody listens, and when all its subscribers do."""
    charges_with: float | None = None
    pushes_with: float | None = None

    @property
    def micros_per_push(self) -> float:
        """CPU of the server for a push, without what it uses when idle, in µs."""
        used = self.server_cpu_seconds - self.idle_cpu * self.seconds
        return used * MICROS / self.pushes if self.pushes else 0.0

    @property
    def pushes_per_second(self) -> float:
        return self.pushes / self.charging_seconds

    @property
    def kept(self) -> float | None:
        """The part of the charges a second that is left with subscribers."""
        if self.charges_with is None or not self.charges_without:
            return None
        return self.charges_with / self.charges_without


Figure = Callable[[Sample], float | None]

COLUMNS: Final[dict[str, tuple[Figure, str]]] = {
    "subscribers": (lambda one: one.subscribers, ",.0f"),
    "accepted/s": (lambda one: one.accepted_per_second, ",.0f"),
    "KiB each": (lambda one: one.kib_per_subscriber, ",.1f"),
    "pushes/s": (lambda one: one.pushes_per_second, ",.0f"),
    "CPU µs a push": (lambda one: one.micros_per_push, ",.0f"),
    "charge → push p50 ms": (lambda one: one.p50_ms, ",.1f"),
    "p99 ms": (lambda one: one.p99_ms, ",.1f"),
    "answer → push p99 ms": (lambda one: one.p99_after_answer_ms, ",.1f"),
    "charges/s without": (lambda one: one.charges_without, ",.0f"),
    "with": (lambda one: one.charges_with, ",.0f"),
    "pushes/s then": (lambda one: one.pushes_with, ",.0f"),
}

CAPTION: Final = (
    "Medians of {rounds} interleaved rounds of {seconds:g} s; each round starts every server anew. Charges come at "
    "{per_second:g}/s through another server. Charge → push is from the sending of the charge to the arrival of the "
    "frame, answer → push from the charge's answer (0 where the frame came first). CPU is the server's, without what "
    "it uses with its subscribers connected and no charges. charges/s: {clients} clients charging the server that "
    "pushes."
)


def median(samples: Sequence[Sample], figure: Figure) -> float | None:
    """None: it was not measured."""
    found = [value for sample in samples if (value := figure(sample)) is not None]
    return statistics.median(found) if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One server with so many subscribers: a figure for each column."""

    contender: Contender
    subscribers: int
    title: str
    figures: dict[str, float | None]


def rows(samples: Sequence[Sample]) -> list[Row]:
    """In the order in which they were first measured."""
    kinds = dict.fromkeys((one.contender, one.subscribers) for one in samples)
    return [
        Row(
            contender=contender,
            subscribers=subscribers,
            title=TITLES[contender],
            figures={
                name: median(_of(samples, contender, subscribers), figure) for name, (figure, _) in COLUMNS.items()
            },
        )
        for contender, subscribers in kinds
    ]


def table(found: Sequence[Row]) -> Table:
    """Markdown, so that what the terminal shows can stand in a README."""
    shown = Table(box=box.MARKDOWN)
    shown.add_column("", no_wrap=True)
    for title in COLUMNS:
        shown.add_column(title, justify="right", no_wrap=True)
    for row in found:
        cells = ((row.figures[name], form) for name, (_, form) in COLUMNS.items())
        shown.add_row(row.title, *("" if value is None else format(value, form) for value, form in cells))
    return shown


def goals(samples: Sequence[Sample], subscribers: int) -> list[Goal]:
    """The goals that these samples can tell of."""
    ours, stock = _of(samples, "live", subscribers), _of(samples, "stock", subscribers)
    ratios = [
        one.micros_per_push / other.micros_per_push
        for one, other in zip(ours, stock, strict=False)
        if other.micros_per_push
    ]
    listening = f"{subscribers:,} subscribers"
    found = []
    if ratios:
        found.append(
            Goal(
                text=f"CPU per push against the stock subscription, {listening}",
                clients=subscribers, at_least=0.2, aim=0.1, found=statistics.median(ratios), lower_is_better=True,
            )
        )  # fmt: skip
    if (p99 := median(ours, lambda one: one.p99_ms)) is not None:
        found.append(
            Goal(
                text=f"charge → push, p99 ms, {listening}",
                clients=subscribers, at_least=150, aim=50, found=p99, lower_is_better=True,
            )
        )  # fmt: skip
    if (kept := median(ours, lambda one: one.kept)) is not None:
        found.append(
            Goal(
                text=f"throughput kept with {listening} listening",
                clients=CHARGING_CLIENTS, at_least=0.85, aim=0.95, found=kept,
            )
        )  # fmt: skip
    return found


def as_json(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Every round as it was measured."""
    return [
        asdict(one) | {"micros_per_push": one.micros_per_push, "pushes_per_second": one.pushes_per_second}
        for one in samples
    ]


def _of(samples: Sequence[Sample], contender: Contender, subscribers: int) -> list[Sample]:
    return [one for one in samples if (one.contender, one.subscribers) == (contender, subscribers)]
