"""A day, planned: agents with their graphs, and what is going to happen. Pure: the same seed and card, the same day."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from random import Random
from typing import Final

from examples.simulation.profiles import AGENT_PROFILES, OWNER_PROFILES, AgentProfile, BlockPreference, OwnerProfile
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
FRUGAL_CREDITS: Final = 15
ESTIMATED_SHARE: Final = 0.05
LONGEST_PROMOTION_SECONDS: Final = 2.0


class Delivery(StrEnum):
    """How often, and how, one charge is sent."""

    ONCE = "once"
    TWICE = "twice at the same moment"
    LOST = "again, after the connection of the first was dropped before its reply"
    LATE = "again, after the task has ended"


class Reversal(StrEnum):
    """What is given back because the block failed."""

    PART = "part"
    WHOLE = "whole"
    BOTH = "part, then the rest"


class Outcome(StrEnum):
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    """By the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A node of an agent's graph."""

    block: str
    settings: Settings
    measurements: Measurements | None
    credits: int
    """The price of one run, by the card."""


@dataclass(frozen=True, slots=True)
class Agent:
    name: str
    graph: tuple[tuple[Step, ...], ...]
    """Waves of steps: those of one run at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRun:
    number: int
    """Within its task."""
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
    credits: int
    starts_after_seconds: float
    """0: at once."""
    expires_after_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    number: int
    owner: int
    agent: int
    scheduled: bool
    ending: Outcome
    waves: tuple[Wave, ...]
    children: tuple["Task", ...] = ()
    """Nested in it, opened after its first wave."""
    promotion: Promotion | None = None
    """Granted just before."""
    estimated: bool = False
    started_twice: bool = False

    @property
    def credits(self) -> int:
        """What it costs if nothing stops it, without its children."""
        return sum(run.credits for wave in self.waves for run in wave.runs)


@dataclass(frozen=True, slots=True)
class Workload:
    owners: tuple[OwnerProfile, ...]
    agents: tuple[Agent, ...]
    tasks: tuple[Task, ...]
    """Those on top; the nested ones are within them."""

    def all_tasks(self) -> Iterator[Task]:
        waiting = list(reversed(self.tasks))
        while waiting:
            task = waiting.pop()
            yield task
            waiting.extend(reversed(task.children))


def generate_workload(card: RateCard, *, seed: int, tasks: int) -> Workload:
    """A day of so many tasks, the nested ones counted."""
    chance = Random(seed)  # noqa: S311 - a plan that can be repeated, not a secret
    agents = tuple(_agent(card, character, chance) for character in AGENT_PROFILES)
    planner = _Planner(agents, chance, tasks)
    return Workload(OWNER_PROFILES, agents, tuple(planner.tasks()))


class _Planner:
    def __init__(self, agents: Sequence[Agent], chance: Random, tasks: int) -> None:
        self._agents = agents
        self._chance = chance
        self._left = tasks
        self._number = 0

    def tasks(self) -> Iterator[Task]:
        for owner in islice(self._owners(), self._left):
            if not self._left:
                return
            yield self._task(owner, self._chance.randrange(len(self._agents)), depth=0)

    def _owners(self) -> Iterator[int]:
        """Everybody once, then by weight."""
        first = list(range(len(OWNER_PROFILES)))
        self._chance.shuffle(first)
        yield from first
        weights = [habit.weight for habit in OWNER_PROFILES]
        while True:
            yield self._chance.choices(range(len(OWNER_PROFILES)), weights)[0]

    def _task(self, owner: int, agent: int, *, depth: int) -> Task:
        chance, habit = self._chance, OWNER_PROFILES[owner]
        self._number, self._left = self._number + 1, self._left - 1
        number = self._number
        waves = tuple(self._waves(self._agents[agent], habit))
        children = []
        while depth < 2 and self._left and chance.random() < NESTED_SHARE:
            children.append(self._task(owner, chance.randrange(len(self._agents)), depth=depth + 1))
        return Task(
            number=number,
            owner=owner,
            agent=agent,
            scheduled=not depth and chance.random() < habit.scheduled_share,
            ending=chance.choices(list(Outcome), [88, 8, 4])[0],
            waves=waves,
            children=tuple(children),
            promotion=_promotion(chance) if chance.random() < habit.promotion_share else None,
            estimated=chance.random() < ESTIMATED_SHARE,
            started_twice=chance.random() < 0.03,
        )

    def _waves(self, agent: Agent, habit: OwnerProfile) -> Iterator[Wave]:
        chance, number = self._chance, 0
        for steps in agent.graph:
            runs = []
            for step in steps:
                for _ in range(chance.choices([1, 2, 5], [80, 15, 5])[0]):  # now and then a step is a loop
                    number += 1
                    runs.append(self._run(number, step, habit))
            yield Wave(tuple(runs), as_batch=len(runs) > 1 and chance.random() < habit.batch_share)

    def _run(self, number: int, step: Step, habit: OwnerProfile) -> BlockRun:
        uses_own_key = self._chance.random() < habit.own_key_share
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
    return Promotion(chance.choice([20, 50, 100, 250]), starts_after, chance.uniform(0.8, LONGEST_PROMOTION_SECONDS))


def _agent(card: RateCard, character: AgentProfile, chance: Random) -> Agent:
    steps = [_step(card, character.preference, chance) for _ in range(character.steps)]
    graph = []
    while steps:
        width = chance.randint(1, 4)
        graph.append(tuple(steps[:width]))
        del steps[:width]
    return Agent(character.name, tuple(graph))


def _step(card: RateCard, taste: BlockPreference, chance: Random) -> Step:
    """One of a few steps drawn, as the agent's taste wants them priced."""
    drawn = [_any_step(card, chance) for _ in range(3)]
    match taste:
        case BlockPreference.CHEAP:
            return next((step for step in drawn if step.credits <= FRUGAL_CREDITS), drawn[0])
        case BlockPreference.EXPENSIVE:
            return max(drawn, key=lambda step: step.credits)
        case BlockPreference.ANY:
            return drawn[0]


def _any_step(card: RateCard, chance: Random) -> Step:
    by_model = [block for block in card.blocks.values() if block.priced_by_model]
    others = [block for block in card.blocks.values() if block.rules]
    if others and not (by_model and card.models and chance.random() < 0.5):
        return _by_rule(card, chance.choice(others), chance)
    if not (by_model and card.models):
        raise NoPrice("the rate card prices no block at all")
    block, model = chance.choice(by_model), chance.choice(list(card.models))
    settings = {MODEL_SETTING: model, "temperature": 0.7, "prompt": "Say it in one sentence."}
    return Step(block=block.name, settings=settings, measurements=None, credits=card.price(block.name, settings))


def _by_rule(card: RateCard, block: Block, chance: Random) -> Step:
    rule = chance.choice(block.rules)
    settings = {**rule.when, "note": "settings that no rule names are ignored"}
    measurements: Measurements | None = None
    if rule.unit in MEASUREMENT_NAMES:
        measure = "0.0123" if rule.unit == "USD" else chance.randint(1, 90)
        measurements = {MEASUREMENT_NAMES[rule.unit]: measure}
    credits = card.price(block.name, settings, measurements)
    return Step(block=block.name, settings=settings, measurements=measurements, credits=credits)
