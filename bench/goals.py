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

    @property
    def said(self) -> str:
        """As a line for people."""
        bound = "at most" if self.lower_is_better else "at least"
        verdict = "aim reached" if self.aimed else "reached" if self.reached else "NOT REACHED"
        return f"{self.text}: {self.found:.3g}, {bound} {self.at_least:g} wanted, aim {self.aim:g}: {verdict}"

    def _holds(self, bound: float) -> bool:
        return self.found <= bound if self.lower_is_better else self.found >= bound
