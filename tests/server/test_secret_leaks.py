"""Canaries: secrets and callers' words that a real server is given in every way, and that appear nowhere again.

A secret (a token, a key, a password) stands in no line that the process writes and in no error that it answers. What
callers write themselves (documents, variables, reasons, bodies) stands in no line; an error may quote it to its author.
The server has no metrics that could tell of them.
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
from app.settings import Settings
from app.topups.sandbox.provider import SIGNATURE_HEADER
from app.topups.sandbox.signatures import sign
from tests import databases
from tests.command_line import COMMAND, REPOSITORY, environment, temporary_directory
from tests.secret_leaks import SECRET, Watch

pytestmark = pytest.mark.anyio

WORD: Final = "canary"
"""In everything that a caller writes."""
SECRET_SETTINGS: Final = {
    "LEDGER_KEY": "ca7a" * 16,
    "SANDBOX_SECRET": "sandbox-secret-of-canaries-" + "0" * 32,
    "STRIPE_SECRET_KEY": "sk_" + "test_stripekeyofcanaries",
    "STRIPE_WEBHOOK_SECRET": "whsec_" + "webhooksecretofcanaries",
}
PASSWORD: Final = "passwordofcanaries"
WRONG_KEY: Final = f"ck_{'0' * 16}_{'cafe' * 16}"
WRONG_TOKEN: Final = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJib2IifQ." + "thetokenofcanaries"


@dataclass(slots=True)
class Cage:
    """The server, and all that was got out of it."""

    url: str
    user: str
    service: str
    operator: str
    answers: list[str] = field(default_factory=list)

    @property
    def secrets(self) -> list[str]:
        given = [*SECRET_SETTINGS.values(), PASSWORD, WRONG_KEY, WRONG_TOKEN, self.user, self.service, self.operator]
        return [*given, *(one.rpartition(sep)[2] for one, sep in ((self.user, "."), (self.service, "_")))]

    async def ask(self, client: httpx.AsyncClient, token: str | None, query: str, **variables: Any) -> None:
        headers = {"authorization": f"Bearer {token}"} if token is not None else {}
        content = {"query": query, "variables": variables}
        self.answers.append((await client.post("/graphql", json=content, headers=headers)).text)


@asynccontextmanager
async def cage(database_url: str, place: Path, log_format: str) -> AsyncIterator[Cage]:
    """A server with the canaries as its secrets, writing to `place`."""
    credentials = pools.connection_arguments(database_url)
    given = database_url.replace("postgresql://postgres@", f"postgresql://postgres:{PASSWORD}@", 1)
    assert PASSWORD in given or credentials["password"] is not None
    chosen = SECRET_SETTINGS | {
        "DATABASE_URL": given, "DATA_DIR": str(place), "PORT": "0", "LOG_FORMAT": log_format,
    }  # fmt: skip
    with (place / "out").open("w") as out, (place / "err").open("w") as err:
        env = environment(**chosen)
        process = await anyio.open_process([*COMMAND, "serve"], cwd=REPOSITORY, env=env, stdout=out, stderr=err)
        try:
            while "Serving on" not in (place / "out").read_text():
                assert process.returncode is None, (place / "err").read_text()
                await asyncio.sleep(0.05)
            url = (place / "out").read_text().partition("Serving on ")[2].split()[0]
            here = Settings(data_dir=place)
            await pools.connect(database_url)
            service = await service_keys.create_key("canaries", [Scope.CHARGE])
            await pools.disconnect()
            operator = operator_token("keeper", settings=here)
            yield Cage(url, user_token("bird", settings=here), service, operator)
        finally:
            process.terminate()
            with anyio.fail_after(30):
                assert await process.wait() == 0


async def sing(cage: Cage) -> None:
    """Operations of every kind, done and refused, with a canary in whatever can hold one."""
    async with httpx.AsyncClient(base_url=cage.url, timeout=20) as client:
        await over_http(cage, client)
        await notifications(cage, client)
        await stream(cage, client)
    for token, query in (
        (cage.user, BALANCE),
        (cage.service, "subscription { taskSignals { kind } }"),
        (WRONG_TOKEN, BALANCE),
    ):
        await over_websocket(cage, token, query)


BALANCE: Final = f"subscription {{ balance {{ available }} }} # {WORD}"
START: Final = f"""mutation($id: ID!) {{ startTask(input: {{taskId: $id, ownerId: "bird", agentId: "{WORD}-agent"}})
    {{ __typename ... on UserError {{ message }} }} }}"""
CHARGE: Final = """mutation($id: ID!, $settings: JSON) { charge(input: {taskId: $id, blockRunId: $id,
    settings: $settings, block: "ReplicateModelBlock"}) { __typename ... on UserError { message } } }"""
GRANT: Final = """mutation($reason: String!, $key: String!) { grantCredits(input: {ownerId: "bird", credits: 1000,
    reason: $reason, idempotencyKey: $key}) { __typename ... on UserError { message } } }"""
TOP_UP: Final = """mutation($key: String!, $url: String) { beginTopUp(input: {credits: 500, idempotencyKey: $key,
    returnUrl: $url}) { __typename ... on UserError { message } } }"""


async def over_http(cage: Cage, client: httpx.AsyncClient) -> None:
    task = f"{WORD}-task"
    await cage.ask(client, cage.operator, GRANT, reason=f"for {WORD}@example.com", key=f"{WORD}-key")
    await cage.ask(client, cage.user, GRANT, reason=WORD, key=WORD)
    await cage.ask(client, cage.service, START, id=task)
    await cage.ask(client, cage.service, CHARGE, id=task, settings={"prompt": f"{WORD} {cage.service}"})
    await cage.ask(client, cage.service, CHARGE, id=f"{WORD}-nothing", settings=WORD)
    await cage.ask(
        client, cage.user, TOP_UP, key=f"{WORD}-top-up", url=f"https://{WORD}.example/return?token={WRONG_TOKEN}"
    )
    await cage.ask(client, cage.user, f"query {{ account {{ {WORD}: ownerId }} }} # {WORD}")
    await cage.ask(client, cage.user, f"{{ {WORD} }}")
    await cage.ask(client, cage.user, f"{{ {WORD}")
    await cage.ask(client, cage.user, "query($a: Int!) { account { entries(first: $a) { __typename } } }", a=f"{WORD}")
    for token in (WRONG_TOKEN, WRONG_KEY, cage.user[:-8], cage.service[:-8] + "00000000", PASSWORD):
        await cage.ask(client, token, "{ account { ownerId } }")
    for content in (f'{{"query": "{WORD}', f"[{WORD}]".encode(), f"{WORD}\xff".encode("latin-1")):
        await kept(cage, client, "POST", "/graphql", content=content, headers={"content-type": "application/json"})
    await kept(cage, client, "POST", "/graphql", data={"query": WORD, "password": PASSWORD})
    await kept(
        cage, client, "GET", f"/graphql?query={{account{{{WORD}}}}}", headers={"x-request-id": f"not an id {WORD}"}
    )
    await kept(cage, client, "GET", f"/{WORD}/{WRONG_KEY}")
    await kept(cage, client, "GET", f"/receipts/{WRONG_KEY}")


async def notifications(cage: Cage, client: httpx.AsyncClient) -> None:
    """Webhook bodies: signed by us, by nobody, and no notices at all."""
    body = json.dumps(
        {"id": f"evt_{WORD}", "type": "payment.paid", "email": f"{WORD}@example.com", "payment": {}}
    ).encode()
    secret = SECRET_SETTINGS["SANDBOX_SECRET"].encode()
    for signature in (sign(body, secret, at_seconds=int(time.time())), sign(body, b"another", at_seconds=1), WORD):
        await kept(cage, client, "POST", "/webhooks/sandbox", content=body, headers={SIGNATURE_HEADER: signature})


async def kept(cage: Cage, client: httpx.AsyncClient, method: str, url: str, **more: Any) -> None:
    cage.answers.append((await client.request(method, url, **more)).text)


async def stream(cage: Cage, client: httpx.AsyncClient) -> None:
    for token in (cage.user, WRONG_TOKEN):
        headers = {"authorization": f"Bearer {token}", "accept": "text/event-stream"}
        async with client.stream("POST", "/graphql", json={"query": BALANCE}, headers=headers) as reply:
            async for line in reply.aiter_lines():
                cage.answers.append(line)
                if line.startswith("data:"):
                    break


async def over_websocket(cage: Cage, token: str, query: str) -> None:
    protocols: Any = ["graphql-transport-ws"]
    async with connect(cage.url.replace("http", "ws", 1) + "/graphql", subprotocols=protocols) as socket:
        hello = {"type": "connection_init", "payload": {"authorization": f"Bearer {token}"}}
        subscribe = {"id": WORD, "type": "subscribe", "payload": {"query": query}}
        with suppress(ConnectionClosed):
            for text in (json.dumps(hello), json.dumps(subscribe), f"{{{WORD}"):
                await socket.send(text)
                await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            with suppress(ConnectionClosed):  # by the last text, if its token has not ended it
                while True:
                    cage.answers.append(str(await socket.recv()))
    cage.answers.append(str(socket.close_reason))


@asynccontextmanager
async def refusing_the_agent(database_url: str) -> AsyncIterator[None]:
    """The database faults, quoting the whole row, when a task of the canary's agent is written."""
    admin = await asyncpg.connect(**pools.connection_arguments(database_url))
    await admin.execute(f"ALTER TABLE task ADD CONSTRAINT no_canary CHECK (agent_id <> '{WORD}-agent') NOT VALID")
    try:
        yield
    finally:
        await admin.execute("ALTER TABLE task DROP CONSTRAINT no_canary")
        await admin.close()


@pytest.fixture
def place() -> Iterator[Path]:
    with temporary_directory() as directory:
        yield directory


@pytest.mark.parametrize("log_format", ["json", "text"])
async def test_nothing_that_a_server_writes_or_answers_holds_a_secret(
    database_url: str, place: Path, log_format: str
) -> None:
    await databases.reset(database_url)
    async with cage(database_url, place, log_format) as here:
        await sing(here)
        if log_format == "json":  # in development the words of a fault are for the developer
            async with refusing_the_agent(database_url), httpx.AsyncClient(base_url=here.url, timeout=20) as client:
                await here.ask(client, here.service, START, id=f"{WORD}-2")
            assert '"INTERNAL"' in here.answers[-1]
    written = (place / "err").read_text()
    said = (place / "out").read_text()  # the tokens of development are printed there, and those of the test are not
    answered = "\n".join(here.answers)
    for secret in here.secrets:
        assert secret not in written
        assert secret not in said
        assert secret not in answered
    for done in ("GrantCredits", "StartTask", "Charge", "BeginTopUp"):
        assert f"{done}Success" in answered
    assert 'data: {"data":{"balance":' in answered
    assert WORD not in written
    assert SECRET.search(written) is None
    assert written.count("operation" if log_format == "json" else " by ") >= 20  # it did write
    if log_format == "json":
        assert "CheckViolationError 23514" in written


@pytest.mark.parametrize(
    "secret",
    [
        WRONG_KEY, WRONG_TOKEN, f"Bearer {PASSWORD}", SECRET_SETTINGS["STRIPE_SECRET_KEY"], "of this run",
        SECRET_SETTINGS["STRIPE_WEBHOOK_SECRET"], f"postgresql://postgres:{PASSWORD}@localhost/credits",
    ],
)  # fmt: skip
def test_the_watch_over_all_tests_sees_a_secret_in_a_record(secret: str) -> None:
    watch = Watch("of this run")
    log = logging.getLogger("tests.secret_leaks")
    log.propagate = False  # the watch over all tests would see it too
    log.addHandler(watch)
    log.warning("nothing to see")
    assert watch.found == []
    log.warning("it was %s", secret)
    try:
        raise ValueError(secret)
    except ValueError:
        log.exception("it failed")
    log.removeHandler(watch)
    assert len(watch.found) == 2
