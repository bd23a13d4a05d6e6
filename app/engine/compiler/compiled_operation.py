"""A compiled operation: one operation of one document, compiled once and executed for each request."""

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

from app.engine.compiler.analysis import NotCompilable, faults_as_not_compilable, fragments_and_conditions
from app.engine.compiler.compiler import Compiler, Subscribe
from app.engine.compiler.completion import ExecuteFields
from app.engine.compiler.execution_state import Execution, Operation
from app.engine.compiler.input_coercion import CoercedVariables, VariableCoercer

MAX_VARIANTS: Final = 16
"""The maximum number of variants of one operation. The least recently used variant is dropped."""
BYTES_PER_OPERATION: Final = 8 * 1024
"""The size that is assumed for an operation without fields. Measured: 2 to 10 KiB, most of it for input objects."""
BYTES_PER_FIELD: Final = 4 * 1024
"""The size that is assumed for a compiled field. Measured: 3.1 to 4.2 KiB."""


class SharedEvent:
    """A subscription event that is sent to many subscribers.

    If an operation only copies attributes of the event, the response is the same for all its subscribers. Then the
    response is encoded once and stored in `encoded_responses`, unless that is None.
    """

    encoded_responses: dict[object, bytes] | None = None
    """The encoded responses by variant."""


@dataclass(frozen=True, slots=True)
class StartedSubscription:
    """The variables and events of a subscription that has started."""

    variables: CoercedVariables
    events: AsyncIterable[Any]


@dataclass(frozen=True, slots=True, eq=False)
class _Variant:
    """The operation compiled for one set of conditions."""

    execute_fields: ExecuteFields
    is_copy: bool
    """Whether the response to an event only copies attributes of the event."""


class CompiledOperation:
    """Executes one operation. Only one thread may use it."""

    def __init__(
        self,
        schema: GraphQLSchema,
        document: DocumentNode,
        definition: OperationDefinitionNode,
        *,
        hide_suggestions: bool,
    ) -> None:
        """Raises: NotCompilable."""
        fragments, self._condition_names = fragments_and_conditions(document, definition)
        root_type = schema.get_root_type(definition.operation)
        if root_type is None:
            raise NotCompilable("root type")
        self._root_type = root_type
        self._operation = Operation(schema, definition, fragments, hide_suggestions=hide_suggestions)
        self._coercer = VariableCoercer(schema, definition, hide_suggestions=hide_suggestions)
        self._variants: OrderedDict[tuple[Any, ...], _Variant] = OrderedDict()
        self._fields = 0
        self._subscribe: Subscribe | None = None

    @property
    def size_bytes(self) -> int:
        """Return the estimated memory of the operation, without the document."""
        return BYTES_PER_OPERATION + self._fields * BYTES_PER_FIELD

    def execute(self, context: Any, given: Mapping[str, Any] | None) -> ExecutionResult | Awaitable[ExecutionResult]:
        """Return the result. `given` are the variables as they were sent.

        Raises: NotCompilable: no resolver has run.
        """
        variables = self._coercer.coerce(given or {})
        if isinstance(variables, list):
            return ExecutionResult(None, errors=variables)
        variant = self._variant(variables)
        return self._execute(Execution(self._operation, variables, context), variant.execute_fields)

    async def subscribe(
        self, context: Any, given: Mapping[str, Any] | None
    ) -> StartedSubscription | list[GraphQLError]:
        """Start the subscription, or return the errors if it cannot start. `given` are the variables as they were sent.

        Raises: NotCompilable: no resolver has run.
        """
        if self._condition_names:  # @skip and @include may decide which root field is selected
            raise NotCompilable("condition")
        if self._subscribe is None:
            with faults_as_not_compilable():
                self._subscribe = Compiler(self._operation, {}, self._count_field).compile_subscribe(self._root_type)
        variables = self._coercer.coerce(given or {})
        if isinstance(variables, list):
            return variables
        self._variant(variables)  # compiled now, so that compiling cannot fail later
        try:
            events = await self._subscribe(Execution(self._operation, variables, context))
        except GraphQLError as error:
            return [error]
        return StartedSubscription(variables, events)

    def execute_event(
        self, context: Any, subscription: StartedSubscription, event: Any
    ) -> ExecutionResult | Awaitable[ExecutionResult]:
        """Return the result for one event of a subscription."""
        variables = subscription.variables
        variant = self._variant(variables)
        return self._execute(Execution(self._operation, variables, context, event), variant.execute_fields)

    def encode_event(self, context: Any, subscription: StartedSubscription, event: Any) -> bytes | None:
        """Return the response to a `SharedEvent` as JSON, encoded once for all subscribers with this operation.

        Returns None if the event is not shared, if the operation does more than copy its attributes, or if there are
        errors.
        """
        variant = self._variant(subscription.variables)
        if not variant.is_copy or not isinstance(event, SharedEvent) or event.encoded_responses is None:
            return None
        encoded = event.encoded_responses.get(variant)
        if encoded is None:
            result = self.execute_event(context, subscription, event)
            if not isinstance(result, ExecutionResult) or result.errors:
                return None
            encoded = event.encoded_responses[variant] = orjson.dumps({"data": result.data})
        return encoded

    def _execute(
        self, execution: Execution, execute_fields: ExecuteFields
    ) -> ExecutionResult | Awaitable[ExecutionResult]:
        try:
            data = execute_fields(execution, execution.root, None)
        except GraphQLError as error:
            execution.add_error(error, None)
            data = None
        if type(data) is CoroutineType:
            return self._await_result(execution, data)
        return ExecutionResult(data, execution.errors)

    @staticmethod
    async def _await_result(execution: Execution, pending: Awaitable[Any]) -> ExecutionResult:
        try:
            data = await pending
        except GraphQLError as error:
            execution.add_error(error, None)
            data = None
        return ExecutionResult(data, execution.errors)

    def _variant(self, variables: CoercedVariables) -> _Variant:
        conditions = (
            tuple([variables.coerced.get(name) for name in self._condition_names]) if self._condition_names else ()
        )
        variant = self._variants.get(conditions)
        if variant is None:
            return self._compile_variant(conditions)
        if conditions:
            self._variants.move_to_end(conditions)
        return variant

    def _compile_variant(self, conditions: tuple[Any, ...]) -> _Variant:
        if not all(type(value) is bool for value in conditions):
            raise NotCompilable("condition")
        by_name = dict(zip(self._condition_names, conditions, strict=True))
        compiler = Compiler(self._operation, by_name, self._count_field)
        if len(self._variants) >= MAX_VARIANTS:
            self._variants.popitem(last=False)
        in_series = self._operation.definition.operation is OperationType.MUTATION
        with faults_as_not_compilable():
            execute_fields = compiler.compile_root(self._root_type, in_series=in_series)
        variant = self._variants[conditions] = _Variant(execute_fields, compiler.is_copy)
        return variant

    def _count_field(self) -> None:
        self._fields += 1
