"""What a figure should be, and what came of it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """`at_least` must be reached, `aim` is hoped for; `lower_is_better`: both are bounds from above."""

    text: str
    clients: int
    at_least: float
    aim: float
    found: float
    lower_is_better: bool = False

    @property
    def reached(self) -> bool:
        return self._holds(self.at_least)

    @property
    def aimed(self) -> bool:
        """Whether what was hoped for came true."""
        return self._holds(self.aim)

    def _holds(self, bound: float) -> bool:
        return self.found <= bound if self.lower_is_better else self.found >= bound
