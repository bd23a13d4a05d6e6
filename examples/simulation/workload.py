"""The workload of a simulated day: owners, agents with their graphs, and tasks.

The same seed and rate card give the same workload.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from random import Random
from typing import Final

from examples.simulation.rate_card import (
    MEASUREMENT_NAMES,
    MODEL_SETTING,
    Block,
    Measurements,
    NoPrice,
    RateCard,
    Settings,
)

NESTED_SHARE: Final = 0.07
REVERSED_SHARE: Final = 0.02
ESTIMATED_SHARE: Final = 0.05
STARTED_TWICE_SHARE: Final = 0.03
CHEAP_CREDITS: Final = 15
MAX_PROMOTION_SECONDS: Final = 2.0


class BlockPreference(StrEnum):
    """Which blocks an agent consists of."""

    CHEAP = "cheap"
    ANY = "any"
    EXPENSIVE = "expensive"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerProfile:
    """How an owner behaves. Shares are between 0 and 1."""

    name: str
    weight: int
    """How often its agents run, relative to others."""
    opening_credits: int
    top_up_credits: int = 0
    """The credits that the owner buys whenever the account is empty. 0: the owner never buys."""
    scheduled_share: float = 0.3
    batch_share: float = 0.1
    own_key_share: float = 0.02
    promotion_share: float = 0.02
    """The share of tasks before which the owner receives a promotional grant that expires soon."""
    first_card_declined: bool = False


WATCHED_OWNER: Final = 0
"""The index of the owner whose balance subscription is open."""

OWNER_PROFILES: Final = (
    OwnerProfile(
        name="watched", weight=4, opening_credits=30, top_up_credits=500, batch_share=0.2, promotion_share=0.2
    ),
    OwnerProfile(name="steady-1", weight=3, opening_credits=800, top_up_credits=500),
    OwnerProfile(name="steady-2", weight=3, opening_credits=600, top_up_credits=700),
    OwnerProfile(name="heavy", weight=6, opening_credits=2_000, top_up_credits=1_500, batch_share=0.5),
    OwnerProfile(name="organisation", weight=6, opening_credits=5_000, top_up_credits=3_000, batch_share=0.3),
    OwnerProfile(name="scheduler-1", weight=3, opening_credits=500, top_up_credits=500, scheduled_share=0.95),
    OwnerProfile(name="scheduler-2", weight=3, opening_credits=400, scheduled_share=1.0),
    OwnerProfile(name="own-keys", weight=2, opening_credits=200, top_up_credits=500, own_key_share=0.6),
    OwnerProfile(name="trial", weight=2, opening_credits=60, promotion_share=0.6),
    OwnerProfile(name="broke", weight=1, opening_credits=20),
    OwnerProfile(name="small-sums", weight=2, opening_credits=12, top_up_credits=500),
    OwnerProfile(name="second-card", weight=2, opening_credits=12, top_up_credits=500, first_card_declined=True),
    OwnerProfile(name="curious", weight=1, opening_credits=300, top_up_credits=500, own_key_share=0.2),
)

AGENT_PROFILES: Final = (
    ("inbox-triage", 5, BlockPreference.CHEAP),
    ("news-digest", 7, BlockPreference.CHEAP),
    ("lead-finder", 10, BlockPreference.CHEAP),
    ("blog-writer", 8, BlockPreference.ANY),
    ("support-answers", 4, BlockPreference.CHEAP),
    ("image-studio", 6, BlockPreference.ANY),
    ("video-ads", 3, BlockPreference.EXPENSIVE),
    ("market-research", 12, BlockPreference.CHEAP),
    ("code-reviewer", 8, BlockPreference.CHEAP),
    ("podcast-maker", 6, BlockPreference.ANY),
)
"""Name, number of steps, preference."""


class Delivery(StrEnum):
    """How often and when a charge is sent."""

    ONCE = "once"
    TWICE = "twice at the same moment"
    LOST = "again, after the connection of the first was closed before its response"
    LATE = "again, after the task has ended"


class Reversal(StrEnum):
    """Which part of a charge is reversed because the block failed."""

    PART = "part"
    WHOLE = "whole"
    BOTH = "part, then the rest"


class Outcome(StrEnum):
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    """The user cancelled the task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A node of an agent's graph. `credits` is the price of one run."""

    block: str
    settings: Settings
    measurements: Measurements | None
    credits: int


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent. `graph` contains waves of steps. The steps of a wave run at the same time."""

    name: str
    graph: tuple[tuple[Step, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRun:
    """A block run. `number` is its number within the task, from 1."""

    number: int
    step: Step
    uses_own_key: bool
    credits: int
    delivery: Delivery
    reversal: Reversal | None


@dataclass(frozen=True, slots=True)
class Wave:
    runs: tuple[BlockRun, ...]
    as_batch: bool


@dataclass(frozen=True, slots=True)
class Promotion:
    """A grant that starts after `starts_after_seconds` (0: at once) and expires after `expires_after_seconds`."""

    credits: int
    starts_after_seconds: float
    expires_after_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task. `owner` and `agent` are indexes into the workload. Child tasks start after the first wave."""

    number: int
    owner: int
    agent: int
    scheduled: bool
    outcome: Outcome
    waves: tuple[Wave, ...]
    children: tuple["Task", ...] = ()
    promotion: Promotion | None = None
    """Granted just before the task starts."""
    estimated: bool = False
    started_twice: bool = False

    @property
    def credits(self) -> int:
        """The cost without child tasks, if nothing stops the task."""
        return sum(run.credits for wave in self.waves for run in wave.runs)


@dataclass(frozen=True, slots=True)
class Workload:
    """A workload. `tasks` contains the tasks without a parent."""

    owners: tuple[OwnerProfile, ...]
    agents: tuple[Agent, ...]
    tasks: tuple[Task, ...]

    def all_tasks(self) -> Iterator[Task]:
        waiting = list(reversed(self.tasks))
        while waiting:
            task = waiting.pop()
            yield task
            waiting.extend(reversed(task.children))


def generate_workload(card: RateCard, *, seed: int, tasks: int) -> Workload:
    """Generate a workload of `tasks` tasks, including child tasks."""
    chance = Random(seed)  # noqa: S311  a workload that can be repeated, not a secret
    agents = tuple(_agent(card, name, steps, preference, chance) for name, steps, preference in AGENT_PROFILES)
    return Workload(OWNER_PROFILES, agents, tuple(_TaskGenerator(agents, chance, tasks).tasks()))


class _TaskGenerator:
    def __init__(self, agents: tuple[Agent, ...], chance: Random, tasks: int) -> None:
        self._agents = agents
        self._chance = chance
        self._remaining = tasks
        self._number = 0

    def tasks(self) -> Iterator[Task]:
        for owner in islice(self._owners(), self._remaining):
            if not self._remaining:
                return
            yield self._task(owner, depth=0)

    def _owners(self) -> Iterator[int]:
        """Yield every owner once in random order, then random owners by weight."""
        first = list(range(len(OWNER_PROFILES)))
        self._chance.shuffle(first)
        yield from first
        weights = [owner.weight for owner in OWNER_PROFILES]
        while True:
            yield self._chance.choices(range(len(OWNER_PROFILES)), weights)[0]

    def _task(self, owner: int, *, depth: int) -> Task:
        chance, profile, agent = self._chance, OWNER_PROFILES[owner], self._chance.randrange(len(self._agents))
        self._number, self._remaining = self._number + 1, self._remaining - 1
        number = self._number
        waves = tuple(self._waves(self._agents[agent], profile))
        children = []
        while depth < 2 and self._remaining and chance.random() < NESTED_SHARE:
            children.append(self._task(owner, depth=depth + 1))
        return Task(
            number=number,
            owner=owner,
            agent=agent,
            scheduled=not depth and chance.random() < profile.scheduled_share,
            outcome=chance.choices(list(Outcome), [88, 8, 4])[0],
            waves=waves,
            children=tuple(children),
            promotion=_promotion(chance) if chance.random() < profile.promotion_share else None,
            estimated=chance.random() < ESTIMATED_SHARE,
            started_twice=chance.random() < STARTED_TWICE_SHARE,
        )

    def _waves(self, agent: Agent, profile: OwnerProfile) -> Iterator[Wave]:
        chance, number = self._chance, 0
        for steps in agent.graph:
            runs = []
            for step in steps:
                for _ in range(chance.choices([1, 2, 5], [80, 15, 5])[0]):  # a step in a loop runs several times
                    number += 1
                    runs.append(self._run(number, step, profile))
            yield Wave(tuple(runs), as_batch=len(runs) > 1 and chance.random() < profile.batch_share)

    def _run(self, number: int, step: Step, profile: OwnerProfile) -> BlockRun:
        uses_own_key = self._chance.random() < profile.own_key_share
        credits = 0 if uses_own_key else step.credits
        fails = credits > 1 and self._chance.random() < REVERSED_SHARE
        return BlockRun(
            number=number,
            step=step,
            uses_own_key=uses_own_key,
            credits=credits,
            delivery=self._chance.choices(list(Delivery), [91, 4, 2, 3])[0],
            reversal=self._chance.choice(list(Reversal)) if fails else None,
        )


def _promotion(chance: Random) -> Promotion:
    starts_after = chance.choice([0.0, 0.0, 0.5])
    return Promotion(chance.choice([20, 50, 100, 250]), starts_after, chance.uniform(0.8, MAX_PROMOTION_SECONDS))


def _agent(card: RateCard, name: str, step_count: int, preference: BlockPreference, chance: Random) -> Agent:
    steps = [_step(card, preference, chance) for _ in range(step_count)]
    graph = []
    while steps:
        width = chance.randint(1, 4)
        graph.append(tuple(steps[:width]))
        del steps[:width]
    return Agent(name, tuple(graph))


def _step(card: RateCard, preference: BlockPreference, chance: Random) -> Step:
    """Return one of three random steps, chosen by the price that the agent prefers."""
    steps = [_random_step(card, chance) for _ in range(3)]
    match preference:
        case BlockPreference.CHEAP:
            return next((step for step in steps if step.credits <= CHEAP_CREDITS), steps[0])
        case BlockPreference.EXPENSIVE:
            return max(steps, key=lambda step: step.credits)
        case BlockPreference.ANY:
            return steps[0]


def _random_step(card: RateCard, chance: Random) -> Step:
    by_model = [block for block in card.blocks.values() if block.priced_by_model and card.models]
    by_rule = [block for block in card.blocks.values() if block.rules]
    if by_rule and not (by_model and chance.random() < 0.5):
        return _step_by_rule(card, chance.choice(by_rule), chance)
    if not by_model:
        raise NoPrice("the rate card has no price for any block")
    block, model = chance.choice(by_model), chance.choice(list(card.models))
    settings = {MODEL_SETTING: model, "temperature": 0.7, "prompt": "Say it in one sentence."}
    return Step(block=block.name, settings=settings, measurements=None, credits=card.price(block.name, settings))


def _step_by_rule(card: RateCard, block: Block, chance: Random) -> Step:
    rule = chance.choice(block.rules)
    settings = {**rule.when, "note": "settings that no rule names are ignored"}
    measurements: Measurements | None = None
    if rule.unit in MEASUREMENT_NAMES:
        measurements = {MEASUREMENT_NAMES[rule.unit]: "0.0123" if rule.unit == "USD" else chance.randint(1, 90)}
    credits = card.price(block.name, settings, measurements)
    return Step(block=block.name, settings=settings, measurements=measurements, credits=credits)
