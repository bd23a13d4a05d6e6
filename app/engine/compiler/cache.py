"""A cache of prepared operations, by document text and operation name.

The number of operations and their size in bytes are limited. The least recently used operation is dropped first.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from graphql import DocumentNode, GraphQLSchema, OperationDefinitionNode

from app.engine.compiler.analysis import NotCompilable, faults_as_not_compilable
from app.engine.compiler.compiled_operation import CompiledOperation
from app.engine.documents import MAX_CACHED_LENGTH
from app.engine.operations import OperationInfo, operation_info

MAX_OPERATIONS: Final = 500
MAX_BYTES: Final = 32 * 1024 * 1024
MEASURE_EVERY: Final = 32
"""After this many new operations, the sizes of all operations are computed again (0.5 ms).

A cached operation grows, because some of its fields are compiled during execution.
"""

_Key = tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class PreparedOperation:
    """An operation that is ready to execute."""

    document: DocumentNode
    operation: OperationDefinitionNode
    info: OperationInfo
    compiled: CompiledOperation | None = None
    """The compiled operation, or None if graphql-core executes it."""
    not_compiled_reason: str | None = None
    """The reason why `compiled` is None. It is None if the operation is compiled or compilation is off."""


class OperationCache:
    """The prepared operations of one schema."""

    def __init__(
        self,
        schema: GraphQLSchema,
        *,
        compile_operations: bool,
        hide_suggestions: bool,
        unlimited_mutations: frozenset[str] = frozenset(),
        max_operations: int = MAX_OPERATIONS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._schema = schema
        self._compile_operations = compile_operations
        self._hide_suggestions = hide_suggestions
        self._unlimited_mutations = unlimited_mutations
        self._max_operations = max_operations
        self._max_bytes = max_bytes
        self._operations: OrderedDict[_Key, PreparedOperation] = OrderedDict()
        self._size = 0
        """The size of all operations when it was last computed, plus the sizes of operations added since."""
        self._added_since_measured = 0

    def __len__(self) -> int:
        return len(self._operations)

    @property
    def size_bytes(self) -> int:
        return sum(_size(key, prepared) for key, prepared in self._operations.items())

    def find(self, text: str, name: str | None) -> PreparedOperation | None:
        """Return the cached operation and make it the most recently used one. Returns None if it is not cached."""
        key = (text, name)
        prepared = self._operations.get(key)
        if prepared is not None:
            self._operations.move_to_end(key)
        return prepared

    def add(
        self, text: str, name: str | None, document: DocumentNode, operation: OperationDefinitionNode
    ) -> PreparedOperation:
        """Prepare this operation and cache it. An operation of a long document is neither compiled nor cached."""
        if len(text) > MAX_CACHED_LENGTH:
            reason = "length" if self._compile_operations else None
            info = operation_info(operation, self._unlimited_mutations)
            return PreparedOperation(document, operation, info, not_compiled_reason=reason)
        prepared = self._operations[text, name] = self.prepare(document, operation)
        self._size += _size((text, name), prepared)
        self._added_since_measured += 1
        self._make_room()
        return prepared

    def prepare(self, document: DocumentNode, operation: OperationDefinitionNode) -> PreparedOperation:
        """Return this operation, compiled if possible, without caching it."""
        compiled, reason = None, None
        if self._compile_operations:
            try:
                with faults_as_not_compilable():
                    compiled = CompiledOperation(
                        self._schema, document, operation, hide_suggestions=self._hide_suggestions
                    )
            except NotCompilable as error:
                reason = str(error)
        info = operation_info(operation, self._unlimited_mutations)
        return PreparedOperation(document, operation, info, compiled=compiled, not_compiled_reason=reason)

    def _make_room(self) -> None:
        while len(self._operations) > self._max_operations:
            self._drop_oldest()
        if self._added_since_measured >= MEASURE_EVERY or self._size > self._max_bytes:
            self._size, self._added_since_measured = self.size_bytes, 0
        while self._size > self._max_bytes and len(self._operations) > 1:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self._size -= _size(*self._operations.popitem(last=False))


def _size(key: _Key, prepared: PreparedOperation) -> int:
    """Return the estimated size. The document's syntax tree takes about 80 bytes for each character of the text."""
    return len(key[0]) * 80 + (prepared.compiled.size_bytes if prepared.compiled else 0)
