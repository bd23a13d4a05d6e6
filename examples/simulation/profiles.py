"""Who takes part in a day: owners by their habits, and the agents that they run."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class BlockPreference(StrEnum):
    """Which blocks an agent is made of."""

    CHEAP = "frugal"
    ANY = "any"
    EXPENSIVE = "dear"


@dataclass(frozen=True, slots=True)
class AgentProfile:
    """An agent before its graph is drawn."""

    name: str
    steps: int
    preference: BlockPreference


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerProfile:
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
    first_card_declined: bool = False
    """Whether its first card is always declined."""


WATCHED_OWNER: Final = 0
"""The owner whose header is followed all day: the one to whom most happens."""

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
    AgentProfile("inbox-triage", 5, BlockPreference.CHEAP),
    AgentProfile("news-digest", 7, BlockPreference.CHEAP),
    AgentProfile("lead-finder", 10, BlockPreference.CHEAP),
    AgentProfile("blog-writer", 8, BlockPreference.ANY),
    AgentProfile("support-answers", 4, BlockPreference.CHEAP),
    AgentProfile("image-studio", 6, BlockPreference.ANY),
    AgentProfile("video-ads", 3, BlockPreference.EXPENSIVE),
    AgentProfile("market-research", 12, BlockPreference.CHEAP),
    AgentProfile("code-reviewer", 8, BlockPreference.CHEAP),
    AgentProfile("podcast-maker", 6, BlockPreference.ANY),
)
