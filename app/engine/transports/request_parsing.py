"""Reads a GraphQL request from a body, a URL or a WebSocket message, within limits. It executes nothing."""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import parse_qsl

from app import exact_json
from app.auth.caller import Caller, CallerKind
from app.engine.execution import GraphQLRequest
from app.wording import quote_value

MAX_USER_BODY_BYTES: Final = 64 * 1024
MAX_SERVICE_BODY_BYTES: Final = 1024 * 1024
MAX_URL_FIELDS: Final = 20
MAX_VARIABLES: Final = 100
MAX_VALUES: Final = 50_000
"""The maximum number of values in all variables, including lists and objects. 1,000 charges may have 50 values each."""
MAX_NESTING: Final = 16
"""The maximum nesting of variables.

Block settings may have 8 levels. Inside a list of input objects these are 11 levels.
"""

_DOCUMENT_ID: Final = re.compile("(?:sha256:)?([0-9a-f]{64})", re.IGNORECASE)

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class BodyTooLarge(Exception):
    """The body exceeds the limit of this caller."""


class MalformedRequest(Exception):
    """The input is not a GraphQL request. The message says why, and is sent to the client."""


class InvalidDocumentId(MalformedRequest):
    """The request identifies its document in a form that is not supported."""


class ClientDisconnected(Exception):
    """The client disconnected before its request was complete."""


def max_body_bytes(caller: Caller | None) -> int:
    """Return the maximum size of a body from this caller. Services send batches, and operators send rate cards."""
    return MAX_USER_BODY_BYTES if caller is None or caller.kind is CallerKind.USER else MAX_SERVICE_BODY_BYTES


async def read_body(receive: Receive, limit: int) -> bytes:
    """Return the whole body. Content-Length is not trusted.

    Raises: BodyTooLarge: the body exceeds `limit` bytes; ClientDisconnected.
    """
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        chunk: bytes = message.get("body", b"")
        if len(body) + len(chunk) > limit:
            raise BodyTooLarge
        body = body + chunk if body else chunk
        if not message.get("more_body", False):
            return body


def parse_body(body: bytes) -> GraphQLRequest:
    """Raises: MalformedRequest."""
    try:
        # orjson refuses invalid UTF-8, NaN, numbers that a double cannot represent, and more than 1,024 levels of
        # nesting.
        parameters = exact_json.loads(body)
    except ValueError as error:
        raise MalformedRequest(f"The body is not JSON in UTF-8: {error}.") from None
    if isinstance(parameters, list):
        raise MalformedRequest(
            "Send one operation per request: batches are not supported. For charges use chargeBatch."
        )
    return parse_request(parameters)


def parse_query_string(query_string: bytes, limit: int) -> GraphQLRequest:
    """Parse the URL. Variables and extensions are JSON.

    Raises: BodyTooLarge: it exceeds `limit` bytes; MalformedRequest.
    """
    if len(query_string) > limit:
        raise BodyTooLarge
    if query_string.count(b"&") >= MAX_URL_FIELDS:
        raise MalformedRequest(f"The URL may have at most {MAX_URL_FIELDS} parameters.")
    try:
        pairs = parse_qsl(query_string.decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError:
        raise MalformedRequest("The parameters of the URL are not percent-encoded UTF-8.") from None
    parameters: dict[str, object] = dict(pairs)
    if len(parameters) < len(pairs):
        raise MalformedRequest("Send each parameter of the URL once.")
    for name in ("variables", "extensions"):
        try:
            parameters[name] = exact_json.loads(text) if (text := str(parameters.get(name, ""))) else None
        except ValueError as error:
            raise MalformedRequest(f"The parameter {name} of the URL is not JSON: {error}.") from None
    return parse_request(parameters)


def parse_request(parameters: object) -> GraphQLRequest:
    """Parse the parameters of GraphQL over HTTP, and ignore others. Raises: MalformedRequest, InvalidDocumentId."""
    if not isinstance(parameters, dict):
        raise MalformedRequest('Send a JSON object: {"query": "…", "variables": {…}, "operationName": "…"}.')
    query, variables, name = parameters.get("query"), parameters.get("variables"), parameters.get("operationName")
    extensions = parameters.get("extensions")
    if not (variables is None or isinstance(variables, dict)):
        raise MalformedRequest("variables must be an object or null.")
    if variables:
        _check_size(variables)
    if not (name is None or isinstance(name, str)):
        raise MalformedRequest("operationName must be a string or null.")
    if not (extensions is None or isinstance(extensions, dict)):
        raise MalformedRequest("extensions must be an object or null.")
    document_hash = _document_hash(parameters.get("documentId"), (extensions or {}).get("persistedQuery"))
    if document_hash is not None and query is None:
        query = ""
    if not isinstance(query, str):
        raise MalformedRequest("query must be a string: the GraphQL document.")
    return GraphQLRequest(query, variables, name, document_hash)


def _document_hash(document_id: object, persisted_query: object) -> str | None:
    """Return the SHA-256 of the document in `documentId` or Apollo's extension, in lower-case hex.

    Returns None if neither was sent.
    Raises: InvalidDocumentId: one is malformed, or they differ.
    """
    if document_id is None:
        return None if persisted_query is None else _apollo_hash(persisted_query)
    found = _DOCUMENT_ID.fullmatch(document_id) if isinstance(document_id, str) else None
    if found is None:
        raise InvalidDocumentId(
            'documentId must be "sha256:<64 hex digits>": the SHA-256 of the document\'s exact text.'
        )
    document_hash = found[1].lower()
    if persisted_query is not None and _apollo_hash(persisted_query) != document_hash:
        raise InvalidDocumentId("documentId and extensions.persistedQuery differ: send one of them, or equal values.")
    return document_hash


def _apollo_hash(persisted_query: object) -> str:
    match persisted_query:
        case {"version": int(version)} if version != 1:
            raise InvalidDocumentId(
                f"extensions.persistedQuery has version {quote_value(version)}, which is not supported: send version 1."
            )
        case {"version": 1, "sha256Hash": str(document_hash)} if found := _DOCUMENT_ID.fullmatch(document_hash):
            return found[1].lower()
    raise InvalidDocumentId('extensions.persistedQuery must be {"version": 1, "sha256Hash": "<64 hex digits>"}.')


def _check_size(variables: dict[str, Any]) -> None:
    """Raises: MalformedRequest: there are too many values or levels."""
    if len(variables) > MAX_VARIABLES:
        raise MalformedRequest(f"At most {MAX_VARIABLES} variables may be sent; the request has {len(variables):,}.")
    if _remaining_values(variables, MAX_NESTING, MAX_VALUES) < 0:
        raise MalformedRequest(
            f"variables may contain at most {MAX_VALUES:,} values, nested at most {MAX_NESTING} levels deep."
        )


def _remaining_values(container: dict[str, Any] | list[Any], levels: int, remaining: int) -> int:
    """Return how many of the `remaining` values are left after those in `container`.

    The result is negative if there are too many values or levels.
    """
    remaining -= len(container)
    if remaining < 0 or not levels:
        return -1
    for value in container if isinstance(container, list) else container.values():
        kind = type(value)
        if kind is dict or kind is list:
            remaining = _remaining_values(value, levels - 1, remaining)
            if remaining < 0:
                break
    return remaining
