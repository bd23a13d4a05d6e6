"""Checks of a card document's values. Each notes what is wrong and reads on, so that all problems are told at once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from app.credits import MAX_CREDITS
from app.errors import Problem

MAX_PROBLEMS: Final = 200
MAX_NAME_LENGTH: Final = 255
MAX_DEPTH: Final = 8
MAX_LEAVES: Final = 32


@dataclass(slots=True)
class Checks:
    """Collects problems. A check returns the value where it is right, and something harmless where it is not."""

    problems: list[Problem] = field(default_factory=list)
    unlisted: int = 0
    """Problems beyond the first 200, counted only."""

    @property
    def count(self) -> int:
        return len(self.problems) + self.unlisted

    def note(self, path: str, message: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(path, message))
        else:
            self.unlisted += 1

    def fields(self, value: object, path: str, *, required: set[str], optional: set[str]) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.note(path, "must be an object")
            return {}
        for name in value:
            if name not in required | optional:
                known = ", ".join(sorted(required | optional))
                self.note(path, f"has the unknown key {str(name)[:100]!r}; known are {known}")
        for name in sorted(required - value.keys()):
            self.note(path, f"lacks {name!r}")
        return value

    def entries(self, value: object, path: str, *, at_most: int) -> list[Any]:
        if not isinstance(value, list):
            self.note(path, "must be a list")
            return []
        if len(value) > at_most:
            self.note(path, f"must have at most {at_most:,} entries; it has {len(value):,}")
            return []
        return value

    def name(self, value: object, path: str, *, spaces: bool = False) -> str:
        """A name of 1 to 255 visible characters; with `spaces`, words."""
        if not isinstance(value, str):
            self.note(path, "must be text")
            return ""
        visible = value.isprintable() and value == value.strip() and (spaces or " " not in value)
        if not (visible and 1 <= len(value) <= MAX_NAME_LENGTH):
            words = "" if spaces else ", without spaces"
            self.note(path, f"must have 1 to {MAX_NAME_LENGTH} visible characters{words}")
        return value

    def whole(self, value: object, path: str, *, minimum: int) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # JSON has one kind of number: 5.0 is 5
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= MAX_CREDITS:
            self.note(path, f"must be a whole number from {minimum} to {MAX_CREDITS:,}")
            return minimum
        return value

    def condition(self, value: object, path: str) -> dict[str, Any]:
        """A `when`: scalars at the ends of at most 8 levels of objects, none of them empty but the first."""
        leaf_count = 0

        def check(part: object, at: str, depth: int) -> Any:
            nonlocal leaf_count
            if isinstance(part, Mapping):
                if depth == MAX_DEPTH:
                    self.note(at, f"is nested more than {MAX_DEPTH} deep")
                    return False
                if not part and depth:
                    self.note(at, "is an empty object, which would match anything: leave it out")
                below = [(name, f"{at}.{self.name(name, at, spaces=True)[:100]}") for name in part]
                return {name: check(part[name], path_below, depth + 1) for name, path_below in below}
            leaf_count += 1
            return self._leaf(part, at)

        if not isinstance(value, dict):
            self.note(path, "must be an object of settings and the values they must have")
            return {}
        checked: dict[str, Any] = check(value, path, 0)
        if leaf_count > MAX_LEAVES:
            self.note(path, f"must have at most {MAX_LEAVES} values; it has {leaf_count:,}")
            return {}
        return checked

    def _leaf(self, value: object, path: str) -> str | int | float | bool | None:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            if abs(value) <= MAX_CREDITS:
                return int(value) if float(value).is_integer() else value
            self.note(path, f"must be a number within ±{MAX_CREDITS:,}")
            return 0
        if isinstance(value, str):
            if len(value) <= MAX_NAME_LENGTH and (value.isprintable() or not value):
                return value
            self.note(path, f"must be text of at most {MAX_NAME_LENGTH} printable characters")
            return ""
        self.note(path, "must be text, a number, true, false, null or an object: lists are compared with nothing")
        return False
