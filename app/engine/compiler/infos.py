"""What a resolver is told of its field: the context at once, everything else when it asks."""

from functools import cached_property
from typing import Any

from strawberry.types.field import StrawberryField
from strawberry.types.info import Info

from app.engine.compiler.execution_state import Run, Trail
from app.engine.compiler.field_collection import Place


class BareInfo:
    """graphql-core's info, made in full when something other than the context is asked for."""

    __slots__ = ("_place", "_run", "_trail", "context")

    def __init__(self, run: Run, place: Place, trail: Trail) -> None:
        self.context = run.context
        self._run = run
        self._place = place
        self._trail = trail

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run.info(self._place, self._trail), name)


class FieldInfo(Info[Any, Any]):
    """Strawberry's info over a bare one."""

    def __init__(self, run: Run, place: Place, trail: Trail, field: StrawberryField) -> None:
        self._run = run
        self._place = place
        self._trail = trail
        self._field = field

    @property
    def context(self) -> Any:
        return self._run.context

    @cached_property
    def _raw_info(self) -> Any:  # type: ignore[override]  # Strawberry's is set at once
        return self._run.info(self._place, self._trail)
