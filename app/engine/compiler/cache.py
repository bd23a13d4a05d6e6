"""The plans that are kept, by document text and operation name: bounded in number and bytes, oldest use first out."""

from collections import Counter, OrderedDict
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from graphql import DocumentNode, ExecutionResult, GraphQLError, GraphQLSchema, OperationDefinitionNode

from app.engine.compiler.analysis import NotCompilable, compiler_faults_as_not_compilable
from app.engine.compiler.compiled_operation import CompiledOperation, StartedSubscription
from app.engine.operation_info import OperationInfo, operation_info

MAX_OPERATIONS: Final = 500
MAX_BYTES: Final = 32 * 1024 * 1024
MEASURE_EVERY: Final = 32
"""Plans grow as objects of new types are met, so all are measured anew, in 0.5 ms, whenever so many have come."""

Key = tuple[str, str | None]


@dataclass(slots=True)
class ExecutionCounts:
    """How operations were executed since the process began."""

    compiled: int = 0
    interpreted: Counter[str] = field(default_factory=Counter)
    """Left to the ordinary executor, by reason."""


@dataclass(frozen=True, slots=True)
class PreparedOperation:
    """An operation that was seen before."""

    document: DocumentNode
    operation: OperationDefinitionNode
    compiled: CompiledOperation | None = None
    not_compiled_reason: str = ""
    """Why there is no plan."""
    info: OperationInfo = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "info", operation_info(self.operation))


class OperationCache:
    """The plans of one schema."""

    def __init__(
        self,
        schema: GraphQLSchema,
        *,
        hide_suggestions: bool,
        max_operations: int = MAX_OPERATIONS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.counts = ExecutionCounts()
        self._schema = schema
        self._hides_suggestions = hide_suggestions
        self._max_plans = max_operations
        self._max_bytes = max_bytes
        self._known: OrderedDict[Key, PreparedOperation] = OrderedDict()
        self._size = 0
        """When all were measured last, and what came since."""
        self._unmeasured = 0

    def __len__(self) -> int:
        return len(self._known)

    @property
    def size_bytes(self) -> int:
        return sum(_size(key, known) for key, known in self._known.items())

    def find(self, text: str, name: str | None) -> PreparedOperation | None:
        """The operation of this text, if it is known; it is then the one used last."""
        key = (text, name)
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
        return known

    def add(
        self, text: str, name: str | None, document: DocumentNode, operation: OperationDefinitionNode
    ) -> PreparedOperation:
        """Plan this operation and keep the plan, if it can be planned; what must go for it goes."""
        known = self._known[text, name] = self.prepare(document, operation)
        self._size += _size((text, name), known)
        self._unmeasured += 1
        self._make_room()
        return known

    def prepare(self, document: DocumentNode, operation: OperationDefinitionNode) -> PreparedOperation:
        """This operation with its plan, if it can be planned, for whoever keeps it."""
        try:
            with compiler_faults_as_not_compilable():
                plan = CompiledOperation(self._schema, document, operation, hide_suggestions=self._hides_suggestions)
            return PreparedOperation(document, operation, plan)
        except NotCompilable as reason:
            return PreparedOperation(document, operation, None, str(reason))

    def execute(
        self, known: PreparedOperation, context: Any, given: Mapping[str, Any] | None
    ) -> ExecutionResult | Awaitable[ExecutionResult]:
        """The result of a query or mutation. Raises: NotUnderstood, counted, before anything has run."""
        try:
            result = self._plan(known).execute(context, given)
        except NotCompilable as reason:
            self.counts.interpreted[str(reason)] += 1
            raise
        self.counts.compiled += 1
        return result

    async def subscribe(
        self, known: PreparedOperation, context: Any, given: Mapping[str, Any] | None
    ) -> StartedSubscription | list[GraphQLError]:
        """A subscription, whose events are counted one by one; or why there is none.

        Raises: NotUnderstood, counted, before anything has run.
        """
        try:
            return await self._plan(known).subscribe(context, given)
        except NotCompilable as reason:
            self.counts.interpreted[str(reason)] += 1
            raise

    def execute_event(
        self, known: PreparedOperation, context: Any, begun: StartedSubscription, event: Any
    ) -> ExecutionResult | Awaitable[ExecutionResult]:
        """The result for one event of a subscription that a plan has begun."""
        result = self._plan(known).execute_event(context, begun, event)
        self.counts.compiled += 1
        return result

    def encode_event(
        self, known: PreparedOperation, context: Any, begun: StartedSubscription, event: Any
    ) -> bytes | None:
        """The answer to an event that many are given, as JSON; None: it has to be executed for itself."""
        encoded = self._plan(known).encode_event(context, begun, event)
        if encoded is not None:
            self.counts.compiled += 1
        return encoded

    @staticmethod
    def _plan(known: PreparedOperation) -> CompiledOperation:
        if known.compiled is None:
            raise NotCompilable(known.not_compiled_reason)
        return known.compiled

    def _make_room(self) -> None:
        while len(self._known) > self._max_plans:
            self._forget_oldest()
        if self._unmeasured >= MEASURE_EVERY or self._size > self._max_bytes:
            self._size, self._unmeasured = self.size_bytes, 0
        while self._size > self._max_bytes and len(self._known) > 1:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        self._size -= _size(*self._known.popitem(last=False))


def _size(key: Key, known: PreparedOperation) -> int:
    """The text stands for its syntax tree too, of about 80 bytes a character."""
    return len(key[0]) * 80 + (known.compiled.size_bytes if known.compiled else 0)
