"""Callers of every kind with real credentials, the three transports, and documents generated from the schema."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
from graphql import (
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLUnionType,
    get_named_type,
    is_leaf_type,
    is_required_argument,
    is_required_input_field,
)

from app.api.schema import build_schema
from app.auth import service_keys
from app.auth.authenticator import Authenticator
from app.auth.caller import Scope
from app.auth.development_keys import DevelopmentKeys
from app.auth.jwks import StaticKeys
from app.auth.service_key_cache import ServiceKeyCache
from app.auth.tokens import TokenRequirements, TokenVerifier
from app.engine.transports.http import GraphQLOverHTTP
from app.engine.transports.websocket import GraphQLOverWebSocket
from app.settings import Settings
from tests.api.conftest import ENGINE, Api
from tests.engine.transports.all_transports import first_item
from tests.engine.transports.websocket_client import Client, open_accepted_connection

SCHEMA = build_schema()._schema
CALLERS = (
    "anonymous", "user", "user with organisation", "key: charge", "key: read", "key: admin", "key: admin and charge",
    "operator",
)  # fmt: skip
ERROR_WAIT_SECONDS = 0.5
"""Longer than a subscription takes to be refused."""
TRANSPORTS = ("HTTP", "WebSocket", "SSE")


def operations() -> Iterator[tuple[str, str, GraphQLField]]:
    """Every root field: query, mutation or subscription, its name, and its definition."""
    for kind, root in (
        ("query", SCHEMA.query_type), ("mutation", SCHEMA.mutation_type), ("subscription", SCHEMA.subscription_type),
    ):  # fmt: skip
        assert root is not None
        for name, field in root.fields.items():
            yield kind, name, field


def value_of(kind: GraphQLInputType) -> Any:
    """A small valid value of this type."""
    if isinstance(kind, GraphQLNonNull):
        return value_of(kind.of_type)
    if isinstance(kind, GraphQLList):
        return [value_of(kind.of_type)]
    if isinstance(kind, GraphQLEnumType):
        return next(iter(kind.values))
    if isinstance(kind, GraphQLInputObjectType):
        return {name: value_of(field.type) for name, field in kind.fields.items() if is_required_input_field(field)}
    values = {
        "Boolean": True, "Int": 1, "Long": 1, "Credits": 1_000, "Float": 1.0, "JSON": {}, "RateCardDocument": {},
        "DateTime": "2027-01-01T00:00:00Z",
    }  # fmt: skip
    return values.get(kind.name, "x")


def arguments_of(field: GraphQLField) -> dict[str, Any]:
    """The required variables of this field."""
    return {name: value_of(argument.type) for name, argument in field.args.items() if is_required_argument(argument)}


def selection_of(field: GraphQLField) -> str:
    kind = get_named_type(field.type)
    if is_leaf_type(kind):
        return ""
    return "{ __typename ... on UserError { message } }" if isinstance(kind, GraphQLUnionType) else "{ __typename }"


def document_of(kind: str, name: str, field: GraphQLField, variables: Mapping[str, Any]) -> str:
    """An operation with only this field and these variables."""
    declared = ", ".join(f"${one}: {field.args[one].type}" for one in variables)
    given = ", ".join(f"{one}: ${one}" for one in variables)
    return (
        f"{kind}{f'({declared})' if declared else ''} {{ {name}{f'({given})' if given else ''} {selection_of(field)} }}"
    )


@dataclass(frozen=True, slots=True)
class Transports:
    """The transports of one process, and the credentials of all callers."""

    http: GraphQLOverHTTP
    sockets: GraphQLOverWebSocket
    credentials: Mapping[str, str | None]

    async def execute(self, transport: str, caller: str, query: str, **variables: Any) -> dict[str, Any]:
        """The response over this transport: `data` or `errors`; empty for a subscription without an item."""
        credential = self.credentials[caller]
        if transport == "HTTP":
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app=self.http), base_url="http://credits.example"
            ) as client:
                headers = {"authorization": f"Bearer {credential}"} if credential else {}
                answer = await client.post("/graphql", json={"query": query, "variables": variables}, headers=headers)
                response: dict[str, Any] = answer.json()
                return response
        if transport == "SSE":
            request = first_item(self.http, {"query": query, "variables": variables}, bearer=credential)
            if not query.startswith("subscription"):
                return (await request)[2]
            try:
                async with asyncio.timeout(ERROR_WAIT_SECONDS):
                    return (await request)[2]
            except TimeoutError:  # it was accepted and has no item yet
                return {}
        async with open_accepted_connection(self.sockets) as socket:
            await socket.init({"token": credential} if credential else None)
            await _subscribe(socket, query, variables)
            # Sent after it and answered without the database: by then an error has arrived.
            await socket.subscribe("second", "{ __typename }")
            return await _first_response(socket, wait=not query.startswith("subscription"))

    async def read_subscription(self, caller: str, query: str, **variables: Any) -> list[Any]:
        """All messages of a subscription until it ends."""
        async with open_accepted_connection(self.sockets) as socket:
            await socket.init({"token": self.credentials[caller]})
            await _subscribe(socket, query, variables)
            messages: list[Any] = []
            while not messages or messages[-1]["type"] == "next":
                messages.append(await socket.next_message())
            return messages


async def _subscribe(socket: Client, query: str, variables: Mapping[str, Any]) -> None:
    await socket.send({"id": "first", "type": "subscribe", "payload": {"query": query, "variables": variables}})


async def _first_response(socket: Client, *, wait: bool) -> dict[str, Any]:
    response: dict[str, Any] = {}
    second_done = False
    while not (response and second_done) and not (second_done and not wait):
        message = await socket.next_message()
        if message["id"] == "second":
            second_done = second_done or message["type"] == "complete"
        elif message["type"] == "next":
            response = response or message["payload"]
        else:
            response = response or ({"errors": message["payload"]} if message["type"] == "error" else {"data": None})
    return response


@asynccontextmanager
async def open_transports(api: Api) -> AsyncIterator[Transports]:
    """The transports over `api`."""
    own, settings = DevelopmentKeys.generate(), Settings()
    ring = ServiceKeyCache()
    authenticator = Authenticator(
        TokenVerifier(StaticKeys([own.verification_key()]), TokenRequirements.from_settings(settings)), ring
    )
    hour = timedelta(hours=1)
    credentials: dict[str, str | None] = {
        "anonymous": None,
        "user": own.token("alice", settings, hour),
        "user with organisation": own.token("alice", settings, hour, organisations=["guild"]),
        "operator": own.token("olivia", settings, hour, roles=[settings.jwt_admin_role]),
    }
    for scope in Scope:
        credentials[f"key: {scope}"] = await service_keys.create_key(f"by {scope}", [scope])
    both = await service_keys.create_key("by both", [Scope.ADMIN, Scope.CHARGE])
    credentials["key: admin and charge"] = both
    sockets = GraphQLOverWebSocket(ENGINE, authenticator, api.state)
    yield Transports(GraphQLOverHTTP(ENGINE, authenticator, api.state, graphiql=False), sockets, credentials)
    await authenticator.close()
