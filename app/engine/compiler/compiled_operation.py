"""A plan: one operation of one document, ready to run."""

from collections import OrderedDict
from collections.abc import AsyncIterable, Awaitable, Mapping
from dataclasses import dataclass
from types import CoroutineType
from typing import Any, Final

import orjson
from graphql import (
    DocumentNode,
    ExecutionResult,
    GraphQLError,
    GraphQLSchema,
    OperationDefinitionNode,
    OperationType,
)

from app.engine.compiler.analysis import NotCompilable, compiler_faults_as_not_compilable, fragments_and_conditions
from app.engine.compiler.compiler import Compiler
from app.engine.compiler.completion import Fields
from app.engine.compiler.execution_state import Operation, Run
from app.engine.compiler.input_coercion import Values, Variables
from app.engine.compiler.shared_events import encoded_responses_of
from app.engine.compiler.subscribing import Beginning

MAX_VARIANTS: Final = 16
"""For how many sets of @skip and @include one plan is kept; the one used longest ago goes first."""
BYTES_PER_OPERATION: Final = 8 * 1024
"""Measured with tracemalloc over the product's documents: 2 to 10 KiB, most of it for input objects."""
BYTES_PER_FIELD: Final = 4 * 1024
"""What a step comes to with its place and completion: 3.1 to 4.2 KiB."""


@dataclass(frozen=True, slots=True)
class StartedSubscription:
    """A subscription that has begun: its events, and the variables that each is answered with."""

    values: Values
    events: AsyncIterable[Any]


@dataclass(frozen=True, slots=True, eq=False)
class _Variant:
    """The operation for one set of conditions."""

    fields: Fields
    is_plain: bool
    """Whether the answer to an event is nothing but a copy of what stands in it."""


class CompiledOperation:
    """Runs one operation. Made once, run many times, by one thread."""

    def __init__(
        self,
        schema: GraphQLSchema,
        document: DocumentNode,
        definition: OperationDefinitionNode,
        *,
        hide_suggestions: bool,
    ) -> None:
        """Raises: NotUnderstood."""
        fragments, self._condition_names = fragments_and_conditions(document, definition)
        root = schema.get_root_type(definition.operation)
        if root is None:
            raise NotCompilable("root type")
        self._root = root
        self._operation = Operation(schema, definition, fragments, hides_suggestions=hide_suggestions)
        self._variables = Variables(schema, definition, hides_suggestions=hide_suggestions)
        self._variants: OrderedDict[tuple[Any, ...], _Variant] = OrderedDict()
        self._steps = 0
        self._beginning: Beginning | None = None

    @property
    def size_bytes(self) -> int:
        """About what it takes up, beside its document."""
        return BYTES_PER_OPERATION + self._steps * BYTES_PER_FIELD

    def execute(self, context: Any, given: Mapping[str, Any] | None) -> ExecutionResult | Awaitable[ExecutionResult]:
        """The result for these variables as they were sent. Raises: NotUnderstood, before anything has run."""
        values = self._variables.values(given or {})
        if isinstance(values, list):
            return ExecutionResult(None, errors=values)
        return self._run(Run(self._operation, values, context), self._variant(values).fields)

    async def subscribe(
        self, context: Any, given: Mapping[str, Any] | None
    ) -> StartedSubscription | list[GraphQLError]:
        """The subscription for these variables as they were sent, or why there is none.

        Raises: NotUnderstood, before anything has run.
        """
        if self._condition_names:  # which field is the one may depend on them
            raise NotCompilable("condition")
        if self._beginning is None:
            with compiler_faults_as_not_compilable():
                self._beginning = Compiler(self._operation, {}, self._count).beginning(self._root)
        values = self._variables.values(given or {})
        if isinstance(values, list):
            return values
        self._variant(values)  # what the items ask is understood, too: no subscription changes its executor midway
        try:
            return StartedSubscription(values, await self._beginning(Run(self._operation, values, context)))
        except GraphQLError as error:
            return [error]

    def execute_event(
        self, context: Any, begun: StartedSubscription, event: Any
    ) -> ExecutionResult | Awaitable[ExecutionResult]:
        """The result for one event of a subscription, with the variables of its beginning."""
        return self._run(Run(self._operation, begun.values, context, event), self._variant(begun.values).fields)

    def encode_event(self, context: Any, begun: StartedSubscription, event: Any) -> bytes | None:
        """The answer to an event that many are given, as JSON: encoded once for all who ask the same of it.

        None: it is not such an event, or the answer is more than a copy of it.
        """
        variant = self._variant(begun.values)
        if not variant.is_plain or (encoded := encoded_responses_of(event)) is None:
            return None
        found = encoded.get(variant)
        if found is None:
            result = self.execute_event(context, begun, event)
            if not isinstance(result, ExecutionResult) or result.errors:
                return None
            found = encoded[variant] = orjson.dumps({"data": result.data})
        return found

    def _run(self, run: Run, fields: Fields) -> ExecutionResult | Awaitable[ExecutionResult]:
        try:
            data = fields(run, run.root, None)
        except GraphQLError as error:
            run.fail(error, None)
            data = None
        return self._awaited(run, data) if type(data) is CoroutineType else ExecutionResult(data, run.errors)

    @staticmethod
    async def _awaited(run: Run, begun: Awaitable[Any]) -> ExecutionResult:
        try:
            data = await begun
        except GraphQLError as error:
            run.fail(error, None)
            data = None
        return ExecutionResult(data, run.errors)

    def _variant(self, values: Values) -> _Variant:
        conditions = (
            tuple([values.coerced.get(name) for name in self._condition_names]) if self._condition_names else ()
        )
        found = self._variants.get(conditions)
        if found is None:
            return self._compiled(conditions)
        if conditions:
            self._variants.move_to_end(conditions)
        return found

    def _compiled(self, conditions: tuple[Any, ...]) -> _Variant:
        if not all(type(value) is bool for value in conditions):
            raise NotCompilable("condition")
        compiler = Compiler(self._operation, dict(zip(self._condition_names, conditions, strict=True)), self._count)
        serially = self._operation.definition.operation is OperationType.MUTATION
        if len(self._variants) >= MAX_VARIANTS:
            self._variants.popitem(last=False)
        with compiler_faults_as_not_compilable():
            fields = compiler.root(self._root, serially=serially)
        variant = self._variants[conditions] = _Variant(fields, compiler.is_plain)
        return variant

    def _count(self) -> None:
        self._steps += 1
