"""Who takes part in a day: owners by their habits, and the agents that they run."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Taste(StrEnum):
    """Which blocks an agent is made of."""

    FRUGAL = "frugal"
    ANY = "any"
    DEAR = "dear"


@dataclass(frozen=True, slots=True)
class Character:
    """An agent before its graph is drawn."""

    name: str
    steps: int
    taste: Taste


@dataclass(frozen=True, slots=True, kw_only=True)
class Habit:
    """How one owner behaves. Shares lie between 0 and 1."""

    name: str
    weight: int
    """How often its agents run, compared with others."""
    opening_credits: int
    top_up_credits: int = 0
    """Bought whenever the account has run dry; 0: never."""
    scheduled_share: float = 0.3
    batch_share: float = 0.1
    own_key_share: float = 0.02
    promotion_share: float = 0.02
    """Of its tasks, how many follow upon a promotional grant, which soon expires."""
    declines_first: bool = False
    """Whether its first card is always declined."""


WATCHED: Final = 0
"""The owner whose header is followed all day: the one to whom most happens."""

HABITS: Final = (
    Habit(name="watched", weight=4, opening_credits=30, top_up_credits=500, batch_share=0.2, promotion_share=0.2),
    Habit(name="steady-1", weight=3, opening_credits=800, top_up_credits=500),
    Habit(name="steady-2", weight=3, opening_credits=600, top_up_credits=700),
    Habit(name="heavy", weight=6, opening_credits=2_000, top_up_credits=1_500, batch_share=0.5),
    Habit(name="organisation", weight=6, opening_credits=5_000, top_up_credits=3_000, batch_share=0.3),
    Habit(name="scheduler-1", weight=3, opening_credits=500, top_up_credits=500, scheduled_share=0.95),
    Habit(name="scheduler-2", weight=3, opening_credits=400, scheduled_share=1.0),
    Habit(name="own-keys", weight=2, opening_credits=200, top_up_credits=500, own_key_share=0.6),
    Habit(name="trial", weight=2, opening_credits=60, promotion_share=0.6),
    Habit(name="broke", weight=1, opening_credits=20),
    Habit(name="small-sums", weight=2, opening_credits=12, top_up_credits=500),
    Habit(name="second-card", weight=2, opening_credits=12, top_up_credits=500, declines_first=True),
    Habit(name="curious", weight=1, opening_credits=300, top_up_credits=500, own_key_share=0.2),
)

CHARACTERS: Final = (
    Character("inbox-triage", 5, Taste.FRUGAL),
    Character("news-digest", 7, Taste.FRUGAL),
    Character("lead-finder", 10, Taste.FRUGAL),
    Character("blog-writer", 8, Taste.ANY),
    Character("support-answers", 4, Taste.FRUGAL),
    Character("image-studio", 6, Taste.ANY),
    Character("video-ads", 3, Taste.DEAR),
    Character("market-research", 12, Taste.FRUGAL),
    Character("code-reviewer", 8, Taste.FRUGAL),
    Character("podcast-maker", 6, Taste.ANY),
)
