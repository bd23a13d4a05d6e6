"""Finds the block whose name is most similar to a name that is not in the rate card."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Final

MIN_SIMILARITY: Final = 0.6
"""The minimum similarity of a name that is suggested: Dice's coefficient of the pairs of characters."""

MAX_COMPARED_LENGTH: Final = 100


class BlockNames:
    """The names of the blocks of a rate card, indexed by their pairs of neighbouring characters.

    A look-up compares only names that share a pair, so that a batch with 1,000 unknown blocks does not delay others.
    """

    __slots__ = ("_by_pair", "_pairs")

    def __init__(self, names: Iterable[str]) -> None:
        self._pairs = {name: _pairs(name) for name in names}
        self._by_pair: dict[str, list[str]] = defaultdict(list)
        for name, pairs in self._pairs.items():
            for pair in pairs:
                self._by_pair[pair].append(name)

    def nearest(self, name: str) -> str | None:
        """Return the most similar name, or None if none is similar. Case and punctuation do not matter."""
        wanted = _pairs(name[:MAX_COMPARED_LENGTH])
        common = Counter(known for pair in wanted for known in self._by_pair.get(pair, ()))
        similarity = {known: 2 * count / (len(wanted) + len(self._pairs[known])) for known, count in common.items()}
        best = max(similarity, key=lambda known: (similarity[known], known), default=None)
        return best if best is not None and similarity[best] >= MIN_SIMILARITY else None


def _pairs(name: str) -> frozenset[str]:
    text = f" {''.join(filter(str.isalnum, name.casefold()))} "
    return frozenset(text[start : start + 2] for start in range(len(text) - 1))
