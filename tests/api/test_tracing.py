"""Traces from the HTTP request to the SQL statements of its batch, by the SDK's in-memory exporter."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import format_span_id, format_trace_id

from app import tracing
from app.auth.caller import Caller
from app.engine.transports.http import GraphQLOverHTTP
from tests.api.conftest import ENGINE, SERVICE, Api
from tests.factories import grant_credits, start_task

pytestmark = pytest.mark.anyio

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CHARGE = "mutation($input: ChargeInput!) { charge(input: $input) { __typename } }"


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    tracing.start(SimpleSpanProcessor(exporter))
    yield exporter
    tracing.stop()


class EveryoneIsTheService:
    """An authenticator without credentials."""

    async def authenticate(self, *_: object) -> Caller:
        return SERVICE

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


async def charge(api: Api, task_id: str, **headers: str) -> httpx.Response:
    application = GraphQLOverHTTP(ENGINE, EveryoneIsTheService(), api.state, graphiql=False)  # type: ignore[arg-type]  # a stand-in
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        values = {"taskId": task_id, "blockRunId": "run", "block": "ReplicateModelBlock"}
        body = {"query": CHARGE, "variables": {"input": values}}
        return await client.post("/graphql", json=body, headers=headers)


async def test_a_trace_leads_from_the_clients_span_to_the_statements_of_the_batch(
    api: Api, exported: InMemorySpanExporter
) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice")
    exported.clear()

    reply = await charge(api, task.task_id, traceparent=f"00-{TRACE}-{PARENT}-01")

    assert reply.json() == {"data": {"charge": {"__typename": "ChargeSuccess"}}}
    spans = [span for span in exported.get_finished_spans() if trace_of(span) == TRACE]
    by_id = {format_span_id(span.context.span_id): span for span in spans if span.context is not None}

    def path(span: ReadableSpan) -> list[str]:
        parent = by_id.get(parent_of(span))
        return [*(path(parent) if parent is not None else [parent_of(span)]), span.name]

    paths = [path(span) for span in spans]
    assert [PARENT, "POST /graphql"] in paths
    assert [PARENT, "POST /graphql", "mutation charge"] in paths
    batch = [PARENT, "POST /graphql", "mutation charge", "charge batch"]
    assert batch in paths
    statements = [path[-1] for path in paths if path[:-1] == batch]
    assert statements[0] == "BEGIN"
    assert statements[-1] == "COMMIT"
    assert {"SELECT", "WITH"} <= set(statements)
    for span in spans:
        assert "alice" not in str(span.attributes)
        assert task.task_id not in str(span.attributes)


async def test_a_batch_links_to_all_its_requests(api: Api, exported: InMemorySpanExporter) -> None:
    contexts = []
    for number in range(3):
        with tracing.span(f"request {number}"):
            contexts.append(tracing.current_context())
    with tracing.batch_span("charge batch", contexts, size=3):
        pass
    batch = exported.get_finished_spans()[-1]
    assert [link.context for link in batch.links] == contexts
    assert batch.attributes == {"batch.size": 3}
    assert contexts[0] is not None
    assert parent_of(batch) == format_span_id(contexts[0].span_id)


async def test_without_tracing_no_span_is_created(api: Api) -> None:
    exporter = InMemorySpanExporter()
    assert tracing.is_on() is False
    assert (
        tracing.span("x")
        is tracing.statement_span("SELECT 1")
        is tracing.batch_span("x", [], size=0)
        is tracing.NO_SPAN
    )
    assert tracing.current_context() is None
    await grant_credits("alice", 100)
    assert (await charge(api, (await start_task("alice")).task_id)).status_code == 200
    assert exporter.get_finished_spans() == ()


def trace_of(span: ReadableSpan) -> str:
    return format_trace_id(span.context.trace_id) if span.context is not None else ""


def parent_of(span: ReadableSpan) -> str:
    return format_span_id(span.parent.span_id) if span.parent is not None else ""
