"""Conditions of price rules: their values by path, and whether two conditions can match the same settings."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Final, TypeAlias

JSON: TypeAlias = "str | int | float | bool | Sequence[JSON] | Mapping[str, JSON] | None"
Path: TypeAlias = tuple[str, ...]
Scalar: TypeAlias = str | int | float | tuple[str]
"""A scalar that can be compared. Booleans and null are replaced by tuples, because True == 1 in Python."""

TRUE: Final = ("true",)
FALSE: Final = ("false",)
NULL: Final = ("null",)
NO_SCALAR: Final = ("a list or an object",)
"""The value of a list or an object. No condition has this value, so it matches nothing."""

_COMPARABLE: Final = (str, int, float)


def comparable_scalar(value: object) -> Scalar:
    if value is True:
        return TRUE
    if value is False:
        return FALSE
    if isinstance(value, _COMPARABLE):
        return value
    return NULL if value is None else NO_SCALAR


def leaves(when: Mapping[str, JSON], above: Path = ()) -> dict[Path, Scalar]:
    """Return the scalars of a condition by their paths: `{"a": {"b": 1}}` has the one leaf `("a", "b") -> 1`."""
    found: dict[Path, Scalar] = {}
    for name, value in when.items():
        path = (*above, name)
        if isinstance(value, Mapping):
            found |= leaves(value, path)
        else:
            found[path] = comparable_scalar(value)
    return found


def value_at(path: Path, settings: Mapping[str, JSON]) -> Scalar:
    """Return the value at `path`. A missing setting is false, and so is everything under a missing object."""
    level: JSON = settings
    for name in path:
        if not isinstance(level, Mapping):
            return NO_SCALAR
        if name not in level:
            return FALSE
        level = level[name]
    return comparable_scalar(level)


def is_missing(path: Path, settings: Mapping[str, JSON]) -> bool:
    """Return whether the settings have nothing at `path`."""
    level: JSON = settings
    for name in path:
        if not isinstance(level, Mapping):
            return False
        if name not in level:
            return True
        level = level[name]
    return False


class Condition:
    """A condition, prepared for comparison with others."""

    __slots__ = ("leaves", "parents")

    def __init__(self, when: Mapping[str, JSON]) -> None:
        self.leaves = leaves(when)
        self.parents: dict[Path, bool] = {}
        """Every path that must be an object.

        The value says whether it may also be missing, because all leaves under it are false.
        """
        for path, value in self.leaves.items():
            for length in range(1, len(path)):
                parent = path[:length]
                self.parents[parent] = self.parents.get(parent, True) and value is FALSE


def can_both_match(one: Condition, other: Condition) -> bool:
    """Return whether some settings match both conditions.

    No settings match both if a path has different scalars, or if it has a scalar in one condition and an object in the
    other. There is one exception: if the scalar is false and all leaves of the object are false, a missing setting
    matches both. Otherwise the settings that consist of all leaves that are not false match both.
    """
    others = other.leaves
    for path, value in one.leaves.items():  # twice as fast as any(), and a card can have millions of pairs
        if others.get(path, value) != value:
            return False
    return not (_scalar_meets_object(one, other) or _scalar_meets_object(other, one))


def _scalar_meets_object(one: Condition, other: Condition) -> bool:
    return bool(other.parents) and any(
        path in one.leaves and not (may_be_missing and one.leaves[path] is FALSE)
        for path, may_be_missing in other.parents.items()
    )


def ambiguous_pairs(conditions: Sequence[Condition]) -> Iterator[tuple[int, int]]:
    """Return the pairs of positions whose conditions have equally many leaves and can both match the same settings."""
    by_leaf_count: dict[int, list[int]] = {}
    for position, condition in enumerate(conditions):
        by_leaf_count.setdefault(len(condition.leaves), []).append(position)
    for positions in by_leaf_count.values():
        yield from _pairs_among(positions, conditions, frozenset())


def _pairs_among(
    positions: list[int], conditions: Sequence[Condition], split: frozenset[Path]
) -> Iterator[tuple[int, int]]:
    """Return the pairs among conditions with equally many leaves.

    If all of them contain a path, only those with the same value there can be ambiguous. So a thousand rules on `model`
    need a thousand look-ups, not half a million comparisons.
    """
    if len(positions) < 2:
        return
    shared = set.intersection(*(set(conditions[position].leaves) for position in positions)) - split
    if not shared:
        for one, other in combinations(positions, 2):
            if can_both_match(conditions[one], conditions[other]):
                yield one, other
        return
    path = min(shared)
    by_value: dict[Scalar, list[int]] = {}
    for position in positions:
        by_value.setdefault(conditions[position].leaves[path], []).append(position)
    for same in by_value.values():
        yield from _pairs_among(same, conditions, split | {path})
