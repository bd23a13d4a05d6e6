"""Secrets and user input never get into the log of a real server, whatever it is sent.

Secrets (tokens, keys, passwords) are in no line that the process writes and in no response. User input (documents,
variables, reasons, bodies) is in no line; an error response may quote it to its sender.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anyio
import asyncpg
import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from app.auth import service_keys
from app.auth.caller import Scope
from app.auth.development_keys import operator_token, user_token
from app.db import pools
from app.db.database_url import connection_arguments
from app.settings import Settings
from app.topups.sandbox.events import SIGNATURE_HEADER, sign
from tests import databases
from tests.command_line import COMMAND, REPOSITORY, environment, temporary_directory
from tests.graphql_client import PROTOCOLS, authorization, request_of, websocket_url
from tests.secret_leaks import SECRET, SecretDetector

pytestmark = pytest.mark.anyio

WORD: Final = "userinput"
"""Part of all user input."""
SECRET_SETTINGS: Final = {
    "LEDGER_KEY": "ca7a" * 16,
    "SANDBOX_SECRET": "sandbox-secret-of-this-test-" + "0" * 32,
    "STRIPE_SECRET_KEY": "sk_" + "test_stripekeyofthistest",
    "STRIPE_WEBHOOK_SECRET": "whsec_" + "webhooksecretofthistest",
}
PASSWORD: Final = "passwordofthistest"
WRONG_KEY: Final = f"ck_{'0' * 16}_{'cafe' * 16}"
WRONG_TOKEN: Final = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJib2IifQ." + "thetokenofthistest"


@dataclass(slots=True)
class ServerUnderTest:
    """The server, and all its responses."""

    url: str
    user: str
    service: str
    operator: str
    responses: list[str] = field(default_factory=list)

    @property
    def secrets(self) -> list[str]:
        whole = [*SECRET_SETTINGS.values(), PASSWORD, WRONG_KEY, WRONG_TOKEN, self.user, self.service, self.operator]
        return [*whole, self.user.rpartition(".")[2], self.service.rpartition("_")[2]]

    async def ask(self, client: httpx.AsyncClient, token: str | None, query: str, **variables: Any) -> None:
        self.responses.append((await client.post("/graphql", **request_of(token, query, **variables))).text)


@asynccontextmanager
async def server_under_test(database_url: str, place: Path, log_format: str) -> AsyncIterator[ServerUnderTest]:
    """A server with the secrets of this module. Its output is in `place`."""
    arguments = connection_arguments(database_url)
    url_with_password = database_url.replace("postgresql://postgres@", f"postgresql://postgres:{PASSWORD}@", 1)
    assert PASSWORD in url_with_password or arguments["password"] is not None
    settings = SECRET_SETTINGS | {
        "DATABASE_URL": url_with_password, "DATA_DIR": str(place), "PORT": "0", "LOG_FORMAT": log_format,
    }  # fmt: skip
    with (place / "out").open("w") as out, (place / "err").open("w") as err:
        env = environment(**settings)
        process = await anyio.open_process([*COMMAND, "serve"], cwd=REPOSITORY, env=env, stdout=out, stderr=err)
        try:
            while "Serving on" not in (place / "out").read_text():
                assert process.returncode is None, (place / "err").read_text()
                await asyncio.sleep(0.05)
            url = (place / "out").read_text().partition("Serving on ")[2].split()[0]
            directory = Settings(data_dir=place)
            await pools.connect(database_url)
            service = await service_keys.create_key("scheduler", [Scope.CHARGE])
            await pools.disconnect()
            operator = operator_token("oscar", settings=directory)
            yield ServerUnderTest(url, user_token("ada", settings=directory), service, operator)
        finally:
            process.terminate()
            with anyio.fail_after(30):
                assert await process.wait() == 0


async def send_everything(server: ServerUnderTest) -> None:
    """Operations of every kind, successful and refused, with WORD in every string."""
    async with httpx.AsyncClient(base_url=server.url, timeout=20) as client:
        await over_http(server, client)
        await send_webhooks(server, client)
        await open_event_streams(server, client)
    for token, query in (
        (server.user, BALANCE),
        (server.service, "subscription { taskSignals { kind } }"),
        (WRONG_TOKEN, BALANCE),
    ):
        await over_websocket(server, token, query)


BALANCE: Final = f"subscription {{ balance {{ available }} }} # {WORD}"
START: Final = f"""mutation($id: ID!) {{ startTask(input: {{taskId: $id, ownerId: "ada", agentId: "{WORD}-agent"}})
    {{ __typename ... on UserError {{ message }} }} }}"""
CHARGE: Final = """mutation($id: ID!, $settings: JSON) { charge(input: {taskId: $id, blockRunId: $id,
    settings: $settings, block: "ReplicateModelBlock"}) { __typename ... on UserError { message } } }"""
GRANT: Final = """mutation($reason: String!, $key: String!) { grantCredits(input: {ownerId: "ada", credits: 1000,
    reason: $reason, idempotencyKey: $key}) { __typename ... on UserError { message } } }"""
TOP_UP: Final = """mutation($key: String!, $url: String) { beginTopUp(input: {credits: 500, idempotencyKey: $key,
    returnUrl: $url}) { __typename ... on UserError { message } } }"""


async def over_http(server: ServerUnderTest, client: httpx.AsyncClient) -> None:
    task = f"{WORD}-task"
    await server.ask(client, server.operator, GRANT, reason=f"for {WORD}@example.com", key=f"{WORD}-key")
    await server.ask(client, server.user, GRANT, reason=WORD, key=WORD)
    await server.ask(client, server.service, START, id=task)
    await server.ask(client, server.service, CHARGE, id=task, settings={"prompt": f"{WORD} {server.service}"})
    await server.ask(client, server.service, CHARGE, id=f"{WORD}-nothing", settings=WORD)
    await server.ask(
        client, server.user, TOP_UP, key=f"{WORD}-top-up", url=f"https://{WORD}.example/return?token={WRONG_TOKEN}"
    )
    await server.ask(client, server.user, f"query {{ account {{ {WORD}: ownerId }} }} # {WORD}")
    await server.ask(client, server.user, f"{{ {WORD} }}")
    await server.ask(client, server.user, f"{{ {WORD}")
    await server.ask(
        client, server.user, "query($a: Int!) { account { entries(first: $a) { __typename } } }", a=f"{WORD}"
    )
    for token in (WRONG_TOKEN, WRONG_KEY, server.user[:-8], server.service[:-8] + "00000000", PASSWORD):
        await server.ask(client, token, "{ account { ownerId } }")
    for content in (f'{{"query": "{WORD}', f"[{WORD}]".encode(), f"{WORD}\xff".encode("latin-1")):
        await request(server, client, "POST", "/graphql", content=content, headers={"content-type": "application/json"})
    await request(server, client, "POST", "/graphql", data={"query": WORD, "password": PASSWORD})
    await request(
        server, client, "GET", f"/graphql?query={{account{{{WORD}}}}}", headers={"x-request-id": f"not an id {WORD}"}
    )
    await request(server, client, "GET", f"/{WORD}/{WRONG_KEY}")
    await request(server, client, "GET", f"/receipts/{WRONG_KEY}")


async def send_webhooks(server: ServerUnderTest, client: httpx.AsyncClient) -> None:
    """Webhooks with a valid, a wrong and a malformed signature."""
    body = json.dumps(
        {"id": f"evt_{WORD}", "type": "payment.paid", "email": f"{WORD}@example.com", "payment": {}}
    ).encode()
    secret = SECRET_SETTINGS["SANDBOX_SECRET"].encode()
    for signature in (sign(body, secret, at_seconds=int(time.time())), sign(body, b"another", at_seconds=1), WORD):
        await request(server, client, "POST", "/webhooks/sandbox", content=body, headers={SIGNATURE_HEADER: signature})


async def request(server: ServerUnderTest, client: httpx.AsyncClient, method: str, url: str, **more: Any) -> None:
    server.responses.append((await client.request(method, url, **more)).text)


async def open_event_streams(server: ServerUnderTest, client: httpx.AsyncClient) -> None:
    for token in (server.user, WRONG_TOKEN):
        headers = {"authorization": f"Bearer {token}", "accept": "text/event-stream"}
        async with client.stream("POST", "/graphql", json={"query": BALANCE}, headers=headers) as reply:
            async for line in reply.aiter_lines():
                server.responses.append(line)
                if line.startswith("data:"):
                    break


async def over_websocket(server: ServerUnderTest, token: str, query: str) -> None:
    async with connect(websocket_url(server.url), subprotocols=PROTOCOLS) as socket:
        init = {"type": "connection_init", "payload": authorization(token)}
        subscribe = {"id": WORD, "type": "subscribe", "payload": {"query": query}}
        with suppress(ConnectionClosed):
            for text in (json.dumps(init), json.dumps(subscribe), f"{{{WORD}"):
                await socket.send(text)
                await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            with suppress(ConnectionClosed):  # because of the last message, or of the token
                while True:
                    server.responses.append(str(await socket.recv()))
    server.responses.append(str(socket.close_reason))


@asynccontextmanager
async def failing_constraint(database_url: str) -> AsyncIterator[None]:
    """Makes the database fail, with an error that quotes the row, when a task of WORD's agent is written."""
    admin = await asyncpg.connect(**connection_arguments(database_url))
    await admin.execute(f"ALTER TABLE task ADD CONSTRAINT no_agent CHECK (agent_id <> '{WORD}-agent') NOT VALID")
    try:
        yield
    finally:
        await admin.execute("ALTER TABLE task DROP CONSTRAINT no_agent")
        await admin.close()


@pytest.fixture
def place() -> Iterator[Path]:
    with temporary_directory() as directory:
        yield directory


@pytest.mark.parametrize("log_format", ["json", "text"])
async def test_log_and_responses_contain_no_secret_and_the_log_no_user_input(
    database_url: str, place: Path, log_format: str
) -> None:
    await databases.reset(database_url)
    async with server_under_test(database_url, place, log_format) as server:
        await send_everything(server)
        if log_format == "json":  # in development, the messages of exceptions are logged
            async with failing_constraint(database_url), httpx.AsyncClient(base_url=server.url, timeout=20) as client:
                await server.ask(client, server.service, START, id=f"{WORD}-2")
            assert '"INTERNAL"' in server.responses[-1]
    written = (place / "err").read_text()
    printed = (place / "out").read_text()  # with development tokens, but not those of the test
    responses = "\n".join(server.responses)
    for secret in server.secrets:
        assert secret not in written
        assert secret not in printed
        assert secret not in responses
    for done in ("GrantCredits", "StartTask", "Charge", "BeginTopUp"):
        assert f"{done}Success" in responses
    assert 'data: {"data":{"balance":' in responses
    assert WORD not in written
    assert SECRET.search(written) is None
    assert written.count("operation" if log_format == "json" else " by ") >= 20  # requests were logged
    if log_format == "json":
        assert "CheckViolationError 23514" in written


@pytest.mark.parametrize(
    "secret",
    [
        WRONG_KEY, WRONG_TOKEN, f"Bearer {PASSWORD}", SECRET_SETTINGS["STRIPE_SECRET_KEY"], "of this run",
        SECRET_SETTINGS["STRIPE_WEBHOOK_SECRET"], f"postgresql://postgres:{PASSWORD}@localhost/credits",
    ],
)  # fmt: skip
def test_the_detector_finds_a_secret_in_a_record(secret: str) -> None:
    detector = SecretDetector("of this run")
    log = logging.getLogger("tests.secret_leaks")
    log.propagate = False  # otherwise the detector of all tests would find it, too
    log.addHandler(detector)
    log.warning("no secret")
    assert detector.found == []
    log.warning("it was %s", secret)
    try:
        raise ValueError(secret)
    except ValueError:
        log.exception("it failed")
    log.removeHandler(detector)
    assert len(detector.found) == 2
