"""The plans that are kept, by document text and operation name: bounded in number and bytes, oldest use first out."""

from collections import Counter, OrderedDict
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from graphql import DocumentNode, ExecutionResult, GraphQLError, GraphQLSchema, OperationDefinitionNode

from app.graphql.plans.analysing import NotUnderstood, compiling
from app.graphql.plans.plan import Begun, Plan
from app.graphql.traits import Traits, traits_of

MAX_PLANS: Final = 500
MAX_BYTES: Final = 32 * 1024 * 1024
MEASURED_EVERY: Final = 32
"""Plans grow as objects of new types are met, so all are measured anew, in 0.5 ms, whenever so many have come."""

Key = tuple[str, str | None]


@dataclass(slots=True)
class Tally:
    """How operations were executed since the process began."""

    compiled: int = 0
    ordinary: Counter[str] = field(default_factory=Counter)
    """Left to the ordinary executor, by reason."""


@dataclass(frozen=True, slots=True)
class Known:
    """An operation that was seen before."""

    document: DocumentNode
    operation: OperationDefinitionNode
    plan: Plan | None = None
    reason: str = ""
    """Why there is no plan."""
    traits: Traits = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "traits", traits_of(self.operation))


class Plans:
    """The plans of one schema."""

    def __init__(
        self,
        schema: GraphQLSchema,
        *,
        hides_suggestions: bool,
        max_plans: int = MAX_PLANS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.tally = Tally()
        self._schema = schema
        self._hides_suggestions = hides_suggestions
        self._max_plans = max_plans
        self._max_bytes = max_bytes
        self._known: OrderedDict[Key, Known] = OrderedDict()
        self._size = 0
        """When all were measured last, and what came since."""
        self._unmeasured = 0

    def __len__(self) -> int:
        return len(self._known)

    @property
    def size_bytes(self) -> int:
        return sum(_size(key, known) for key, known in self._known.items())

    def find(self, text: str, name: str | None) -> Known | None:
        """The operation of this text, if it is known; it is then the one used last."""
        key = (text, name)
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
        return known

    def learn(self, text: str, name: str | None, document: DocumentNode, operation: OperationDefinitionNode) -> Known:
        """Plan this operation and keep the plan, if it can be planned; what must go for it goes."""
        known = self._known[text, name] = self.planned(document, operation)
        self._size += _size((text, name), known)
        self._unmeasured += 1
        self._make_room()
        return known

    def planned(self, document: DocumentNode, operation: OperationDefinitionNode) -> Known:
        """This operation with its plan, if it can be planned, for whoever keeps it."""
        try:
            with compiling():
                plan = Plan(self._schema, document, operation, hides_suggestions=self._hides_suggestions)
            return Known(document, operation, plan)
        except NotUnderstood as reason:
            return Known(document, operation, None, str(reason))

    def execute(
        self, known: Known, context: Any, given: Mapping[str, Any] | None
    ) -> ExecutionResult | Awaitable[ExecutionResult]:
        """The result of a query or mutation. Raises: NotUnderstood, counted, before anything has run."""
        try:
            result = self._plan(known).execute(context, given)
        except NotUnderstood as reason:
            self.tally.ordinary[str(reason)] += 1
            raise
        self.tally.compiled += 1
        return result

    async def begin(self, known: Known, context: Any, given: Mapping[str, Any] | None) -> Begun | list[GraphQLError]:
        """A subscription, whose events are counted one by one; or why there is none.

        Raises: NotUnderstood, counted, before anything has run.
        """
        try:
            return await self._plan(known).begin(context, given)
        except NotUnderstood as reason:
            self.tally.ordinary[str(reason)] += 1
            raise

    def execute_event(
        self, known: Known, context: Any, begun: Begun, event: Any
    ) -> ExecutionResult | Awaitable[ExecutionResult]:
        """The result for one event of a subscription that a plan has begun."""
        result = self._plan(known).execute_event(context, begun, event)
        self.tally.compiled += 1
        return result

    def encoded_event(self, known: Known, context: Any, begun: Begun, event: Any) -> bytes | None:
        """The answer to an event that many are given, as JSON; None: it has to be executed for itself."""
        encoded = self._plan(known).encoded_event(context, begun, event)
        if encoded is not None:
            self.tally.compiled += 1
        return encoded

    @staticmethod
    def _plan(known: Known) -> Plan:
        if known.plan is None:
            raise NotUnderstood(known.reason)
        return known.plan

    def _make_room(self) -> None:
        while len(self._known) > self._max_plans:
            self._forget_oldest()
        if self._unmeasured >= MEASURED_EVERY or self._size > self._max_bytes:
            self._size, self._unmeasured = self.size_bytes, 0
        while self._size > self._max_bytes and len(self._known) > 1:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        self._size -= _size(*self._known.popitem(last=False))


def _size(key: Key, known: Known) -> int:
    """The text stands for its syntax tree too, of about 80 bytes a character."""
    return len(key[0]) * 80 + (known.plan.size_bytes if known.plan else 0)
