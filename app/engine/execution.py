"""A request is executed: known documents, their plans or graphql-core's executor, errors as they are sent.

Strawberry builds the schema and its resolvers; its own pipeline around each execution costs nearly as much
as the execution itself, so requests go from the document cache straight to a plan, or to graphql-core.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from typing import Any, Final, NamedTuple

import orjson
from graphql import (
    DocumentNode,
    ExecutionResult,
    GraphQLSchema,
    OperationDefinitionNode,
    OperationType,
    execute,
    get_operation_ast,
)
from graphql.pyutils import AwaitableOrValue
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext

from app.api.context import Context
from app.engine import subscriptions
from app.engine.compiler.analysis import NotCompilable
from app.engine.compiler.cache import ExecutionCounts, OperationCache, PreparedOperation
from app.engine.documents import MAX_CACHED_LENGTH, DocumentCache, InvalidDocument
from app.engine.errors import OPERATION_TIMED_OUT, ErrorCode, format_error, format_errors
from app.engine.limits.rate_limiter import RateLimiter, is_user_or_anonymous
from app.engine.operations import operation_record
from app.engine.persisted.documents import (
    DocumentNotServed,
    PersistedDocuments,
    operations_by_name,
    to_misconfigured,
    validate_documents,
)
from app.engine.subscriptions import response_payload
from app.errors import RateLimited
from app.server.request_log import RequestLog

SUBSCRIPTION_TRANSPORTS: Final = (
    "Subscriptions are served over WebSocket (graphql-transport-ws), or as an event stream (Accept: text/event-stream)."
)
_EXECUTOR: Final = StrawberryGraphQLCoreExecutionContext


class GraphQLRequest(NamedTuple):
    """One operation to execute, of the types that the transports have checked."""

    query: str
    """The document's text; it may be empty where `hash` names a known one."""
    variables: dict[str, Any] | None = None
    operation_name: str | None = None
    document_hash: str | None = None
    """SHA-256 of a known document's text, in lower-case hex."""


class GraphQLResponse(NamedTuple):
    """A response map, and whether the operation ran at all."""

    payload: Mapping[str, Any]
    ran: bool = True
    retry_after_seconds: int | None = None
    """Where the caller asks too often: when to ask again."""


class OperationFailed(Exception):
    """The operation ends here without a result; `errors` are as they are sent."""

    def __init__(self, *errors: dict[str, Any], retry_after_seconds: int | None = None) -> None:
        super().__init__(*errors)
        self.errors = list(errors)
        self.retry_after_seconds = retry_after_seconds


Prepared = PreparedOperation | OperationFailed
"""The operation that may begin, or why none does."""


def operation_type(prepared: Prepared) -> OperationType | None:
    """None: it is not carried out."""
    return prepared.operation.operation if isinstance(prepared, PreparedOperation) else None


def _found(looked: Prepared) -> PreparedOperation:
    if isinstance(looked, OperationFailed):
        raise looked
    return looked


def rate_limit_failure(refusal: RateLimited) -> OperationFailed:
    """The end of an operation that its caller may not begin now."""
    told = format_error(str(refusal), refusal.code)
    told["extensions"]["retryAfterSeconds"] = refusal.retry_after_seconds
    return OperationFailed(told, retry_after_seconds=refusal.retry_after_seconds)


class GraphQLEngine:
    """Executes operations of one schema. Made once per process."""

    def __init__(
        self,
        schema: GraphQLSchema,
        *,
        introspection: bool,
        compile_operations: bool = False,
        persisted_documents: PersistedDocuments | None = None,
        rate_limiter: RateLimiter | None = None,
        operation_log: RequestLog | None = None,
    ) -> None:
        """`plans`: whether documents are compiled; no answer differs by it. `library`: the documents known ahead. No
        `gate`: no limit; no `log`: no line.

        Raises: Misconfigured: a known document cannot be carried out.
        """
        self.schema = schema
        self._gate = rate_limiter
        self._log = operation_log
        self._documents = DocumentCache(schema, introspection=introspection)
        self._hides_suggestions = not introspection
        self._plans = OperationCache(schema, hide_suggestions=self._hides_suggestions) if compile_operations else None
        self._library = persisted_documents or PersistedDocuments()
        self._ahead = self._compiled(self._library)

    @property
    def execution_counts(self) -> ExecutionCounts:
        """How often plans were used, and why not."""
        return self._plans.counts if self._plans is not None else ExecutionCounts()

    def check_address_rate(self, context: Context) -> None:
        """Raises: RateLimited: too much has come from this address to look at who asks."""
        if self._gate is not None:
            self._gate.check(context)

    def record_failure(self, context: Context) -> None:
        """Count a request that is refused before it is an operation. Raises: RateLimited: there were too many."""
        if self._gate is not None:
            self._gate.record_failure(context)

    def prepare(self, request: GraphQLRequest, context: Context) -> Prepared:
        """Ahead of its execution: whether the operation may begin. Its caller is counted by this, and not again."""
        try:
            return self._admitted(request, context)
        except OperationFailed as failed:
            return failed

    async def execute(
        self, request: GraphQLRequest, context: Context, prepared: Prepared | None = None
    ) -> GraphQLResponse:
        """The whole answer to a query or mutation. `looked`: what `look` found, if it was asked."""
        known = None
        try:
            known = _found(prepared) if prepared is not None else self._admitted(request, context)
            if known.operation.operation is OperationType.SUBSCRIPTION:
                raise OperationFailed(format_error(SUBSCRIPTION_TRANSPORTS, ErrorCode.BAD_REQUEST))
            answer = GraphQLResponse(await self._in_time(known, request, context))
        except OperationFailed as failed:
            answer = GraphQLResponse(
                {"errors": failed.errors}, ran=False, retry_after_seconds=failed.retry_after_seconds
            )
        self._note(context, known, answer.payload.get("errors"))
        return answer

    async def stream(
        self, request: GraphQLRequest, context: Context, prepared: Prepared | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The items of a subscription, or the one answer to a query or mutation, as JSON. Raises: OperationFailed."""
        known, errors, faulted = None, None, False
        try:
            known = _found(prepared) if prepared is not None else self._admitted(request, context)
            if known.operation.operation is not OperationType.SUBSCRIPTION:
                payload = await self._in_time(known, request, context)
                errors = payload.get("errors")
                yield orjson.dumps(payload)
                return
            with self._streaming(context):
                async with aclosing(await self._items(known, request, context)) as items:
                    try:
                        async for item in items:
                            yield item
                    except Exception as fault:
                        raise OperationFailed(*subscriptions.format_subscription_fault(fault, context)) from None
        except OperationFailed as failed:
            errors = failed.errors
            raise
        except Exception:
            faulted = True  # noted by who masks it
            raise
        finally:
            if not faulted:
                self._note(context, known, errors)

    def log_refusal(self, context: Context, problem: Mapping[str, Any]) -> None:
        """Leave a line for a request that ended before, or in a fault outside, its operation: `problem` was its end."""
        self._note(context, None, [problem])

    def _note(
        self, context: Context, known: PreparedOperation | None, errors: Sequence[Mapping[str, Any]] | None
    ) -> None:
        if self._log is None:
            return
        if not errors and known is not None and not self._log.is_logged(charges=known.info.is_unlimited):
            return
        self._log.add(operation_record(context, known.info if known is not None else None, errors))

    def _admitted(self, request: GraphQLRequest, context: Context) -> PreparedOperation:
        """The operation, if this caller may begin one now. Raises: OperationFailed.

        A user is counted before its document is looked at; a service after, for charges are not counted.
        """
        if self._gate is None:
            return self._known(request, context)
        try:
            if is_user_or_anonymous(context):
                self._gate.record_operation(context)
                return self._known(request, context)
            known = self._known(request, context)
            if not known.info.is_unlimited:
                self._gate.record_operation(context)
        except RateLimited as refusal:
            raise rate_limit_failure(refusal) from None
        return known

    async def _in_time(self, known: PreparedOperation, request: GraphQLRequest, context: Context) -> Mapping[str, Any]:
        """As `_executed`, within the time and number that a caller may have. Charges wait in their own queue."""
        if self._gate is None or (known.info.is_unlimited and not is_user_or_anonymous(context)):
            return await self._executed(known, request, context)
        deadline = asyncio.timeout(self._gate.timeout_seconds)
        try:
            with self._gate.running_operation(context):
                async with deadline:
                    return await self._executed(known, request, context)
        except RateLimited as refusal:
            raise rate_limit_failure(refusal) from None
        except TimeoutError:
            if not deadline.expired():
                raise
            return {"data": None, "errors": [format_error(OPERATION_TIMED_OUT, ErrorCode.TIMED_OUT)]}

    @contextmanager
    def _streaming(self, context: Context) -> Iterator[None]:
        with ExitStack() as stack:
            try:
                if self._gate is not None:
                    stack.enter_context(self._gate.open_subscription(context))
            except RateLimited as refusal:
                raise rate_limit_failure(refusal) from None
            yield

    def _known(self, request: GraphQLRequest, context: Context) -> PreparedOperation:
        """The operation of a request, with its plan. Raises: OperationFailed."""
        try:
            text = self._library.resolve_text(request.query, request.document_hash, context.caller)
        except DocumentNotServed as refusal:
            raise OperationFailed(refusal.error) from None
        known = self._ahead.get((text, request.operation_name))
        if known is None and self._plans is not None:
            known = self._plans.find(text, request.operation_name)
        if known is not None:
            return known
        document, operation = self._prepared(text, request, context)
        if self._plans is None or len(text) > MAX_CACHED_LENGTH:  # executed once: to compile it costs more
            return PreparedOperation(document, operation, not_compiled_reason="length")
        return self._plans.add(text, request.operation_name, document, operation)

    def _compiled(self, library: PersistedDocuments) -> Mapping[tuple[str, str | None], PreparedOperation]:
        """The operations of known documents, by text and operation name: kept as long as the process."""
        documents, problems = validate_documents(library.documents, self._documents)
        if problems:
            raise to_misconfigured(problems)
        planned = self._plans.prepare if self._plans is not None else PreparedOperation
        return {
            (text, name): planned(document, operation)
            for text, document in documents.items()
            for name, operation in operations_by_name(document).items()
        }

    def _prepared(
        self, text: str, request: GraphQLRequest, context: Context
    ) -> tuple[DocumentNode, OperationDefinitionNode]:
        try:
            document = self._documents.parse_and_validate(text)
        except InvalidDocument as refused:
            raise OperationFailed(*format_errors(refused.errors, context)) from None
        operation = get_operation_ast(document, request.operation_name)
        if operation is None:
            problem = (
                f"The document has no operation named {request.operation_name[:100]!r}."
                if request.operation_name is not None
                else "The document must hold one operation, or operationName must name one of several."
            )
            raise OperationFailed(format_error(problem, ErrorCode.BAD_USER_INPUT))
        return document, operation

    async def _executed(self, known: PreparedOperation, request: GraphQLRequest, context: Context) -> Mapping[str, Any]:
        result = self._begun(known, request, context)
        if not isinstance(result, ExecutionResult):
            result = await result
        if result.data is None and result.errors and all(found.path is None for found in result.errors):
            raise OperationFailed(*format_errors(result.errors, context))  # variables were refused: nothing ran
        return response_payload(result, context)

    def _begun(
        self, known: PreparedOperation, request: GraphQLRequest, context: Context
    ) -> AwaitableOrValue[ExecutionResult]:
        """The result, by the plan or by graphql-core's executor."""
        if self._plans is not None:
            try:
                return self._plans.execute(known, context, request.variables)
            except NotCompilable:  # counted; nothing has run
                pass
        return execute(
            self.schema,
            known.document,
            context_value=context,
            variable_values=request.variables,
            operation_name=request.operation_name,
            executor_class=_EXECUTOR,
            hide_suggestions=self._hides_suggestions,
        )

    async def _items(
        self, known: PreparedOperation, request: GraphQLRequest, context: Context
    ) -> AsyncGenerator[bytes, None]:
        """The items of a subscription that has begun, by the plan or by graphql-core. Raises: OperationFailed."""
        found: AsyncGenerator[bytes, None] | list[dict[str, Any]]
        if self._plans is not None:
            try:
                found = await subscriptions.compiled_items(self._plans, known, context, request.variables)
            except NotCompilable:  # counted; nothing has run
                found = await self._ordinary_items(known, request, context)
        else:
            found = await self._ordinary_items(known, request, context)
        if isinstance(found, list):
            raise OperationFailed(*found)
        return found

    async def _ordinary_items(
        self, known: PreparedOperation, request: GraphQLRequest, context: Context
    ) -> AsyncGenerator[bytes, None] | list[dict[str, Any]]:
        executor = _EXECUTOR.build(
            self.schema,
            known.document,
            context_value=context,
            raw_variable_values=request.variables,
            operation_name=request.operation_name,
            hide_suggestions=self._hides_suggestions,
        )
        return (
            format_errors(executor, context)
            if isinstance(executor, list)
            else await subscriptions.interpreted_items(executor, context)
        )
