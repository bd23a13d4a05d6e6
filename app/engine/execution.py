"""The engine: executes the operations of one schema for all transports.

The stages of a request are: find its document (`persisted`, `documents`), check the limits of the caller
(`limits.rate_limiter`), execute the operation (compiled, or by graphql-core), format the errors, log the request.
Strawberry builds the schema and the resolvers. Strawberry's execution of requests is not used, because its overhead is
nearly as large as the execution itself.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from typing import Any, Final, NamedTuple

import orjson
from graphql import (
    ExecutionResult,
    GraphQLSchema,
    OperationType,
    execute,
)
from graphql.pyutils import AwaitableOrValue
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext

from app import metrics, tracing
from app.engine import subscriptions
from app.engine.compiler.analysis import NotCompilable
from app.engine.compiler.cache import OperationCache, PreparedOperation
from app.engine.context import RequestContext
from app.engine.documents import DocumentCache, InvalidDocument, select_operation
from app.engine.errors import OPERATION_TIMED_OUT, ErrorCode, format_error, format_errors
from app.engine.limits.rate_limiter import RateLimiter, is_user_or_anonymous
from app.engine.operations import UNKNOWN_OPERATION, ExecutionCounts, logged_request, outcome_of
from app.engine.persisted.documents import (
    DocumentNotServed,
    PersistedDocuments,
    operations_by_name,
    to_misconfigured,
    validate_documents,
)
from app.errors import RateLimited
from app.server.request_log import RequestLog
from app.tracing import NO_SPAN

SUBSCRIPTION_TRANSPORTS: Final = (
    "Subscriptions are served over WebSocket (graphql-transport-ws), or as an event stream (Accept: text/event-stream)."
)


class GraphQLRequest(NamedTuple):
    """One operation to execute. The transports have checked the types of its fields."""

    query: str
    """The document. It may be empty if `document_hash` identifies a persisted document."""
    variables: dict[str, Any] | None = None
    operation_name: str | None = None
    document_hash: str | None = None
    """The SHA-256 of a persisted document, in lower-case hex."""


class GraphQLResponse(NamedTuple):
    payload: Mapping[str, Any]
    """`data` and `errors`, as they are sent."""
    ran: bool = True
    """Whether the operation ran. Otherwise the payload contains only errors."""
    retry_after_seconds: int | None = None
    """When to retry, if the rate limit was exceeded."""


class OperationFailed(Exception):
    """The operation did not run, or its subscription has ended. `errors` are in the form in which they are sent."""

    def __init__(self, *errors: dict[str, Any], retry_after_seconds: int | None = None) -> None:
        super().__init__(*errors)
        self.errors = list(errors)
        self.retry_after_seconds = retry_after_seconds


Errors = Sequence[Mapping[str, Any]]
Prepared = PreparedOperation | OperationFailed
"""An operation that may run, or the reason why it may not."""


def operation_type(prepared: Prepared) -> OperationType | None:
    """Return the type of the operation, or None if it may not run."""
    return prepared.operation.operation if isinstance(prepared, PreparedOperation) else None


def _or_raise(prepared: Prepared) -> PreparedOperation:
    if isinstance(prepared, OperationFailed):
        raise prepared
    return prepared


def _rate_limit_failure(refusal: RateLimited) -> OperationFailed:
    error = format_error(str(refusal), refusal.code)
    error["extensions"]["retryAfterSeconds"] = refusal.retry_after_seconds
    return OperationFailed(error, retry_after_seconds=refusal.retry_after_seconds)


class GraphQLEngine:
    """Executes operations of one schema. Each process has one engine."""

    def __init__(
        self,
        schema: GraphQLSchema,
        *,
        introspection: bool,
        compile_operations: bool = False,
        unlimited_mutations: frozenset[str] = frozenset(),
        persisted_documents: PersistedDocuments | None = None,
        rate_limiter: RateLimiter | None = None,
        request_log: RequestLog | None = None,
    ) -> None:
        """`compile_operations` says whether operations are compiled; the responses are the same.

        `unlimited_mutations` are fields that rate limits do not count for services and operators. Without
        `rate_limiter` there are no limits, and without `request_log` no log.
        Raises: Misconfigured: a persisted document is not valid.
        """
        self.schema = schema
        self.execution_counts = ExecutionCounts()
        self._rate_limiter = rate_limiter
        self._request_log = request_log
        self._documents = DocumentCache(schema, introspection=introspection)
        self._hide_suggestions = not introspection
        self._cache = OperationCache(
            schema,
            compile_operations=compile_operations,
            hide_suggestions=self._hide_suggestions,
            unlimited_mutations=unlimited_mutations,
        )
        self._persisted_documents = persisted_documents or PersistedDocuments()
        self._persisted_operations = self._prepare_persisted()

    def check_address_rate(self, context: RequestContext[Any]) -> None:
        """Check the rate before authentication. Raises: RateLimited: this client address has used up its rate."""
        if self._rate_limiter is not None:
            self._rate_limiter.check(context)

    def record_key_read(self, context: RequestContext[Any]) -> None:
        """Count the read of an unknown service key for its client address. Raises: RateLimited."""
        if self._rate_limiter is not None:
            self._rate_limiter.record_key_read(context)

    def record_failure(self, context: RequestContext[Any]) -> None:
        """Count a request that is refused before its operation is known. Raises: RateLimited: there were too many."""
        if self._rate_limiter is not None:
            self._rate_limiter.record_failure(context)

    def prepare(self, request: GraphQLRequest, context: RequestContext[Any]) -> Prepared:
        """Decide whether the operation may run, and count it against the caller's rate. It is not executed."""
        try:
            return self._prepare_limited(request, context)
        except OperationFailed as failed:
            return failed

    async def execute(
        self, request: GraphQLRequest, context: RequestContext[Any], prepared: Prepared | None = None
    ) -> GraphQLResponse:
        """Return the response to a query or mutation. `prepared` is the result of `prepare`, if it was called."""
        operation = None
        try:
            operation = _or_raise(prepared) if prepared is not None else self._prepare_limited(request, context)
            if operation.operation.operation is OperationType.SUBSCRIPTION:
                raise OperationFailed(format_error(SUBSCRIPTION_TRANSPORTS, ErrorCode.BAD_REQUEST))
            response = GraphQLResponse(await self._execute_limited(operation, request, context))
        except OperationFailed as failed:
            response = GraphQLResponse(
                {"errors": failed.errors}, ran=False, retry_after_seconds=failed.retry_after_seconds
            )
        self._log(context, operation, response.payload.get("errors"))
        return response

    async def stream(
        self, request: GraphQLRequest, context: RequestContext[Any], prepared: Prepared | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the items of a subscription, or the response to a query or mutation, as JSON.

        Raises: OperationFailed.
        """
        operation, errors, is_logged_elsewhere = None, None, False
        try:
            operation = _or_raise(prepared) if prepared is not None else self._prepare_limited(request, context)
            if operation.operation.operation is not OperationType.SUBSCRIPTION:
                payload = await self._execute_limited(operation, request, context)
                errors = payload.get("errors")
                yield orjson.dumps(payload)
                return
            with self._subscription_limit(context):
                async with aclosing(await self._subscribe(operation, request, context)) as items:
                    try:
                        async for item in items:
                            yield item
                    except Exception as fault:
                        raise OperationFailed(*subscriptions.format_source_error(fault, context)) from None
        except OperationFailed as failed:
            errors = failed.errors
            raise
        except Exception:
            is_logged_elsewhere = True  # the transport masks and logs it
            raise
        finally:
            if not is_logged_elsewhere:
                self._log(context, operation, errors)

    def log_refusal(self, context: RequestContext[Any], error: Mapping[str, Any], reason: str | None = None) -> None:
        """Log a request that a transport has ended with this error.

        `reason` says why the credential of the request was rejected.
        """
        self._log(context, None, [error], reason)

    def _log(
        self,
        context: RequestContext[Any],
        operation: PreparedOperation | None,
        errors: Errors | None,
        reason: str | None = None,
    ) -> None:
        info = operation.info if operation is not None else UNKNOWN_OPERATION
        outcome = outcome_of(errors)
        metrics.record_request(
            context.transport,
            info.field,
            outcome,
            time.perf_counter() - context.started_seconds,
            is_subscription=info.kind == "subscription",
        )
        log = self._request_log
        if log is not None and (errors or operation is None or log.is_logged(charges=info.is_unlimited)):
            log.add(logged_request(context, info, errors, outcome=outcome, reason=reason))

    def _prepare_limited(self, request: GraphQLRequest, context: RequestContext[Any]) -> PreparedOperation:
        """Return the operation, and count it against the caller's rate. Raises: OperationFailed.

        A request of a user or an anonymous caller is counted before the document is parsed. A request of a service or
        operator is counted afterwards, because unlimited mutations are not counted.
        """
        if self._rate_limiter is None:
            return self._prepare(request, context)
        try:
            if is_user_or_anonymous(context):
                self._rate_limiter.record_operation(context)
                return self._prepare(request, context)
            prepared = self._prepare(request, context)
            if not prepared.info.is_unlimited:
                self._rate_limiter.record_operation(context)
        except RateLimited as refusal:
            raise _rate_limit_failure(refusal) from None
        return prepared

    async def _execute_limited(
        self, operation: PreparedOperation, request: GraphQLRequest, context: RequestContext[Any]
    ) -> Mapping[str, Any]:
        """Execute within the limits of time and concurrency, unless a service or operator runs unlimited mutations."""
        limiter = self._rate_limiter
        if limiter is None or (operation.info.is_unlimited and not is_user_or_anonymous(context)):
            return await self._execute(operation, request, context)
        timeout = asyncio.timeout(limiter.timeout_seconds)
        try:
            with limiter.running_operation(context):
                async with timeout:
                    return await self._execute(operation, request, context)
        except RateLimited as refusal:
            raise _rate_limit_failure(refusal) from None
        except TimeoutError:
            if not timeout.expired():
                raise
            return {"data": None, "errors": [format_error(OPERATION_TIMED_OUT, ErrorCode.TIMED_OUT)]}

    @contextmanager
    def _subscription_limit(self, context: RequestContext[Any]) -> Iterator[None]:
        with ExitStack() as stack:
            try:
                if self._rate_limiter is not None:
                    stack.enter_context(self._rate_limiter.open_subscription(context))
            except RateLimited as refusal:
                raise _rate_limit_failure(refusal) from None
            stack.enter_context(metrics.open_subscription())
            yield

    def _prepare(self, request: GraphQLRequest, context: RequestContext[Any]) -> PreparedOperation:
        name = request.operation_name
        try:
            text = self._persisted_documents.resolve_text(request.query, request.document_hash, context.caller)
            prepared = self._persisted_operations.get((text, name)) or self._cache.find(text, name)
            if prepared is None:
                document = self._documents.parse_and_validate(text)
                prepared = self._cache.add(text, name, document, select_operation(document, name))
        except DocumentNotServed as refused:
            raise OperationFailed(refused.error) from None
        except InvalidDocument as invalid:
            raise OperationFailed(*format_errors(invalid.errors, context)) from None
        return prepared

    def _prepare_persisted(self) -> Mapping[tuple[str, str | None], PreparedOperation]:
        """Return the operations of persisted documents, by text and operation name.

        They are kept as long as the process runs.
        """
        documents, problems = validate_documents(self._persisted_documents.documents, self._documents)
        if problems:
            raise to_misconfigured(problems)
        return {
            (text, name): self._cache.prepare(document, operation)
            for text, document in documents.items()
            for name, operation in operations_by_name(document).items()
        }

    async def _execute(
        self, operation: PreparedOperation, request: GraphQLRequest, context: RequestContext[Any]
    ) -> Mapping[str, Any]:
        with tracing.span(f"{operation.info.kind} {operation.info.field}") if tracing.is_on() else NO_SPAN:
            result = self._start(operation, request, context)
            if not isinstance(result, ExecutionResult):
                result = await result
        if result.data is None and result.errors and all(error.path is None for error in result.errors):
            raise OperationFailed(*format_errors(result.errors, context))  # invalid variables: no resolver ran
        return subscriptions.response_payload(result, context)

    def _start(
        self, operation: PreparedOperation, request: GraphQLRequest, context: RequestContext[Any]
    ) -> AwaitableOrValue[ExecutionResult]:
        reason = operation.not_compiled_reason
        if operation.compiled is not None:
            try:
                result = operation.compiled.execute(context, request.variables)
            except NotCompilable as error:  # no resolver has run
                reason = str(error)
            else:
                self.execution_counts.compiled += 1
                return result
        self._count_interpreted(reason)
        return execute(
            self.schema,
            operation.document,
            context_value=context,
            variable_values=request.variables,
            operation_name=request.operation_name,
            executor_class=StrawberryGraphQLCoreExecutionContext,
            hide_suggestions=self._hide_suggestions,
        )

    async def _subscribe(
        self, operation: PreparedOperation, request: GraphQLRequest, context: RequestContext[Any]
    ) -> AsyncGenerator[bytes, None]:
        """Start a subscription. Raises: OperationFailed."""
        started: subscriptions.Items | subscriptions.Errors | None = None
        reason = operation.not_compiled_reason
        if operation.compiled is not None:
            try:
                started = await subscriptions.compiled_items(
                    operation.compiled, context, request.variables, self.execution_counts
                )
            except NotCompilable as error:  # no resolver has run
                reason = str(error)
        if started is None:
            self._count_interpreted(reason)
            started = await subscriptions.interpreted_items(
                self.schema,
                operation.document,
                context,
                variables=request.variables,
                operation_name=request.operation_name,
                hide_suggestions=self._hide_suggestions,
            )
        if isinstance(started, list):
            raise OperationFailed(*started)
        return started

    def _count_interpreted(self, reason: str | None) -> None:
        if reason is not None:
            self.execution_counts.interpreted[reason] += 1
