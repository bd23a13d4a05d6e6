"""What a production server exposes, what a development server exposes, and which settings production refuses."""

import asyncio
import json
import secrets
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Message

from app.errors import Misconfigured
from app.main import create_app
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

WEAK_PASSWORDS = ("a", "123456", "hunter2", "changeme1", "correct-horse-1", "3c9f1b7aa0", "ab" * 16, "1234567" * 4)
"""Too short, or with too few distinct characters."""


def production(**changed: Any) -> Settings:
    return Settings(**PRODUCTION | changed)


def development(**changed: Any) -> Settings:
    return Settings(**changed)


def client_of(settings: Settings, host: str = "credits.example.com") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(create_app(settings)), base_url=f"http://{host}")


def test_production_is_closed_and_the_summary_says_so() -> None:
    exposure = Exposure.from_settings(production())

    assert (exposure.introspection, exposure.get_queries) == (False, False)
    assert exposure.allowed_hosts == frozenset({"credits.example.com", "10.0.0.7"})
    assert exposure.allowed_origins == ("https://app.example.com",)
    assert exposure.arbitrary_documents == ("services", "operators")
    assert exposure.summary == (
        "PRODUCTION: introspection, GraphiQL, suggestions and GET are off; hosts: 10.0.0.7, credits.example.com; "
        "other origins: https://app.example.com; arbitrary documents: services, operators; persisted documents: NONE, "
        "so other callers can send no operation: set KNOWN_DOCUMENTS."
    )


def test_development_is_open_and_the_summary_says_so() -> None:
    exposure = Exposure.from_settings(Settings())

    assert (exposure.introspection, exposure.get_queries, exposure.allowed_hosts, exposure.allowed_origins) == (
        True,
        True,
        None,
        ("*",),
    )
    assert exposure.arbitrary_documents == ("anonymous", "users", "services", "operators")
    assert exposure.summary == (
        "DEVELOPMENT: introspection, GraphiQL, suggestions, GET, any origin, arbitrary documents, development "
        "tokens are OPEN. Set ENVIRONMENT=production before others can reach this server."
    )


def test_the_summary_omits_what_the_settings_close_in_development() -> None:
    settings = development(allowed_origins="https://app.example.com", arbitrary_documents="nobody")
    assert Exposure.from_settings(settings).summary.startswith(
        "DEVELOPMENT: introspection, GraphiQL, suggestions, GET, development tokens are OPEN."
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ledger_key": "ab" * 32}, "LEDGER_KEY is not random"),
        ({"ledger_key": "0123456789abcdef" * 4}, "LEDGER_KEY is not random"),
        ({"jwt_issuer": "http://localhost/development"}, "JWT_ISSUER is the development issuer"),
        ({"database_url": "postgresql://credits:credits@db/credits"}, "DATABASE_URL has a password"),
        ({"database_url": "postgresql://alice:alice@db/credits"}, "DATABASE_URL has a password"),
        ({"database_url": "postgresql://alice:Pass%77ord@db/credits"}, "DATABASE_URL has a password"),
        *(
            ({"database_url": f"postgresql://credits:{word}@db/c"}, "DATABASE_URL has a password")
            for word in WEAK_PASSWORDS
        ),
        ({"database_url": "postgresql://db/c?user=credits&password=hunter2"}, "DATABASE_URL has a password"),
        ({"database_url": "postgresql://a:hunter2@localhost/c?host=10.0.0.9"}, "DATABASE_URL has a password"),
        ({"database_url": "postgresql://a:changeme@127.0.0.1/c"}, "DATABASE_URL has a password"),
        ({"migration_database_url": "postgresql://a:hunter2@db/c"}, "MIGRATION_DATABASE_URL has a password"),
        ({"jwks_url": None, "jwt_hs256_secret": KEY}, "LEDGER_KEY is also used for another setting"),
        ({"stripe_webhook_secret": KEY.upper()}, "LEDGER_KEY is also used for another setting"),
        ({"database_url": f"postgresql://credits:{KEY}@db/c"}, "LEDGER_KEY is also used for another setting"),
        ({"payment_provider": "stripe"}, "STRIPE_WEBHOOK_SECRET is not set"),
        ({"allowed_hosts": None}, "ALLOWED_HOSTS is not set"),
        ({"allowed_hosts": "*"}, 'ALLOWED_HOSTS: "\\*" is not a host name'),
        ({"allowed_hosts": "*.example.com"}, "is not a host name"),
        ({"allowed_hosts": "credits.example.com:443"}, "is not a host name"),
        ({"allowed_origins": "*"}, 'ALLOWED_ORIGINS is "\\*"'),
        ({"allowed_origins": "https://app.example.com,*"}, 'ALLOWED_ORIGINS is "\\*"'),
        ({"allowed_origins": "app.example.com"}, "is not an origin"),
        ({"allowed_origins": "https://app.example.com/"}, "is not an origin"),
    ],
)
def test_production_refuses_weak_secrets_and_missing_or_wide_lists(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(Misconfigured, match=message):
        create_app(production(**changed))


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
def test_a_database_password_may_be_short_on_this_machine(url: str) -> None:
    assert Exposure.from_settings(production(database_url=url)).allowed_hosts == frozenset(
        {"credits.example.com", "10.0.0.7"}
    )


def test_production_refuses_a_missing_or_short_ledger_key() -> None:
    for key in (None, "", KEY[:62], "no hex"):
        with pytest.raises(Misconfigured):
            create_app(production(ledger_key=key))


def test_the_host_of_the_public_url_is_allowed_if_no_host_is_listed() -> None:
    settings = production(allowed_hosts=None, public_url="https://Credits.example.com:8443")
    assert Exposure.from_settings(settings).allowed_hosts == frozenset({"credits.example.com"})


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
async def test_only_allowed_hosts_are_answered(host: str, status: int, origin: str | None) -> None:
    headers = {"Host": host, "Authorization": "Basic YTpi"} | ({"Origin": origin} if origin else {})
    async with client_of(production()) as client:
        reply = await client.post("/graphql", json={"query": "{ __typename }"}, headers=headers)

    assert reply.status_code == status
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("transport", ["http", "websocket"])
async def test_a_request_for_another_host_is_logged(transport: str, capfd: pytest.CaptureFixture[str]) -> None:
    if transport == "http":
        async with client_of(production(), "evil.example.com") as client:
            await client.post("/graphql", json={"query": "{ __typename }"})
    else:
        await handshake(create_app(production()), host="evil.example.com")

    log = ""
    async with asyncio.timeout(5):
        while not log.endswith("}\n"):  # lines are written ten times per second
            await asyncio.sleep(0.02)
            log += capfd.readouterr().err
    line = json.loads(log.splitlines()[-1])
    assert (line["event"], line["transport"], line["caller"], line["outcome"], line["operation"]) == (
        "operation", transport, "anonymous", "BAD_REQUEST", "-",
    )  # fmt: skip
    assert "evil" not in log


async def test_health_probes_are_answered_for_any_host() -> None:
    async with client_of(production(), "192.0.2.9:8000") as client:
        reply = await client.get("/healthz")

    assert (reply.status_code, reply.json()) == (200, {"alive": True})
    assert reply.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/no-such-page", {}, 404),
        ("POST", "/healthz", {}, 405),
        ("POST", "/graphql/", {}, 404),
        ("OPTIONS", "/graphql", {"Origin": "https://app.example.com", "Access-Control-Request-Method": "POST"}, 200),
        ("OPTIONS", "/graphql", {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}, 400),
        ("GET", "/healthz", {}, 200),
    ],
)
async def test_every_response_has_the_security_headers(
    method: str, path: str, headers: dict[str, str], status: int
) -> None:
    async with client_of(production()) as client:
        reply = await client.request(method, path, headers=headers)

    assert reply.status_code == status
    assert reply.headers.get_list("x-content-type-options") == ["nosniff"]
    assert reply.headers.get_list("cache-control") == ["no-store"]


ARBITRARY_DOCUMENTS = {"arbitrary_documents": "anonymous,users,services,operators"}
INTROSPECTION = "{ __schema { queryType { name } } }"


@pytest.mark.parametrize(
    ("request_", "in_production", "status", "in_development"),
    [
        ({"json": {"query": INTROSPECTION}}, "introspection has been disabled", 200, '{"data":{"__schema"'),
        (
            {"json": {"query": '{ a: __typename ...F } fragment F on Query { __type(name: "Cat") { name } }'}},
            "introspection has been disabled",
            200,
            '{"data":{"a":"Query","__type":null}',
        ),
        (
            {"json": {"query": INTROSPECTION}, "headers": {"Accept": "text/event-stream"}},
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
async def test_production_hides_the_schema_and_get_that_development_shows(
    request_: dict[str, Any], in_production: str, status: int, in_development: str, tmp_path: Path
) -> None:
    method = "POST" if "json" in request_ else "GET"
    async with client_of(production(**ARBITRARY_DOCUMENTS)) as client:
        closed = await client.request(method, "/graphql", **request_)
    async with client_of(development(database_url="postgresql://localhost/c", data_dir=tmp_path)) as client:
        shown = await client.request(method, "/graphql", **request_)

    assert closed.status_code == status
    assert in_production in closed.text
    assert in_development not in closed.text
    assert shown.status_code == 200
    assert in_development in shown.text


async def handshake(
    application: ASGIApp, *, subprotocol: str = "graphql-transport-ws", **headers: str
) -> list[Message]:
    """The messages to a client that opens a WebSocket and disconnects."""
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


async def test_production_accepts_one_websocket_subprotocol() -> None:
    application = create_app(production())

    assert await handshake(application) == [{"type": "websocket.accept", "subprotocol": "graphql-transport-ws"}]
    assert await handshake(application, subprotocol="graphql-ws") == [
        {"type": "websocket.accept", "subprotocol": None},
        {"type": "websocket.close", "code": 4406, "reason": "Subprotocol not acceptable"},
    ]


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
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
async def test_production_accepts_websockets_from_allowed_origins_and_its_own_hosts_by_https(
    origin: str, is_allowed: bool
) -> None:
    [first] = await handshake(create_app(production()), origin=origin)

    refusal = {"type": "websocket.close", "code": 4403, "reason": "Origin not allowed"}
    assert first == ({"type": "websocket.accept", "subprotocol": "graphql-transport-ws"} if is_allowed else refusal)


@pytest.mark.parametrize("allowed_origins", [None, "https://app.example.com"])
async def test_development_accepts_websockets_from_its_own_host_by_http(
    allowed_origins: str | None, tmp_path: Path
) -> None:
    settings = development(database_url="postgresql://localhost/c", data_dir=tmp_path, allowed_origins=allowed_origins)
    [first] = await handshake(create_app(settings), host="127.0.0.1:8000", origin="http://127.0.0.1:8000")

    assert first["type"] == "websocket.accept"


async def test_a_websocket_for_another_host_is_refused() -> None:
    sent = await handshake(create_app(production()), host="evil.example.com")

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
async def test_production_allows_pages_of_the_allowed_origins_only(origin: str, allowed: str | None) -> None:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    async with client_of(production()) as client:
        reply = await client.options(
            "/graphql", headers=headers | {"Access-Control-Request-Headers": "content-type,authorization"}
        )
        by_get = await client.options("/graphql", headers=headers | {"Access-Control-Request-Method": "GET"})

    assert reply.headers.get("access-control-allow-origin") == allowed
    assert reply.status_code == (200 if allowed else 400)
    assert by_get.status_code == 400


@pytest.mark.parametrize("value", ["everybody", "users,", ""])
def test_an_unknown_kind_of_caller_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="arbitrary_documents"):
        development(arbitrary_documents=value)


def test_arbitrary_documents_may_be_allowed_for_nobody() -> None:
    assert Exposure.from_settings(production(arbitrary_documents="nobody")).arbitrary_documents == ()
    assert Exposure.from_settings(development(arbitrary_documents="services")).arbitrary_documents == ("services",)
