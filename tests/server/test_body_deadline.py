"""The body deadline as a wrapper around an application."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.server.body_deadline import call_with_body_deadline

pytestmark = pytest.mark.anyio

BODY_SECONDS = 0.2

App = Callable[[Scope, Receive, Send], Awaitable[None]]


async def run(app: App, messages: list[Message]) -> list[Message]:
    """What is sent to a client that sends these messages and then nothing more."""
    sent: list[Message] = []

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        await asyncio.sleep(BODY_SECONDS * 2)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await call_with_body_deadline(app, {"type": "http"}, receive, send, seconds=BODY_SECONDS)
    return sent


async def test_waiting_for_the_disconnect_after_the_body_has_no_deadline() -> None:
    received: list[str] = []

    async def follow(_: Scope, receive: Receive, send: Send) -> None:
        received.extend([(await receive())["type"], (await receive())["type"]])
        await send({"type": "http.response.start", "status": 200})

    sent = await run(follow, [{"type": "http.request", "body": b"", "more_body": False}])
    assert received == ["http.request", "http.disconnect"]
    assert [message.get("status") for message in sent] == [200]


async def test_a_response_that_has_started_before_the_deadline_is_not_replaced() -> None:
    async def respond(_: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        assert (await receive())["type"] == "http.disconnect"
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.body", "body": b""})

    assert [message["type"] for message in await run(respond, [])] == ["http.response.start", "http.response.body"]
