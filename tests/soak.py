"""Tests that can run longer: `make soak` sets SOAK and selects them by the markers `soak` and `sized`.

`soak` marks tests that `make test` leaves out; `sized` those of modules that use the function of that name.
"""

import os
from typing import Final

import pytest

SOAK: Final = bool(os.environ.get("SOAK"))


def sized(size: int, *, soak: int) -> int:
    """`size` in `make test`, `soak` in `make soak`: examples, documents, payments, rounds."""
    return soak if SOAK else size


def mark_sized(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and getattr(item.module, sized.__name__, None) is sized:
            item.add_marker(sized.__name__)
