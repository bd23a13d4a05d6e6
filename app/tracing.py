"""OpenTelemetry traces: one span for each request, batch of charges and SQL statement.

Tracing is on if the setting TRACES is `otlp`. While it is off, `span` costs only a comparison. OpenTelemetry's own
variables set where spans are sent, for example OTEL_EXPORTER_OTLP_ENDPOINT. Spans contain names of operations and SQL
texts with placeholders, but no values.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Tracer,
    get_current_span,
    set_span_in_context,
)

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

MAX_STATEMENT_LENGTH: Final = 1_000

NO_SPAN: Final = nullcontext()
"""For code that runs for every request: `tracing.span(…) if tracing.is_on() else NO_SPAN`."""
_tracer: Tracer | None = None


def start(processor: "SpanProcessor | None" = None) -> None:
    """Create spans from now on, and pass them to `processor`. By default they are exported by OTLP over HTTP."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    global _tracer  # noqa: PLW0603  set once, at start
    if processor is None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        processor = BatchSpanProcessor(OTLPSpanExporter())
    provider = TracerProvider(resource=Resource.create({"service.name": "agent-credits"}))
    provider.add_span_processor(processor)
    _tracer = provider.get_tracer("app")


def stop() -> None:
    """Create no more spans."""
    global _tracer  # noqa: PLW0603  reset what `start` has set
    _tracer = None


def is_on() -> bool:
    return _tracer is not None


def span(name: str, **attributes: str | int) -> AbstractContextManager[Any]:
    """A span inside the current one. An exception that leaves the block is recorded."""
    return NO_SPAN if _tracer is None else _tracer.start_as_current_span(name, attributes=attributes)


def statement_span(sql: str) -> AbstractContextManager[Any]:
    """A span for one SQL statement."""
    if _tracer is None:
        return NO_SPAN
    text = " ".join(sql.split())
    return _tracer.start_as_current_span(
        text.partition(" ")[0].upper() or "SQL",
        kind=SpanKind.CLIENT,
        attributes={"db.system.name": "postgresql", "db.query.text": text[:MAX_STATEMENT_LENGTH]},
    )


@contextmanager
def request_span(name: str, headers: Iterable[tuple[bytes, bytes]]) -> Iterator[Any]:
    """A span for a request. It continues the trace of the client, if `headers` has a `traceparent`."""
    if _tracer is None:
        yield None
        return
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract(
        {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
    )
    with _tracer.start_as_current_span(name, context=context, kind=SpanKind.SERVER) as current:
        yield current


def current_context() -> SpanContext | None:
    """Return the context of the current span, for a later `batch_span`, or None if tracing is off."""
    if _tracer is None:
        return None
    return get_current_span().get_span_context()


def batch_span(name: str, requests: Sequence[SpanContext | None], *, size: int) -> AbstractContextManager[Any]:
    """A span for work on `size` items of several requests. It links to all their spans and is a child of the first."""
    if _tracer is None:
        return NO_SPAN
    known = list({context.span_id: context for context in requests if context is not None}.values())
    return _tracer.start_as_current_span(
        name,
        context=set_span_in_context(NonRecordingSpan(known[0])) if known else None,
        links=[Link(context) for context in known],
        attributes={"batch.size": size},
    )
