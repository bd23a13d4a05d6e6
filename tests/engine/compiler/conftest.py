"""Tests of plans compare both ways themselves, or are about plans only."""

import pytest


@pytest.fixture(autouse=True)
def both_ways() -> None:
    """As the edge's, which is not needed here."""
