"""Cache of prepared operations, by document text and operation name. Bounded in number and bytes; least recently used
entries are dropped first."""

from collections import Counter, OrderedDict
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from graphql import DocumentNode, ExecutionResult, GraphQLError, GraphQLSchema, OperationDefinitionNode

from app.engine.compiler.analysis import NotCompilable, faults_as_not_compilable
from app.engine.compiler.compiled_operation import CompiledOperation, StartedSubscription
from app.engine.operations import OperationInfo, operation_info

MAX_OPERATIONS: Final = 500
MAX_BYTES: Final = 32 * 1024 * 1024
MEASURE_EVERY: Final = 32
"""Operations grow when objects of new types are met, so after this many new ones all are measured again (0.5 ms)."""

_Key = tuple[str, str | None]


@dataclass(slots=True)
class ExecutionCounts:
    """How operations were executed since the process started."""

    compiled: int = 0
    interpreted: Counter[str] = field(default_factory=Counter)
    """Executed by graphql-core instead, by reason."""


@dataclass(frozen=True, slots=True)
class PreparedOperation:
    """An operation that is ready to execute."""

    document: DocumentNode
    operation: OperationDefinitionNode
    info: OperationInfo
    compiled: CompiledOperation | None = None
    not_compiled_reason: str = ""


class OperationCache:
    """The prepared operations of one schema."""

    def __init__(
        self,
        schema: GraphQLSchema,
        *,
        hide_suggestions: bool,
        unlimited_mutations: frozenset[str] = frozenset(),
        max_operations: int = MAX_OPERATIONS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.counts = ExecutionCounts()
        self._schema = schema
        self._hide_suggestions = hide_suggestions
        self._unlimited_mutations = unlimited_mutations
        self._max_operations = max_operations
        self._max_bytes = max_bytes
        self._operations: OrderedDict[_Key, PreparedOperation] = OrderedDict()
        self._size = 0
        """The size of all at the last measurement, plus that of later additions."""
        self._added_since_measured = 0

    def __len__(self) -> int:
        return len(self._operations)

    @property
    def size_bytes(self) -> int:
        return sum(_size(key, prepared) for key, prepared in self._operations.items())

    def find(self, text: str, name: str | None) -> PreparedOperation | None:
        """The cached operation, which becomes the most recently used."""
        key = (text, name)
        prepared = self._operations.get(key)
        if prepared is not None:
            self._operations.move_to_end(key)
        return prepared

    def add(
        self, text: str, name: str | None, document: DocumentNode, operation: OperationDefinitionNode
    ) -> PreparedOperation:
        """Prepare this operation and cache it."""
        prepared = self._operations[text, name] = self.prepare(document, operation)
        self._size += _size((text, name), prepared)
        self._added_since_measured += 1
        self._make_room()
        return prepared

    def prepare(self, document: DocumentNode, operation: OperationDefinitionNode) -> PreparedOperation:
        """This operation, compiled if possible; not cached."""
        info = operation_info(operation, self._unlimited_mutations)
        try:
            with faults_as_not_compilable():
                compiled = CompiledOperation(self._schema, document, operation, hide_suggestions=self._hide_suggestions)
            return PreparedOperation(document, operation, info, compiled)
        except NotCompilable as reason:
            return PreparedOperation(document, operation, info, not_compiled_reason=str(reason))

    def execute(
        self, prepared: PreparedOperation, context: Any, given: Mapping[str, Any] | None
    ) -> ExecutionResult | Awaitable[ExecutionResult]:
        """The result of a query or mutation. Raises: NotCompilable, counted, before any resolver runs."""
        try:
            result = _compiled(prepared).execute(context, given)
        except NotCompilable as reason:
            self.counts.interpreted[str(reason)] += 1
            raise
        self.counts.compiled += 1
        return result

    async def subscribe(
        self, prepared: PreparedOperation, context: Any, given: Mapping[str, Any] | None
    ) -> StartedSubscription | list[GraphQLError]:
        """Start a subscription, or return why it cannot start. Its events are counted, each as an execution.

        Raises: NotCompilable, counted, before any resolver runs.
        """
        try:
            return await _compiled(prepared).subscribe(context, given)
        except NotCompilable as reason:
            self.counts.interpreted[str(reason)] += 1
            raise

    def execute_event(
        self, prepared: PreparedOperation, context: Any, subscription: StartedSubscription, event: Any
    ) -> ExecutionResult | Awaitable[ExecutionResult]:
        """The result for one event of a subscription that `subscribe` has started."""
        result = _compiled(prepared).execute_event(context, subscription, event)
        self.counts.compiled += 1
        return result

    def encode_event(
        self, prepared: PreparedOperation, context: Any, subscription: StartedSubscription, event: Any
    ) -> bytes | None:
        """The response to a shared event as JSON; None: use `execute_event`."""
        encoded = _compiled(prepared).encode_event(context, subscription, event)
        if encoded is not None:
            self.counts.compiled += 1
        return encoded

    def _make_room(self) -> None:
        while len(self._operations) > self._max_operations:
            self._drop_oldest()
        if self._added_since_measured >= MEASURE_EVERY or self._size > self._max_bytes:
            self._size, self._added_since_measured = self.size_bytes, 0
        while self._size > self._max_bytes and len(self._operations) > 1:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self._size -= _size(*self._operations.popitem(last=False))


def _compiled(prepared: PreparedOperation) -> CompiledOperation:
    if prepared.compiled is None:
        raise NotCompilable(prepared.not_compiled_reason)
    return prepared.compiled


def _size(key: _Key, prepared: PreparedOperation) -> int:
    """The document's syntax tree takes about 80 bytes for each character of the text."""
    return len(key[0]) * 80 + (prepared.compiled.size_bytes if prepared.compiled else 0)
