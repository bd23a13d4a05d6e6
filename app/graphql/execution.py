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

from app.errors import RateLimited
from app.graphql import streaming
from app.graphql.context import Context
from app.graphql.documents import KNOWN_LENGTH, DocumentRefused, Documents
from app.graphql.faults import TOO_SLOW, Code, error, sent
from app.graphql.known import Library, NotServed, misconfigured, operations, prepared
from app.graphql.limits.gate import Gate, is_user
from app.graphql.noting import line_of
from app.graphql.plans.analysing import NotUnderstood
from app.graphql.plans.cache import Known, Plans, Tally
from app.graphql.streaming import payload_of
from app.request_log import RequestLog

SUBSCRIPTIONS: Final = (
    "Subscriptions are served over WebSocket (graphql-transport-ws), or as an event stream (Accept: text/event-stream)."
)
_EXECUTOR: Final = StrawberryGraphQLCoreExecutionContext


class Request(NamedTuple):
    """One operation to execute, of the types that the transports have checked."""

    query: str
    """The document's text; it may be empty where `hash` names a known one."""
    variables: dict[str, Any] | None = None
    operation_name: str | None = None
    hash: str | None = None
    """SHA-256 of a known document's text, in lower-case hex."""


class Answer(NamedTuple):
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


Looked = Known | OperationFailed
"""The operation that may begin, or why none does."""


def kind_of(looked: Looked) -> OperationType | None:
    """None: it is not carried out."""
    return looked.operation.operation if isinstance(looked, Known) else None


def _found(looked: Looked) -> Known:
    if isinstance(looked, OperationFailed):
        raise looked
    return looked


def limited(refusal: RateLimited) -> OperationFailed:
    """The end of an operation that its caller may not begin now."""
    told = error(str(refusal), refusal.code)
    told["extensions"]["retryAfterSeconds"] = refusal.retry_after_seconds
    return OperationFailed(told, retry_after_seconds=refusal.retry_after_seconds)


class Execution:
    """Executes operations of one schema. Made once per process."""

    def __init__(
        self,
        schema: GraphQLSchema,
        *,
        open_to_explorers: bool,
        plans: bool = False,
        library: Library | None = None,
        gate: Gate | None = None,
        log: RequestLog | None = None,
    ) -> None:
        """`plans`: whether documents are compiled; no answer differs by it. `library`: the documents known ahead. No
        `gate`: no limit; no `log`: no line.

        Raises: Misconfigured: a known document cannot be carried out.
        """
        self.schema = schema
        self._gate = gate
        self._log = log
        self._documents = Documents(schema, open_to_explorers=open_to_explorers)
        self._hides_suggestions = not open_to_explorers
        self._plans = Plans(schema, hides_suggestions=self._hides_suggestions) if plans else None
        self._library = library or Library()
        self._ahead = self._compiled(self._library)

    @property
    def tally(self) -> Tally:
        """How often plans were used, and why not."""
        return self._plans.tally if self._plans is not None else Tally()

    def hear(self, context: Context) -> None:
        """Raises: RateLimited: too much has come from this address to look at who asks."""
        if self._gate is not None:
            self._gate.hear(context)

    def strike(self, context: Context) -> None:
        """Count a request that is refused before it is an operation. Raises: RateLimited: there were too many."""
        if self._gate is not None:
            self._gate.strike(context)

    def look(self, request: Request, context: Context) -> Looked:
        """Ahead of its execution: whether the operation may begin. Its caller is counted by this, and not again."""
        try:
            return self._admitted(request, context)
        except OperationFailed as failed:
            return failed

    async def answer(self, request: Request, context: Context, looked: Looked | None = None) -> Answer:
        """The whole answer to a query or mutation. `looked`: what `look` found, if it was asked."""
        known = None
        try:
            known = _found(looked) if looked is not None else self._admitted(request, context)
            if known.operation.operation is OperationType.SUBSCRIPTION:
                raise OperationFailed(error(SUBSCRIPTIONS, Code.BAD_REQUEST))
            answer = Answer(await self._in_time(known, request, context))
        except OperationFailed as failed:
            answer = Answer({"errors": failed.errors}, ran=False, retry_after_seconds=failed.retry_after_seconds)
        self._note(context, known, answer.payload.get("errors"))
        return answer

    async def stream(
        self, request: Request, context: Context, looked: Looked | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The items of a subscription, or the one answer to a query or mutation, as JSON. Raises: OperationFailed."""
        known, errors, faulted = None, None, False
        try:
            known = _found(looked) if looked is not None else self._admitted(request, context)
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
                        raise OperationFailed(*streaming.told(fault, context)) from None
        except OperationFailed as failed:
            errors = failed.errors
            raise
        except Exception:
            faulted = True  # noted by who masks it
            raise
        finally:
            if not faulted:
                self._note(context, known, errors)

    def refused(self, context: Context, problem: Mapping[str, Any]) -> None:
        """Leave a line for a request that ended before, or in a fault outside, its operation: `problem` was its end."""
        self._note(context, None, [problem])

    def _note(self, context: Context, known: Known | None, errors: Sequence[Mapping[str, Any]] | None) -> None:
        if self._log is None:
            return
        if not errors and known is not None and not self._log.wants(charges=known.traits.charges):
            return
        self._log.add(line_of(context, known.traits if known is not None else None, errors))

    def _admitted(self, request: Request, context: Context) -> Known:
        """The operation, if this caller may begin one now. Raises: OperationFailed.

        A user is counted before its document is looked at; a service after, for charges are not counted.
        """
        if self._gate is None:
            return self._known(request, context)
        try:
            if is_user(context):
                self._gate.admit(context)
                return self._known(request, context)
            known = self._known(request, context)
            if not known.traits.charges:
                self._gate.admit(context)
        except RateLimited as refusal:
            raise limited(refusal) from None
        return known

    async def _in_time(self, known: Known, request: Request, context: Context) -> Mapping[str, Any]:
        """As `_executed`, within the time and number that a caller may have. Charges wait in their own queue."""
        if self._gate is None or (known.traits.charges and not is_user(context)):
            return await self._executed(known, request, context)
        deadline = asyncio.timeout(self._gate.seconds)
        try:
            with self._gate.running(context):
                async with deadline:
                    return await self._executed(known, request, context)
        except RateLimited as refusal:
            raise limited(refusal) from None
        except TimeoutError:
            if not deadline.expired():
                raise
            return {"data": None, "errors": [error(TOO_SLOW, Code.TIMED_OUT)]}

    @contextmanager
    def _streaming(self, context: Context) -> Iterator[None]:
        with ExitStack() as stack:
            try:
                if self._gate is not None:
                    stack.enter_context(self._gate.streaming(context))
            except RateLimited as refusal:
                raise limited(refusal) from None
            yield

    def _known(self, request: Request, context: Context) -> Known:
        """The operation of a request, with its plan. Raises: OperationFailed."""
        try:
            text = self._library.text(request.query, request.hash, context.viewer)
        except NotServed as refusal:
            raise OperationFailed(refusal.error) from None
        known = self._ahead.get((text, request.operation_name))
        if known is None and self._plans is not None:
            known = self._plans.find(text, request.operation_name)
        if known is not None:
            return known
        document, operation = self._prepared(text, request, context)
        if self._plans is None or len(text) > KNOWN_LENGTH:  # executed once: to compile it costs more
            return Known(document, operation, reason="length")
        return self._plans.learn(text, request.operation_name, document, operation)

    def _compiled(self, library: Library) -> Mapping[tuple[str, str | None], Known]:
        """The operations of known documents, by text and operation name: kept as long as the process."""
        documents, problems = prepared(library.documents, self._documents)
        if problems:
            raise misconfigured(problems)
        planned = self._plans.planned if self._plans is not None else Known
        return {
            (text, name): planned(document, operation)
            for text, document in documents.items()
            for name, operation in operations(document).items()
        }

    def _prepared(self, text: str, request: Request, context: Context) -> tuple[DocumentNode, OperationDefinitionNode]:
        try:
            document = self._documents.prepared(text)
        except DocumentRefused as refused:
            raise OperationFailed(*sent(refused.errors, context)) from None
        operation = get_operation_ast(document, request.operation_name)
        if operation is None:
            problem = (
                f"The document has no operation named {request.operation_name[:100]!r}."
                if request.operation_name is not None
                else "The document must hold one operation, or operationName must name one of several."
            )
            raise OperationFailed(error(problem, Code.BAD_USER_INPUT))
        return document, operation

    async def _executed(self, known: Known, request: Request, context: Context) -> Mapping[str, Any]:
        result = self._begun(known, request, context)
        if not isinstance(result, ExecutionResult):
            result = await result
        if result.data is None and result.errors and all(found.path is None for found in result.errors):
            raise OperationFailed(*sent(result.errors, context))  # variables were refused: nothing ran
        return payload_of(result, context)

    def _begun(self, known: Known, request: Request, context: Context) -> AwaitableOrValue[ExecutionResult]:
        """The result, by the plan or by graphql-core's executor."""
        if self._plans is not None:
            try:
                return self._plans.execute(known, context, request.variables)
            except NotUnderstood:  # counted; nothing has run
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

    async def _items(self, known: Known, request: Request, context: Context) -> AsyncGenerator[bytes, None]:
        """The items of a subscription that has begun, by the plan or by graphql-core. Raises: OperationFailed."""
        found: AsyncGenerator[bytes, None] | list[dict[str, Any]]
        if self._plans is not None:
            try:
                found = await streaming.planned(self._plans, known, context, request.variables)
            except NotUnderstood:  # counted; nothing has run
                found = await self._ordinary_items(known, request, context)
        else:
            found = await self._ordinary_items(known, request, context)
        if isinstance(found, list):
            raise OperationFailed(*found)
        return found

    async def _ordinary_items(
        self, known: Known, request: Request, context: Context
    ) -> AsyncGenerator[bytes, None] | list[dict[str, Any]]:
        executor = _EXECUTOR.build(
            self.schema,
            known.document,
            context_value=context,
            raw_variable_values=request.variables,
            operation_name=request.operation_name,
            hide_suggestions=self._hides_suggestions,
        )
        return sent(executor, context) if isinstance(executor, list) else await streaming.ordinary(executor, context)
