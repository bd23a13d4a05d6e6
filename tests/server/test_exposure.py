"""What production lets in and development does not; what a server of production refuses to start with."""

import asyncio
import json
import secrets
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Message

from app import main
from app.errors import Misconfigured
from app.server.exposure import Exposure
from app.settings import Settings

pytestmark = pytest.mark.anyio

KEY = secrets.token_hex(32)
PRODUCTION: dict[str, Any] = {
    "environment": "production",
    "database_url": f"postgresql://credits:{secrets.token_hex(16)}@db.example/credits",
    "ledger_key": KEY,
    "jwks_url": "https://id.example.com/keys",
    "jwt_issuer": "https://id.example.com/",
    "payment_provider": "none",
    "allowed_hosts": "credits.example.com,10.0.0.7",
    "allowed_origins": "https://app.example.com",
}

TYPED = ("a", "123456", "hunter2", "changeme1", "correct-horse-1", "3c9f1b7aa0", "ab" * 16, "1234567" * 4)
"""Passwords that somebody typed: too short, or of too few different characters."""


def production(**changed: Any) -> Settings:
    return Settings(**PRODUCTION | changed)


def development(**changed: Any) -> Settings:
    return Settings(**changed)


def client_of(chosen: Settings, host: str = "credits.example.com") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(main.create_app(chosen)), base_url=f"http://{host}")


def test_production_is_closed_and_says_so() -> None:
    exposure = Exposure.from_settings(production())

    assert (exposure.introspection, exposure.get_queries) == (False, False)
    assert exposure.allowed_hosts == frozenset({"credits.example.com", "10.0.0.7"})
    assert exposure.allowed_origins == ("https://app.example.com",)
    assert exposure.arbitrary_documents == ("services", "operators")
    assert exposure.summary == (
        "PRODUCTION: no introspection, GraphiQL, suggestions or GET; hosts: 10.0.0.7, credits.example.com; "
        "pages of other origins: https://app.example.com; free documents: services, operators; known documents: NONE, "
        "so that nobody else can ask anything: set KNOWN_DOCUMENTS."
    )


def test_development_is_open_and_says_so_louder() -> None:
    exposure = Exposure.from_settings(Settings())

    assert (exposure.introspection, exposure.get_queries, exposure.allowed_hosts, exposure.allowed_origins) == (
        True,
        True,
        None,
        ("*",),
    )
    assert exposure.arbitrary_documents == ("anonymous", "users", "services", "operators")
    assert exposure.summary == (
        "DEVELOPMENT: introspection, GraphiQL, suggestions, GET, pages of any origin, free documents, ready-made "
        "tokens are OPEN. Set ENVIRONMENT=production before anybody else can reach this server."
    )


def test_development_says_of_what_was_closed_by_hand_no_more_that_it_is_open() -> None:
    summary = Exposure.from_settings(
        development(allowed_origins="https://app.example.com", free_documents="nobody")
    ).summary
    assert summary.startswith("DEVELOPMENT: introspection, GraphiQL, suggestions, GET, ready-made tokens are OPEN.")


async def test_the_start_says_which_of_the_two_it_is_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    main.create_app(Settings(database_url="postgresql://localhost/nowhere", data_dir=tmp_path))

    [line] = [record for record in caplog.records if record.name == "app.main"]
    assert line.levelname == "WARNING"
    assert line.getMessage().startswith("DEVELOPMENT: ")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"ledger_key": "ab" * 32}, "LEDGER_KEY is no random key"),
        ({"ledger_key": "0123456789abcdef" * 4}, "LEDGER_KEY is no random key"),
        ({"jwt_issuer": "http://localhost/development"}, "JWT_ISSUER is development's"),
        ({"database_url": "postgresql://credits:credits@db/credits"}, "DATABASE_URL has a password"),
        ({"database_url": "postgresql://alice:alice@db/credits"}, "DATABASE_URL has a password"),
        ({"database_url": "postgresql://alice:Pass%77ord@db/credits"}, "DATABASE_URL has a password"),
        *(({"database_url": f"postgresql://credits:{word}@db/c"}, "DATABASE_URL has a password") for word in TYPED),
        ({"database_url": "postgresql://db/c?user=credits&password=hunter2"}, "DATABASE_URL has a password"),
        ({"database_url": "postgresql://a:hunter2@localhost/c?host=10.0.0.9"}, "DATABASE_URL has a password"),
        ({"database_url": "postgresql://a:changeme@127.0.0.1/c"}, "DATABASE_URL has a password"),
        ({"migration_database_url": "postgresql://a:hunter2@db/c"}, "MIGRATION_DATABASE_URL has a password"),
        ({"jwks_url": None, "jwt_hs256_secret": KEY}, "LEDGER_KEY is another setting's secret too"),
        ({"stripe_webhook_secret": KEY.upper()}, "LEDGER_KEY is another setting's secret too"),
        ({"database_url": f"postgresql://credits:{KEY}@db/c"}, "LEDGER_KEY is another setting's secret too"),
        ({"payment_provider": "stripe"}, "STRIPE_WEBHOOK_SECRET is not set"),
        ({"allowed_hosts": None}, "ALLOWED_HOSTS is not set"),
        ({"allowed_hosts": "*"}, "ALLOWED_HOSTS: '\\*' is no host name"),
        ({"allowed_hosts": "*.example.com"}, "is no host name"),
        ({"allowed_hosts": "credits.example.com:443"}, "is no host name"),
        ({"allowed_origins": "*"}, 'ALLOWED_ORIGINS is "\\*"'),
        ({"allowed_origins": "https://app.example.com,*"}, 'ALLOWED_ORIGINS is "\\*"'),
        ({"allowed_origins": "app.example.com"}, "is no origin"),
        ({"allowed_origins": "https://app.example.com/"}, "is no origin"),
    ],
)
def test_production_does_not_start_with_what_is_weak_or_lets_everybody_in(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(Misconfigured, match=says):
        main.create_app(production(**changed))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://db/c",
        "postgresql://credits:3c9f1b7aa0d2e486@db/c",
        "postgresql://credits:hunter2@127.0.0.1/c",
        "postgresql://credits:hunter2@[::1]/c",
        "postgresql://credits:hunter2@localhost/c",
        "postgresql://credits:hunter2@/c?host=/run/postgresql",
    ],
)
def test_a_password_may_be_short_where_it_stays_on_this_machine(url: str) -> None:
    assert Exposure.from_settings(production(database_url=url)).allowed_hosts == frozenset(
        {"credits.example.com", "10.0.0.7"}
    )


def test_a_ledger_key_that_is_missing_or_too_short_is_refused_too() -> None:
    for key in (None, "", KEY[:62], "no hex"):
        with pytest.raises(Misconfigured):
            main.create_app(production(ledger_key=key))


def test_the_host_of_the_public_address_is_allowed_where_none_is_named() -> None:
    chosen = production(allowed_hosts=None, public_url="https://Credits.example.com:8443")
    assert Exposure.from_settings(chosen).allowed_hosts == frozenset({"credits.example.com"})


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("credits.example.com", 401),
        ("Credits.Example.COM:8443", 401),
        ("10.0.0.7:8000", 401),
        ("evil.example.com", 400),
        ("credits.example.com.evil.com", 400),
        ("[::1]:8000", 400),
        ("127.0.0.1", 400),
    ],
)
@pytest.mark.parametrize("origin", [None, "https://app.example.com"])
async def test_only_the_hosts_on_the_list_are_answered(host: str, status: int, origin: str | None) -> None:
    headers = {"Host": host, "Authorization": "Basic YTpi"} | ({"Origin": origin} if origin else {})
    async with client_of(production()) as client:
        reply = await client.post("/graphql", json={"query": "{ __typename }"}, headers=headers)

    assert reply.status_code == status
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_who_addresses_another_host_leaves_a_line(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    if kind == "http":
        async with client_of(production(), "evil.example.com") as client:
            await client.post("/graphql", json={"query": "{ __typename }"})
    else:
        await handshake(main.create_app(production()), host="evil.example.com")

    said = ""
    async with asyncio.timeout(5):
        while not said.endswith("}\n"):  # lines are written ten times a second
            await asyncio.sleep(0.02)
            said += capfd.readouterr().err
    line = json.loads(said.splitlines()[-1])
    assert (line["event"], line["transport"], line["caller"], line["outcome"], line["operation"]) == (
        "operation", kind, "nobody", "BAD_REQUEST", "-",
    )  # fmt: skip
    assert "evil" not in said


async def test_probes_are_answered_by_whatever_address_they_come() -> None:
    async with client_of(production(), "192.0.2.9:8000") as client:
        reply = await client.get("/healthz")

    assert (reply.status_code, reply.json()) == (200, {"alive": True})
    assert reply.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("method", "path", "asked", "status"),
    [
        ("GET", "/no-such-page", {}, 404),
        ("POST", "/healthz", {}, 405),
        ("POST", "/graphql/", {}, 404),
        ("OPTIONS", "/graphql", {"Origin": "https://app.example.com", "Access-Control-Request-Method": "POST"}, 200),
        ("OPTIONS", "/graphql", {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}, 400),
        ("GET", "/healthz", {}, 200),
    ],
)
async def test_no_answer_is_kept_or_taken_for_another_type(
    method: str, path: str, asked: dict[str, str], status: int
) -> None:
    async with client_of(production()) as client:
        reply = await client.request(method, path, headers=asked)

    assert reply.status_code == status
    assert reply.headers.get_list("x-content-type-options") == ["nosniff"]
    assert reply.headers.get_list("cache-control") == ["no-store"]


OPEN_TO_ALL = {"arbitrary_documents": "anonymous,users,services,operators"}
ASKED = "{ __schema { queryType { name } } }"


@pytest.mark.parametrize(
    ("asked", "closed", "status", "open_says"),
    [
        ({"json": {"query": ASKED}}, "introspection has been disabled", 200, '{"data":{"__schema"'),
        (
            {"json": {"query": '{ a: __typename ...F } fragment F on Query { __type(name: "Cat") { name } }'}},
            "introspection has been disabled",
            200,
            '{"data":{"a":"Query","__type":null}',
        ),
        (
            {"json": {"query": ASKED}, "headers": {"Accept": "text/event-stream"}},
            "introspection has been disabled",
            200,
            'data: {"data":{"__schema"',
        ),
        (
            {"json": {"query": "{ acount { id } }"}},
            "Cannot query field 'acount' on type 'Query'.\"",
            200,
            "Did you mean",
        ),
        ({"headers": {"Accept": "text/html"}}, "Send operations by POST.", 405, "GraphiQL"),
        ({"params": {"query": "{ __typename }"}}, "Send operations by POST.", 405, '{"data":{"__typename":"Query"}}'),
    ],
)
async def test_production_as_it_is_wired_shows_nothing_that_development_shows(
    asked: dict[str, Any], closed: str, status: int, open_says: str, tmp_path: Path
) -> None:
    method = "POST" if "json" in asked else "GET"
    async with client_of(production(**OPEN_TO_ALL)) as client:
        shut = await client.request(method, "/graphql", **asked)
    async with client_of(development(database_url="postgresql://localhost/c", data_dir=tmp_path)) as client:
        shown = await client.request(method, "/graphql", **asked)

    assert shut.status_code == status
    assert closed in shut.text
    assert open_says not in shut.text
    assert shown.status_code == 200
    assert open_says in shown.text


async def handshake(
    application: ASGIApp, *, subprotocol: str = "graphql-transport-ws", **headers: str
) -> list[Message]:
    """What is sent to a client that asks for a connection and leaves."""
    events: list[Message] = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}]
    sent: list[Message] = []

    async def receive() -> Message:
        return events.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    pairs = [(name.encode(), value.encode()) for name, value in ({"host": "credits.example.com"} | headers).items()]
    scope = {"type": "websocket", "path": "/graphql", "headers": pairs, "subprotocols": [subprotocol]}
    await application(scope, receive, send)
    return sent


async def test_production_as_it_is_wired_speaks_one_protocol_over_websocket() -> None:
    application = main.create_app(production())

    assert await handshake(application) == [{"type": "websocket.accept", "subprotocol": "graphql-transport-ws"}]
    assert await handshake(application, subprotocol="graphql-ws") == [
        {"type": "websocket.accept", "subprotocol": None},
        {"type": "websocket.close", "code": 4406, "reason": "Subprotocol not acceptable"},
    ]


@pytest.mark.parametrize(
    ("origin", "welcome"),
    [
        ("https://app.example.com", True),
        ("https://credits.example.com", True),
        ("https://10.0.0.7", True),
        ("HTTPS://Credits.Example.COM", True),
        ("http://credits.example.com", False),
        ("http://app.example.com", False),
        ("https://credits.example.com:8443", False),
        ("https://evil.example", False),
        ("chrome-extension://credits.example.com", False),
        ("null", False),
    ],
)
async def test_only_pages_of_listed_origins_and_the_servers_own_by_https_open_websockets_in_production(
    origin: str, welcome: bool
) -> None:
    [first] = await handshake(main.create_app(production()), origin=origin)

    refusal = {"type": "websocket.close", "code": 4403, "reason": "Origin not allowed"}
    assert first == ({"type": "websocket.accept", "subprotocol": "graphql-transport-ws"} if welcome else refusal)


@pytest.mark.parametrize("named", [None, "https://app.example.com"])
async def test_development_opens_websockets_to_its_own_pages_by_http(named: str | None, tmp_path: Path) -> None:
    here = development(database_url="postgresql://localhost/c", data_dir=tmp_path, allowed_origins=named)
    [first] = await handshake(main.create_app(here), host="127.0.0.1:8000", origin="http://127.0.0.1:8000")

    assert first["type"] == "websocket.accept"


async def test_a_websocket_is_refused_by_another_hosts_name() -> None:
    sent = await handshake(main.create_app(production()), host="evil.example.com")

    assert sent == [{"type": "websocket.close", "code": 4403, "reason": "Host not allowed"}]


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("https://app.example.com.evil.com", None),
        ("http://app.example.com", None),
        ("null", None),
    ],
)
async def test_only_pages_of_the_listed_origins_may_call_in_production(origin: str, allowed: str | None) -> None:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    async with client_of(production()) as client:
        reply = await client.options(
            "/graphql", headers=asked | {"Access-Control-Request-Headers": "content-type,authorization"}
        )
        by_get = await client.options("/graphql", headers=asked | {"Access-Control-Request-Method": "GET"})

    assert reply.headers.get("access-control-allow-origin") == allowed
    assert reply.status_code == (200 if allowed else 400)
    assert by_get.status_code == 400


@pytest.mark.parametrize("given", ["everybody", "users,", ""])
def test_kinds_of_callers_are_named_as_they_are(given: str) -> None:
    with pytest.raises(ValueError, match="arbitrary_documents"):
        development(free_documents=given)


def test_free_documents_may_be_nobodys() -> None:
    assert Exposure.from_settings(production(free_documents="nobody")).arbitrary_documents == ()
    assert Exposure.from_settings(development(free_documents="services")).arbitrary_documents == ("services",)
